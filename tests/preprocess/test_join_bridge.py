"""Predictions joined, and gaps between faces bridged: equal to a slow twin, and honest about what was not measured."""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

import larstore
from larstore.cli import build_app
from larstore.errors import ConfigError, StoreError
from larstore.records import ImageRecord
from larstore.testing import add_images, make_geometry
from preprocess import join
from preprocess.detector import load_detector
from preprocess.joining.bridge import ABOVE, find_gaps
from preprocess.joining.frame import joined_frame

SIZE = (12, 6, 6)  # voxels of a TPC
GAP = 3  # between TPC 1 and 2 along z, and as much between 1 and 3 along y; 4 lies on the cathode's other side


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nothing here outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def small_geometry():
    geometry = make_geometry((1, 2, 3, 4))
    apart = 8.0 * (SIZE[1] + GAP)
    for number, place in {1: {}, 2: {"origin_z_mm": apart}, 3: {"origin_y_mm": apart},
                          4: {"drift_sign": -1, "anode_x_mm": 100.0}}.items():  # fmt: skip
        size = {"n_ticks": 8 * SIZE[0], "n_y": 4 * SIZE[1], "n_z": 4 * SIZE[2], "drift_length_mm": 60.0}
        geometry.tpcs[number] = geometry.tpcs[number].model_copy(update=size | place)
    return geometry


def random_image(rng, event, tpc, truth=True):
    places = np.flatnonzero(rng.random(np.prod(SIZE)) < 0.8)
    coords = np.stack(np.unravel_index(places, SIZE), axis=1).astype(np.uint16)
    n = len(coords)
    value = rng.integers(0, 3, n).astype(np.float32)
    known = {"truth": value, "truth_coords": coords[value > 0], "truth_value": value[value > 0]} if truth else {}
    return ImageRecord(0, event, tpc, coords, rng.normal(0, 1e4, (n, 3)).astype(np.float32),
                       rng.integers(1, 8, n).astype(np.uint8), input=f"{tpc}.npz", **known)  # fmt: skip


def write_scores(path, name, values, output="score", select=None):
    """A prediction of values(image, rng)."""
    rng = np.random.default_rng(len(name))
    with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "a" * 64, "output": output, "epoch": 3}) as writer:
        for shard, images in writer.groups(larstore.open(path).select(**(select or {}))):
            writer.write(shard, [(image, values(image, rng).astype(np.float32)) for image in images])
        writer.commit()


def net(image, rng):
    """Half of them nearly 0, or exactly the limit."""
    return rng.choice([0.0, 0.005, ABOVE, 0.3, 0.9], len(image)) * rng.choice([1.0, 0.999], len(image))


def make_source(path, events=3, **options):
    larstore.create(path, geometry=small_geometry(), provenance={}, shard_rows=512, chunk_rows=64)
    rng = np.random.default_rng(5)
    for event in range(events):  # blocks of their own
        add_images(path, [random_image(rng, event, tpc, **options) for tpc in (1, 2, 3, 4)])
    write_scores(path, "net", net)
    write_scores(path, "charge", lambda image, rng: rng.uniform(0, 1e5, len(image)), "charge")
    return larstore.open(path)


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "run.zarr")


def slowly(images, frame, reach=0):
    """Place -> scores, charges of a joined event, one voxel after the other; and the places that bridge."""
    scores, charges, sides = {}, {}, {}
    for image in images:
        number = image.key[2]
        for place, score, charge in zip(
            frame.places(number, image.coords).tolist(), image.score("net"), image.score("charge"), strict=True
        ):
            scores.setdefault(tuple(place), []).append(score)
            charges.setdefault(tuple(place), []).append(float(charge))
            if score > np.float32(ABOVE):
                sides[number, tuple(place)] = float(score), float(charge)
    found = {place: (max(scores[place]), sum(charges[place])) for place in scores}
    base, bridged = np.array(frame.origins[frame.tpcs.index(1)]), {}
    for other, axis in ((2, 2), (3, 1)):
        last = base[axis] + SIZE[axis] - 1
        near = [place for number, place in sides if number == 1 and place[axis] == last]
        far = [place for number, place in sides if number == other and place[axis] == last + GAP + 1]
        apart = {(a, b): np.abs(np.array(a) - b) * (np.arange(3) != axis) for a in near for b in far}
        apart = {pair: (d**2).sum() for pair, d in apart.items() if d.max() <= reach}
        for (a, b), distance in apart.items():
            least = [min(d for pair, d in apart.items() if pair[i] == end) for i, end in enumerate((a, b))]
            if distance > max(least):
                continue
            for k in range(1, GAP + 1):
                share = k / (GAP + 1)
                place = tuple(int(np.floor(x + (y - x) * share + 0.5)) for x, y in zip(a, b, strict=True))
                ends = zip(sides[1, a], sides[other, b], strict=True)
                values = tuple(one + (two - one) * share for one, two in ends)
                bridged.setdefault(place, []).append(values)
    return found, bridged


@pytest.mark.parametrize("reach", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("tpcs", [pytest.param((1, 2), marks=pytest.mark.slow), (1, 2, 3, 4)])
def test_bridged_images_equal_a_slow_twin(source, tmp_path, tpcs, reach):
    target = tmp_path / "joined.zarr"
    done = join(source.path, target, tpcs, predictions=["net", "charge"], bridge="net", bridge_reach=reach)
    assert done.failures == []
    assert done.predictions == {"net": (3, 0), "charge": (3, 0)}
    store, frame = larstore.open(target), joined_frame(small_geometry(), tpcs, (8, 4, 4))
    n_bridged = 0
    for event in range(3):
        images = [source.image(0, event, n) for n in tpcs]
        found, bridged = slowly(images, frame, reach)
        assert not bridged.keys() & found.keys()
        assert len(bridged) >= 9
        new = {place: max(values) for place, values in bridged.items()}  # of the likeliest line
        n_bridged += len(new)
        image = store.image(0, event, 1)
        places = [tuple(c) for c in image.coords.tolist()]
        assert places == sorted(found | new)
        expected = np.array([(found | new)[p] for p in places])
        assert_allclose(image.score("net"), expected[:, 0], rtol=1e-6)
        equally = {place: [q for s, q in values if s > max(values)[0] - 1e-6] for place, values in bridged.items()}
        for place, charge, one in zip(places, image.score("charge"), expected[:, 1], strict=True):
            assert np.isclose(charge, equally.get(place, [one]), rtol=1e-6).any()
        is_new = np.array([p in new for p in places])
        assert not image.charge[is_new].any()
        assert not image.live[is_new].any()
        assert np.isnan(image.truth[is_new]).all()
        assert not np.isnan(image.truth[~is_new]).any()
        total = np.sum([i.charge.sum(axis=0, dtype=np.float64) for i in images], axis=0)
        assert_allclose(image.charge.sum(axis=0, dtype=np.float64), total, rtol=1e-5)
        assert image.summary("truth_sum") == sum(i.summary("truth_sum") for i in images)
    assert done.bridged == n_bridged
    assert larstore.verify(target).ok
    about = store.predictions["net"]
    assert (about["checkpoint_sha256"], about["epoch"], about["output"]) == ("a" * 64, 3, "score")
    assert store.attributes["provenance"]["joined"]["bridge"] == {
        "prediction": "net", "checkpoint_sha256": "a" * 64, "above": ABOVE, "reach": reach,
    }  # fmt: skip


def test_without_a_bridge_the_images_are_as_before(source, tmp_path):
    join(source.path, tmp_path / "plain.zarr", (1, 2))
    done = join(source.path, tmp_path / "scored.zarr", (1, 2), predictions=["net"])
    assert done.bridged == 0
    assert larstore.diff(tmp_path / "plain.zarr", tmp_path / "scored.zarr") == []
    frame = joined_frame(small_geometry(), (1, 2), (8, 4, 4))
    for image in larstore.open(tmp_path / "scored.zarr").select():
        found, _ = slowly([source.image(*image.key[:2], n) for n in (1, 2)], frame)
        assert_array_equal(image.score("net"), [found[tuple(c)][0] for c in image.coords.tolist()])


def test_a_higher_limit_bridges_less(source, tmp_path):
    few, more = (
        join(source.path, tmp_path / f"{above}.zarr", (1, 2), bridge="net", bridge_above=above, bridge_reach=0)
        for above in (0.5, ABOVE)
    )
    assert 0 < few.bridged < more.bridged
    for image in larstore.open(tmp_path / "0.5.zarr").select():
        assert (image.score("net")[image.live == 0] > 0.5).all()
    with pytest.raises(StoreError, match=r"'above': 0.5, 'reach': 0\}, this makes .*'above': 0.01, 'reach': 8\}"):
        join(source.path, tmp_path / "0.5.zarr", (1, 2), bridge="net")


@pytest.mark.slow
def test_images_without_truth_stay_so(tmp_path):
    source = make_source(tmp_path / "run.zarr", 1, truth=False)
    done = join(source.path, tmp_path / "joined.zarr", (1, 2), bridge="net")
    image = larstore.open(tmp_path / "joined.zarr").image(0, 0, 1)
    assert image.truth is None
    assert done.bridged > 0
    assert set(larstore.open(tmp_path / "joined.zarr").predictions) == {"net"}


def test_run_again_it_does_the_rest(source, tmp_path, monkeypatch):
    target = tmp_path / "joined.zarr"
    calls, write = [], larstore.PredictionWriter.commit

    def stop(writer):
        calls.append(write(writer))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(larstore.PredictionWriter, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            join(source.path, target, (1, 2), predictions=["charge"], bridge="net")
    done = join(source.path, target, (1, 2), predictions=["charge"], bridge="net")
    assert (done.images, done.images_before) == (0, 3)
    join(source.path, tmp_path / "whole.zarr", (1, 2), predictions=["charge"], bridge="net")
    whole = larstore.open(tmp_path / "whole.zarr")
    for image in larstore.open(target).select():
        for name in ("net", "charge"):
            assert_array_equal(image.score(name), whole.image(*image.key).score(name))
    again = join(source.path, target, (1, 2), predictions=["charge"], bridge="net")
    assert again.predictions == {"charge": (0, 0), "net": (0, 0)}
    with pytest.raises(StoreError, match=r"holds images with bridge = \{'prediction': 'net'.*\}, this makes None"):
        join(source.path, target, (1, 2))
    join(source.path, tmp_path / "plain.zarr", (1, 2))
    with pytest.raises(StoreError, match=r"holds images with bridge = None, this makes \{'prediction': 'net'"):
        join(source.path, tmp_path / "plain.zarr", (1, 2), bridge="net")


def test_images_without_scores_are_told(tmp_path):
    source = make_source(tmp_path / "run.zarr")
    write_scores(source.path, "some", net, select={"events": (0, 1)})
    done = join(source.path, tmp_path / "a.zarr", (1, 2), predictions=["some"])
    assert (done.images, done.predictions) == (3, {"some": (2, 1)})
    missing = larstore.open(tmp_path / "a.zarr").image(0, 2, 1).score("some")
    assert np.isnan(missing).all()
    done = join(source.path, tmp_path / "b.zarr", (1, 2), bridge="some")
    assert done.images == 2
    assert "image (0, 2, 1) has no scores of prediction 'some', which bridges. Fix: larstore infer" in (
        done.failures[0].error
    )
    assert larstore.verify(tmp_path / "b.zarr").ok


def test_what_cannot_be_bridged_is_refused(source, tmp_path):
    with pytest.raises(StoreError, match=r"no prediction 'nets'\. Fix: one of charge, net"):
        join(source.path, tmp_path / "x.zarr", (1, 2), bridge="nets")
    with pytest.raises(StoreError, match=r"no prediction 'nets'\. Fix: one of charge, net"):
        join(source.path, tmp_path / "x.zarr", (1, 2), predictions=["net", "nets"])
    with pytest.raises(
        StoreError, match=r"prediction 'charge' holds charges\. Fix: --bridge with one that holds scores"
    ):
        join(source.path, tmp_path / "x.zarr", (1, 2), bridge="charge")
    with pytest.raises(ConfigError, match=r"bridge_reach = -1, bridge_above = 0.01\. Fix: 0 to 256 voxels"):
        join(source.path, tmp_path / "x.zarr", (1, 2), bridge="net", bridge_reach=-1)
    with pytest.raises(ConfigError, match=r"bridge_reach = 10000, .* Fix: 0 to 256 voxels"):
        join(source.path, tmp_path / "x.zarr", (1, 2), bridge="net", bridge_reach=10_000)
    for tpcs in ((1, 4), (2, 3)):  # of both sides; beside each other in neither axis
        with pytest.raises(ConfigError, match=r"have no gap of 1 to 10 voxels between two faces. Fix: join neighbours"):
            join(source.path, tmp_path / "x.zarr", tpcs, bridge="net")
    assert not (tmp_path / "x.zarr").exists()


def test_the_gaps_of_protodune():
    """Two voxels between 288 of 290, as in the research code; TPC 1 and 9 are no neighbours."""
    geometry = load_detector("protodune-sp-2021").geometry()
    frame = joined_frame(geometry, (1, 5, 9), (8, 4, 4))
    gaps = find_gaps(geometry, frame, (8, 4, 4))
    assert [(g.axis, g.low, g.high, g.before, g.behind, len(g)) for g in gaps] == [
        (2, 1, 5, 287, 290, 2), (2, 5, 9, 577, 580, 2),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="TPCs 1,9 have no gap"):
        find_gaps(geometry, joined_frame(geometry, (1, 9), (8, 4, 4)), (8, 4, 4))


def test_the_command(source, tmp_path):
    def typed(*words):
        return CliRunner().invoke(build_app(), ["join", str(source.path), "--tpcs", "1,2", *map(str, words)])

    run = typed("-o", tmp_path / "a.zarr", "--predictions", "all", "--bridge", "net")
    assert run.exit_code == 0, run.output
    assert "bridge gaps) in a frame of" in run.stdout
    assert "prediction net: 3 images" in run.stdout
    assert "not joined" not in run.stderr
    for alone in ("--bridge-above", "--bridge-reach"):
        run = typed("-o", tmp_path / "b.zarr", alone, "1")
        assert run.exit_code == 2
        assert "needs --bridge NAME" in run.stderr
    run = typed("-o", tmp_path / "b.zarr", "--predictions", "net")
    assert run.exit_code == 0, run.output
    assert f"not joined, only in {source.path}: charge" in run.stderr
    assert set(larstore.open(tmp_path / "b.zarr").predictions) == {"net"}
