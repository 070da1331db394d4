"""Crops and flips: boxes within their size and budget, mirror images of a real detector with the right columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore import create, testing
from larstore.errors import ConfigError
from preprocess.detector import load_detector
from train.streaming.crops import BudgetCrop, RandomCrop
from train.streaming.flips import Flip, Mirror, make_flip
from train.streaming.steps import Sample
from train.streaming.transforms import make_transforms

SIDES = st.tuples(*[st.none() | st.integers(1, 70)] * 3)


def sample_of(n=80, seed=0, spread=60, tpc=1):
    random = np.random.default_rng(seed)
    coords = np.unique(random.integers(5, 5 + spread, (n, 3)), axis=0)
    n = len(coords)
    charge = random.normal(0, 5000, (n, 3)).astype(np.float32)
    truth = random.choice([0.0, 1.0, 2500.0], (n, 1)).astype(np.float32)
    more = random.integers(0, 5 + spread, (30, 3))
    return Sample(coords, charge, truth, np.ones_like(truth), more, np.ones((30, 1), np.float32), tpc)


def rows(sample):
    return {tuple(c): tuple(f) for c, f in zip(sample.coords.tolist(), sample.features.tolist(), strict=True)}


@settings(deadline=None, max_examples=60)
@given(SIDES, st.integers(0, 1000), st.integers(1, 60))
def test_a_crop_is_a_box_of_its_size(size, seed, spread):
    sample = sample_of(seed=seed, spread=spread)
    result = RandomCrop(size)(sample, np.random.default_rng(seed))
    assert len(result)
    low, high = result.coords.min(axis=0), result.coords.max(axis=0)
    for axis, side in enumerate(size):
        if side is not None:
            assert high[axis] - low[axis] < side
        if side is None or side >= spread:
            assert low[axis] == sample.coords[:, axis].min() or len(result) < len(sample)
    assert rows(result).items() <= rows(sample).items()
    # Nothing inside the kept bounds is missing, and truth voxels there are kept.
    inside = ((sample.coords >= low) & (sample.coords <= high)).all(axis=1)
    assert inside.sum() == len(result)
    inside = ((sample.truth_coords >= low) & (sample.truth_coords <= high)).all(axis=1)
    kept = {tuple(c) for c in result.truth_coords.tolist()}
    assert {tuple(c) for c in sample.truth_coords[inside].tolist()} <= kept
    for axis, side in enumerate(size):
        if side is not None and np.ptp(sample.coords[:, axis]) >= side and len(result.truth_coords):
            assert np.ptp(result.truth_coords[:, axis]) < side


def test_a_crop_leaves_what_is_smaller_and_nothing():
    sample = sample_of(spread=20)
    assert rows(RandomCrop((30, None, 20))(sample, np.random.default_rng(0))) == rows(sample)
    empty = sample.kept(lambda coords: np.zeros(len(coords), bool))
    assert len(RandomCrop((3, 3, 3))(empty, np.random.default_rng(0))) == 0


def test_every_voxel_can_be_in_a_crop():
    sample, random, seen = sample_of(), np.random.default_rng(0), set()
    for _ in range(800):
        seen |= rows(RandomCrop((20, 20, 20))(sample, random)).keys()
    assert seen == rows(sample).keys()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(0, 1000))
def test_a_budget_crop_is_a_box_of_as_many_voxels_as_fit(most, seed):
    sample = sample_of(seed=seed)
    result = BudgetCrop(most)(sample, np.random.default_rng(seed))
    assert 1 <= len(result) <= most
    if len(sample) <= most:
        assert result is sample
        return
    low, high = result.coords.min(axis=0), result.coords.max(axis=0)
    assert ((sample.coords >= low) & (sample.coords <= high)).all(axis=1).sum() == len(result)
    again = BudgetCrop(most)(sample, np.random.default_rng(seed))
    assert rows(again) == rows(result)


class Always:
    """Draws what flips every axis."""

    def random(self):
        return 0.0


@pytest.mark.parametrize(
    ("axes", "columns"), [((0,), [0, 1, 2]), ((1,), [1, 0, 2]), ((2,), [1, 0, 2]), ((0, 1, 2), [0, 1, 2])]
)
def test_a_flip_mirrors_voxels_truth_and_planes(axes, columns):
    sample, size = sample_of(), (200, 100, 90)
    flip = Flip(axes, {1: Mirror(size, (1, 0, 2))})
    result = flip(sample, Always())
    expected = sample.coords.copy()
    expected_truth = sample.truth_coords.copy()
    for axis in axes:
        for row in (*expected, *expected_truth):
            row[axis] = size[axis] - 1 - row[axis]
    np.testing.assert_array_equal(result.coords, expected)
    np.testing.assert_array_equal(result.truth_coords, expected_truth)
    np.testing.assert_array_equal(result.features, sample.features[:, columns])
    np.testing.assert_array_equal(result.target, sample.target)
    twice = flip(result, Always())
    np.testing.assert_array_equal(twice.coords, sample.coords)
    np.testing.assert_array_equal(twice.features, sample.features)


def test_each_axis_is_flipped_half_of_the_time():
    sample, random = sample_of(), np.random.default_rng(0)
    flip = Flip((0, 2), {1: Mirror((100, 100, 100), (1, 0, 2))})
    found = [flip(sample, random).coords[0].tolist() for _ in range(400)]
    for axis, flipped in ((0, True), (1, False), (2, True)):
        share = np.mean([c[axis] != sample.coords[0, axis] for c in found])
        assert 0.4 < share < 0.6 if flipped else share == 0


@pytest.mark.parametrize("name", ["protodune-sp", "protodune-sp-2021"])
def test_mirror_images_of_real_planes(tmp_path, name):
    """Their induction planes are at ± the same angle; the mirrored wires of u are those of v."""
    detector = load_detector(name)
    create(tmp_path / "s.zarr", geometry=detector.geometry(), provenance={})
    store = larstore.open(tmp_path / "s.zarr")
    flip = make_flip(["x", "z"], store, [1, 2])  # a TPC on either side
    assert flip.axes == (0, 2)
    for tpc in (1, 2):
        frame = store.geometry.tpcs[tpc]
        assert flip.mirrors[tpc].partner == (1, 0, 2)
        assert flip.mirrors[tpc].size == (-(-frame.n_ticks // 8), -(-frame.n_y // 4), -(-frame.n_z // 4))


def test_planes_without_a_mirror_image_are_refused(tmp_path):
    geometry = testing.make_geometry()
    turned = geometry.wires["plane"] == 0
    geometry.wires["head"][turned, 2] += 300.0  # u at +30°, v and w at 0°
    create(tmp_path / "s.zarr", geometry=geometry, provenance={})
    store = larstore.open(tmp_path / "s.zarr")
    with pytest.raises(
        ConfigError, match=r"s\.zarr: data\.flips \['z'\]: the wire planes u, v, w of TPC 1.*Fix: data\.flips: \[x\]"
    ):
        make_flip(["z"], store, [1])
    assert make_flip(["x"], store, [1]).mirrors[1].partner is None


def test_steps_of_training_only(tmp_path):
    from train.schema import DataConfig

    data = DataConfig(data_path="a", crop=(9, None, 9), flips=["x"], coord_lim=(None, (0, 9), None), noise={"sd": 1})
    flip = Flip((0,), {})
    names = [type(step).__name__ for step in make_transforms(data, training=True, flip=flip)]
    assert names == ["CoordLimits", "RandomCrop", "Flip", "Noise", "ChargeInput"]
    assert [type(step).__name__ for step in make_transforms(data, training=False, flip=flip)] == ["ChargeInput"]
    for wrong, message in (
        ({"crop": (0, 1, 1)}, "greater than or equal to 1"),
        ({"flips": ["x", "x"]}, "each axis once"),
    ):
        with pytest.raises(ValueError, match=message):
            DataConfig(data_path="a", **wrong)


def test_a_whole_configuration_of_random_steps(tmp_path, copy_of_store):
    """Crops, flips and noise of a batch are those of the images one at a time, whatever is beside them."""
    from train.config import make_config
    from train.streaming.loaders import make_loader

    path = copy_of_store(tmp_path / "s.zarr", n_files=4, n_events=1, n_voxels=90)

    def images(batch_size, workers=0):
        config = make_config(
            {
                "output_dir": "out",
                "data": {
                    "data_path": str(path), "train_i": [0, 9], "batch_size": batch_size, "full_y": True,
                    "crop": [80, None, 40], "flips": ["x", "y", "z"], "noise": {"sd": 5}, "num_workers": workers,
                    "start_method": "fork",
                },
                "model": {"name": "cellnet_binary"},
            }
        )  # fmt: skip
        found = {}
        for batch in make_loader(config, "train"):
            for i, key in enumerate(batch["keys"]):
                mine, of_truth = batch["coords"][:, 3] == i, batch["truth_coords"][:, 3] == i
                found[key] = (
                    batch["coords"][mine][:, :3].tolist(),
                    batch["features"][mine].tolist(),
                    batch["truth_coords"][of_truth][:, :3].tolist(),
                )
        return found

    one, four = images(1), images(4)
    assert one == four == images(2, workers=2)
    store = larstore.open(path)
    for key, (coords, _, truth) in one.items():
        image = store.image(*key)
        tiled = {tuple(c) for c in image.coords.tolist()} & {tuple(c) for c in image.truth_voxels[0].tolist()}
        assert 0 < len(coords) < 90
        assert len({tuple(c) for c in coords} & {tuple(c) for c in truth}) <= len(tiled)
        assert {tuple(c) for c in truth} & {tuple(c) for c in coords} or not truth
