"""`ImageStream` on a small store: right arrays, right order under any number of workers, exact continuation."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore import testing
from larstore.errors import ConfigError
from larstore.reading import ShardDamageError
from train.streaming.reading import ImageReader, read_rows, read_voxels
from train.streaming.samples import as_batch
from train.streaming.steps import together
from train.streaming.stream import ImageStream, StreamLoader
from train.streaming.transforms import ChargeInput, CoordLimits, Noise, Scale, Threshold, ZSegments

N_IMAGES = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "s.zarr"
    return larstore.open(testing.make_store(path, n_files=7, n_events=1, tpcs=(1, 5), n_voxels=120))


def keys_of(loader, epochs=1):
    return [[batch["keys"] for batch in loader] for _ in range(epochs)]


def test_a_batch_holds_the_images_as_stored(store):
    stream = ImageStream(store.select(), batch_size=4, max_voxels=400, seed=2)
    seen = 0
    for number, batch in enumerate(stream):
        assert batch["number"] == number
        assert len(batch["keys"]) <= 3  # 4 images would exceed the voxel budget
        offsets = batch["offsets"].tolist()
        assert offsets[0] == 0
        assert offsets[-1] == len(batch["coords"])
        for i, key in enumerate(batch["keys"]):
            image = store.image(*key)
            part = slice(offsets[i], offsets[i + 1])
            np.testing.assert_array_equal(batch["coords"][part, :3], image.coords)
            assert (batch["coords"][part, 3] == i).all()
            np.testing.assert_array_equal(batch["features"][part], image.charge)
            np.testing.assert_array_equal(batch["target"][part, 0], image.truth)
            seen += 1
        assert batch["coords"].dtype == torch.int64
        assert {batch[name].dtype for name in ("features", "target", "weight")} == {torch.float32}
        assert (batch["weight"] == 1).all()
    assert seen == N_IMAGES


def test_epochs_differ_and_hold_every_image_once(store):
    stream = ImageStream(store.select(), batch_size=3)
    epochs = keys_of(StreamLoader(stream), 3)
    for epoch in epochs:
        assert sorted(key for batch in epoch for key in batch) == sorted(store.index.index.tolist())
    ordered = keys_of(ImageStream(store.select(), batch_size=3, shuffle=False), 2)
    assert ordered[0] == ordered[1]
    assert [key for batch in ordered[0] for key in batch] == store.index.index.tolist()


def test_large_images_are_shuffled_from_epoch_to_epoch(store, monkeypatch):
    monkeypatch.setattr("train.streaming.plans.epoch_order", lambda counts, **k: order(counts, **k, run_voxels=100))
    from train.streaming.batches import epoch_order as order

    first, second = keys_of(ImageStream(store.select(), batch_size=3), 2)
    assert first != second


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_change_nothing(store, method):
    def loader(workers):
        return StreamLoader(ImageStream(store.select(), batch_size=2, seed=5), workers, method)

    alone, shared = loader(0), loader(2)
    for _ in range(2):  # workers stay for the second epoch
        for a, b in zip(alone, shared, strict=True):
            assert a["keys"] == b["keys"]
            for name in ("coords", "features", "target", "weight", "offsets"):
                assert torch.equal(a[name], b[name])
    assert alone.state_dict() == shared.state_dict()


@pytest.mark.parametrize(("stop", "workers"), [(0, (0, 0)), (3, (0, 2)), (3, (2, 0)), (7, (2, 1)), (11, (0, 0))])
def test_continues_exactly_with_another_number_of_workers(store, stop, workers):
    def loader(n):
        return StreamLoader(ImageStream(store.select(), batch_size=2, seed=1), n, "fork")

    whole = [keys for epoch in keys_of(loader(0), 3) for keys in epoch]
    first = loader(workers[0])
    seen: list = []
    while len(seen) < stop:
        for batch in first:
            seen.append(batch["keys"])
            if len(seen) == stop:
                break
    state = first.state_dict()
    second = loader(workers[1])
    second.load_state_dict(state)
    assert len(second) == 7
    while len(seen) < len(whole):
        seen += [batch["keys"] for batch in second]
    assert seen == whole


def test_ranks_see_the_order_of_one(store):
    def stream(rank, n, last="pad"):
        return ImageStream(store.select(), batch_size=2, seed=1, rank=rank, n_ranks=n, last=last)

    one = [b["keys"] for b in stream(0, 1)]
    ranks = [list(stream(rank, 3)) for rank in range(3)]
    assert [len(batches) for batches in ranks] == [3, 3, 3]
    together = [ranks[rank][row] for row in range(3) for rank in range(3)]
    dropped = [list(stream(rank, 3, last="drop")) for rank in range(3)]
    assert [[b["keys"] for b in batches] for batches in dropped] == [[b["keys"] for b in r[:2]] for r in ranks]
    with pytest.raises(ConfigError, match=r"7 batches in epoch 0 are too few for 9 processes\. Fix: data\.last: pad"):
        stream(0, 9, last="drop")
    assert [b["keys"] for b in together] == one + one[:2]
    assert [bool((b["weight"] == 0).all()) for b in together] == [False] * 7 + [True] * 2


def test_another_set_of_images_is_refused_in_mid_epoch(store):
    stream = ImageStream(store.select(), batch_size=2)
    next(iter(stream))
    other = ImageStream(store.select(tpcs=[1]), batch_size=2)
    with pytest.raises(ConfigError, match=r"changed since the checkpoint.*Fix:"):
        other.load_state_dict(stream.state_dict())
    other.load_state_dict({**stream.state_dict(), "batches": 0, "epoch": 4})
    assert other.epoch == 4


def test_several_stores_keep_their_own_transforms(store, tmp_path):
    real = larstore.open(testing.make_store(tmp_path / "r.zarr", n_files=1, n_events=3, n_voxels=50, truth=False))
    stream = ImageStream([(store.select(), [Threshold(0.0)]), (real.select(), [])], batch_size=4, shuffle=False)
    batches = list(stream)
    assert sum(len(b["keys"]) for b in batches) == N_IMAGES + 3
    for batch in batches:
        for i, source in enumerate(batch["sources"]):
            part = slice(batch["offsets"][i], batch["offsets"][i + 1])
            assert bool((batch["weight"][part] == 1).all()) == (source == 0)
            assert set(batch["target"][part].unique().tolist()) == ({0.0, 1.0} if source == 0 else {0.0})
    with pytest.raises(ConfigError, match=r"r\.zarr: image \(0, 0, 1\) has no truth.*\(3 of 3 have none\).*Fix:"):
        ImageStream(real.select(), need_truth=True)


@pytest.mark.parametrize(("workers", "ahead"), [(0, 0), (0, 9), (1, 9)])
def test_errors_arrive_as_they_were_raised(tmp_path, copy_of_store, workers, ahead):
    path = copy_of_store(tmp_path / "r.zarr", n_files=3, n_events=1, n_voxels=50, shard_rows=64, chunk_rows=16)
    damaged = larstore.open(path)
    loader = StreamLoader(ImageStream(damaged.select(), shuffle=False), workers, "fork", read_ahead_mb=ahead)
    (damaged.path / "voxels/charge/c/2/0").unlink()
    seen = []
    with pytest.raises(ShardDamageError) as caught:
        seen += [batch["keys"] for batch in loader]
    assert "voxels/charge, shard 2 is missing; images (file, event, tpc) (2, 0, 1)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert loader.state_dict()["batches"] == 2


def test_noise_depends_on_image_seed_and_epoch_only(store):
    def features(**options):
        stream = ImageStream(store.select(), transforms=[Noise(0.0, 100.0)], **options)
        found = {}
        for batch in stream:
            for i, key in enumerate(batch["keys"]):
                found[key] = batch["features"][batch["offsets"][i] : batch["offsets"][i + 1]]
        return found

    small, large = features(batch_size=1, seed=3), features(batch_size=5, seed=3, shuffle=False)
    assert all(torch.equal(small[key], large[key]) for key in small)
    other = features(batch_size=1, seed=4)
    assert not any(torch.equal(small[key], other[key]) for key in small)


def test_budget_and_empty_selections(store, caplog):
    with pytest.raises(ConfigError, match=r"s\.zarr: 14 of 14 images exceed max_voxels = 100 \(the largest has 120\)"):
        ImageStream(store.select(), max_voxels=100)
    with pytest.raises(ConfigError, match="every image exceeds max_voxels"):
        ImageStream(store.select(), max_voxels=100, over_budget="skip")
    with pytest.raises(ConfigError, match="the selection is empty"):
        ImageStream(store.select(files=(99, 100)))


@pytest.mark.parametrize("what", ["skip", "crop"])
def test_images_over_the_budget_are_counted_and_logged(store, tmp_path, copy_of_store, caplog, what):
    small = larstore.open(copy_of_store(tmp_path / "small.zarr", n_files=1, n_events=2, n_voxels=40))
    stream = ImageStream([(store.select(), []), (small.select(), [])], max_voxels=100, over_budget=what, seed=1)
    assert not caplog.text
    caplog.set_level("DEBUG", "larstore.train")
    epochs = [list(StreamLoader(stream)) for _ in range(2)]
    said = f"14 images of more than max_voxels = 100 voxels are {what}p"
    told = [(record.levelname, f"epoch {i}" in record.getMessage()) for i, record in enumerate(caplog.records)]
    assert told == [("WARNING", True), ("DEBUG", True)]
    assert all(said in record.getMessage() for record in caplog.records)
    for epoch in epochs:
        assert all(len(b["coords"]) <= 100 for b in epoch)
        keys = [(s, key) for b in epoch for s, key in zip(b["sources"], b["keys"], strict=True)]
        assert len(keys) == len(set(keys)) == (2 if what == "skip" else N_IMAGES + 2)
    if what == "crop":
        first, second = ({(s, k): b for b in e for s, k in zip(b["sources"], b["keys"], strict=True)} for e in epochs)
        cropped = [k for k in first if k[0] == 0]
        assert any(first[k]["coords"].tolist() != second[k]["coords"].tolist() for k in cropped)
        fixed = ImageStream(store.select(), max_voxels=100, over_budget="crop", shuffle=False, vary=False)
        assert [b["coords"].tolist() for b in fixed] == [b["coords"].tolist() for b in fixed]


def break_charges(monkeypatch, row):
    """A NaN in a row of all charges that are read, however they are."""
    read_arrays = larstore.Store.read_arrays

    def broken_arrays(self, *args):
        found = read_arrays(self, *args)
        found["voxels/charge"][row, 1] = np.nan
        return found

    def broken_rows(store, out, start, count):
        read_rows(store, out, start, count)
        out["voxels/charge"][row, 1] = np.nan

    monkeypatch.setattr(larstore.Store, "read_arrays", broken_arrays)
    monkeypatch.setattr("train.streaming.reading.read_rows", broken_rows)


@pytest.mark.parametrize(("images", "wrong"), [([0, 1, 2], 1), ([3, 0, 2], 0)], ids=["neighbours", "anywhere"])
def test_charge_that_is_no_number_names_the_image(store, monkeypatch, images, wrong):
    reader = ImageReader(store.select())
    images = np.array(images)
    key = re.escape(str(tuple(reader.keys[wrong].tolist())))
    break_charges(monkeypatch, int(reader.count[images[0]]) + 3)
    with pytest.raises(larstore.errors.DamageError, match=rf"s\.zarr: image {key}: charge holds NaN.*Fix:"):
        reader(images)
    with pytest.raises(larstore.errors.DamageError, match="image 7: charge holds NaN"):
        read_voxels(store, reader.start[images], reader.count[images], lambda image: f"image {6 + image}")


def test_large_charges_are_numbers(store, monkeypatch):
    """Though their sum is none."""
    read_arrays = larstore.Store.read_arrays

    def large(self, *args):
        found = read_arrays(self, *args)
        found["voxels/charge"][:] = np.finfo(np.float32).max
        return found

    monkeypatch.setattr(larstore.Store, "read_arrays", large)
    assert (ImageReader(store.select())(np.array([0, 1])).features == np.finfo(np.float32).max).all()


def test_images_without_voxels_stay_in_the_batch(store):
    image = store.select()[0]
    first, second, third = ImageReader(store.select())(np.array([0, 0, 0])).split([image.key[2]] * 3)
    first, third = (CoordLimits([(0, 0), None, None])(each, np.random.default_rng(0)) for each in (first, third))
    batch = as_batch(together([first, second, third]), [image.key] * 3)
    assert batch["offsets"].tolist() == [0, 0, 120, 120]
    assert (batch["coords"][:, 3] == 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_without_voxels_is_delivered(store, workers):
    empty = [CoordLimits([(0, 0), None, None]), ChargeInput("asinh", 0.001), ZSegments([9]), Noise(0, 1)]
    stream = ImageStream([(store.select(tpcs=[1]), empty)], batch_size=3, full_y=True)
    batches = list(StreamLoader(stream, workers, "fork"))
    assert [len(b["keys"]) for b in batches] == [3, 3, 1]
    for batch in batches:
        assert batch["coords"].shape == (0, 4)
        assert batch["features"].shape == (0, 4)
        assert batch["truth_coords"].shape == (0, 4)
        assert batch["offsets"].tolist() == [0] * (len(batch["keys"]) + 1)


def test_pinned_batches(store, monkeypatch):
    """Without a GPU nothing can be pinned: what would be is."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *a: (asked.append(tensor.shape), tensor)[1])
    assert len(list(StreamLoader(ImageStream(store.select(), batch_size=7), 0, pin_memory=True))) == 2
    assert len(asked) == 10


def test_all_truth_voxels_come_along(store):
    steps = [CoordLimits([(20, 120), None, (8, 50)]), Scale(2.0), Threshold(15_000.0)]
    stream = ImageStream(store.select(), batch_size=3, transforms=steps, full_y=True)
    for batch in stream:
        for i, key in enumerate(batch["keys"]):
            coords, value = store.image(*key).truth_voxels
            inside = (coords[:, 0] >= 20) & (coords[:, 0] < 120) & (coords[:, 2] >= 8) & (coords[:, 2] < 50)
            mine = batch["truth_coords"][:, 3] == i
            np.testing.assert_array_equal(batch["truth_coords"][mine][:, :3], coords[inside])
            np.testing.assert_array_equal(batch["truth_value"][mine][:, 0], 2 * value[inside] > 15_000)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_images_are_read_in_any_order(store, data):
    """Also twice, with gaps of any size, and from chunks that they share."""
    part = store.select()
    images = data.draw(st.lists(st.integers(0, N_IMAGES - 1), min_size=1, max_size=9))
    sample = ImageReader(part, full_y=True)(np.array(images))
    for number, i in enumerate(images):
        mine, image = sample.coords[:, 3] == number, part[i]
        np.testing.assert_array_equal(sample.coords[mine][:, :3], image.coords)
        np.testing.assert_array_equal(sample.features[mine], image.charge)
        np.testing.assert_array_equal(sample.target[mine][:, 0], image.truth)
        of_truth = sample.truth_coords[:, 3] == number
        np.testing.assert_array_equal(sample.truth_coords[of_truth][:, :3], image.truth_voxels[0])
        np.testing.assert_array_equal(sample.truth_value[of_truth][:, 0], image.truth_voxels[1])
