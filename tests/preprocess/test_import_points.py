"""Point clouds of others as predictions: every point in its voxel, by a slow twin; formats, events, wrong files."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, InputError, StoreError
from larstore.testing import add_images, make_geometry, make_image, make_store
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.exchange.export_bee import export_bee
from preprocess.exchange.import_points import import_points
from preprocess.exchange.points_cli import import_points_command
from preprocess.joining.joining import join
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_depos
from preprocess.testing import small_deposits, write_bee, write_small_detector
from tests.small_disks import fill, remount, small_disk

DOWNSAMPLE = (8, 4, 4)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nothing here outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files 0 and 1 of two events, TPCs 1 and 3: side by side along z, 8 voxels apart."""
    geometry = make_geometry((1, 3))
    geometry.tpcs[3] = geometry.tpcs[3].model_copy(update={"origin_z_mm": 576.0})
    path = tmp_path_factory.mktemp("points") / "run.zarr"
    larstore.create(path, geometry=geometry, provenance={}, shard_rows=512, chunk_rows=64)
    for file in (0, 1):
        for event in (0, 1):  # blocks of their own
            add_images(path, [make_image(file, event, tpc, 300, seed=1) for tpc in (1, 3)])
    return path


@pytest.fixture
def store(made, tmp_path):
    return larstore.open(shutil.copytree(made, tmp_path / "run.zarr"))


def slowly(image, points, charge, t0=0.0, window=False):
    """The voxel of each point by the formula of `TpcGeometry`, one after the other; "out" and "bare" beside it."""
    frame = image.store.geometry.tpcs[image.key[2]]
    rows = {tuple(voxel): i for i, voxel in enumerate(image.coords.tolist())}
    score, sums, found = np.zeros(len(image)), np.zeros(len(image)), []
    for (x, y, z), q in zip((points * 10).tolist(), charge, strict=True):
        drift = frame.drift_sign * (x - frame.anode_x_mm)
        tick = frame.tick_zero_drift + (drift / frame.drift_speed_mm_us + t0) / frame.tick_us
        pixel = (y - frame.origin_y_mm) / frame.pixel_mm, (z - frame.origin_z_mm) / frame.pixel_mm
        inside = 0 <= tick < frame.n_ticks and 0 <= pixel[0] < frame.n_y and 0 <= pixel[1] < frame.n_z
        if not inside or not (window or 0 <= drift <= frame.drift_length_mm):
            found.append("out")
            continue
        row = rows.get((int(tick // 8), int(pixel[0] // 4), int(pixel[1] // 4)))
        found.append("bare" if row is None else row)
        if row is not None:
            score[row], sums[row] = 1.0, sums[row] + q
    return score, sums, found


def random_points(image, n, seed, t0=0.0):
    """In and around tiled voxels, around the box, and far off."""
    rng = np.random.default_rng(seed)
    near = image.position(t0)[rng.integers(0, len(image), n)] + rng.normal(0, 0.3, (n, 3))
    low, high = np.array([-20.0, -5.0, -5.0]), np.array([100.0, 56.0, 110.0])
    points = np.concatenate([near, rng.uniform(low, high, (n, 3)), [[1e6, -1e6, 0.0]]])
    return points.astype(np.float32).astype(np.float64), rng.uniform(-10, 5000, len(points))


def write_bee_cloud(path, points, charge=None, **numbers):
    document = {axis: points[:, i].tolist() for i, axis in enumerate("xyz")} | numbers
    if charge is not None:
        document["q"] = np.asarray(charge).tolist()
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(("t0", "window"), [(35.5, False), (-12.0, True)])
def test_every_point_is_in_its_voxel(store, tmp_path, t0, window):
    clouds = [random_points(store.image(0, event, 1), 400, event, t0) for event in (0, 1)]
    path = tmp_path / "cloud.npz"
    np.savez(path, *(np.column_stack(cloud) for cloud in clouds))
    for name, charge in (("points", False), ("charges", True)):
        done = import_points(store.path, [path], name, file=0, t0=t0, window=window, charge=charge)
        assert (done.events, done.images, done.images_written) == (2, 4, 4)
    opened = larstore.open(store.path)
    tiled = bare = outside = 0
    weights = np.zeros(3)
    for event, (points, charge) in enumerate(clouds):
        places = []
        for tpc in (1, 3):
            image = opened.image(0, event, tpc)
            score, sums, found = slowly(image, points, charge, t0, window)
            assert_array_equal(image.score("points"), score)
            assert_allclose(image.score("charges"), sums, rtol=1e-5, atol=1e-3)
            places.append(found)
        for one, other, q in zip(*places, charge, strict=True):
            kinds = {one, other} - {"out"}
            assert len(kinds) < 2
            which = 2 if not kinds else int(kinds == {"bare"})
            weights[which] += q
            tiled, bare, outside = tiled + (which == 0), bare + (which == 1), outside + (which == 2)
    counts = done.counts
    assert min(tiled, bare, outside) > 50
    assert (counts.tiled, counts.untiled, counts.elsewhere) == (tiled, bare, outside)
    assert_allclose([counts.charge_tiled, counts.charge_untiled, counts.charge_elsewhere], weights, rtol=1e-9)
    assert counts.outside == pytest.approx(bare / (tiled + bare))
    assert np.isnan(opened.image(1, 0, 1).score("points")).all()
    assert larstore.verify(store.path).ok
    about = opened.predictions["charges"]
    assert (about["output"], about["made by"]) == ("charge", "larstore import-points")
    assert about["sources"][0]["name"] == "cloud.npz"
    assert len(about["sources"][0]["sha256"]) == 64
    assert about["points"]["untiled"] == bare


def test_our_own_export_comes_back(store, tmp_path):
    with larstore.PredictionWriter(store.path, "net", {"checkpoint_sha256": "0" * 64}) as writer:
        for shard, images in writer.groups(store.select()):
            writer.write(shard, [(image, (np.arange(len(image)) % 3 == 0).astype(np.float32)) for image in images])
        writer.commit()
    opened = larstore.open(store.path)
    path = export_bee(opened.select(), tmp_path / "out.zip", "net")
    done = import_points(store.path, [path], "back", chosen_set="net", window=True)
    assert (done.counts.untiled, done.counts.elsewhere, done.counts.outside) == (0, 0, 0.0)
    assert done.voxels_hit == done.counts.tiled
    for image in larstore.open(store.path).select():
        assert_array_equal(image.score("back"), image.score("net"))
    with pytest.raises(InputError, match=r"holds the sets net, tiled, truth, which one is not said. Fix: --set"):
        import_points(store.path, [path], "other")
    with pytest.raises(InputError, match=r"'nets' is none of them. Fix: --set with one of them"):
        import_points(store.path, [path], "other", chosen_set="nets")


@pytest.mark.slow
def test_truth_deposits_against_the_truth_of_the_store(tmp_path, monkeypatch):
    """The whole way from a Bee file: its points are exactly the tiled voxels with truth."""
    monkeypatch.setenv("LARSTORE_CACHE", str(tmp_path / "cache"))
    detector = write_small_detector(tmp_path)
    bee = write_bee(tmp_path / "events.zip", small_deposits(2, 400))
    simulate(tmp_path / "sim", load_detector(detector), (1,), config=SimulationConfig(noise=(0.0, 0.0, 0.0)),
             first_file=7, depos=[open_depos(bee)])  # fmt: skip
    (frames,) = (tmp_path / "sim").glob("*_wire-TPC1.tar.gz")
    config = RunConfig(inputs=(str(frames),), output=tmp_path / "run.zarr", detector=str(detector))
    geometry = load_detector(detector).geometry()
    result = process_unit(Unit(str(frames), 7, 1, 2), config, geometry.hash)
    larstore.create(config.output, geometry=geometry, downsample=DOWNSAMPLE, provenance={})
    add_images(config.output, result.images, result.inputs)
    done = import_points(config.output, [bee], "points", file=7, charge=False)
    opened = larstore.open(config.output)
    assert (done.events, done.images, done.counts.elsewhere) == (2, 2, 0)
    for image in opened.select():
        hit = image.score("points") > 0
        assert (image.truth > 0).sum() > 100
        assert_array_equal(hit, image.truth > 0)
    import_points(config.output, [bee], "charge", file=7, charge=True)
    for image in larstore.open(config.output).select():
        assert_allclose(image.score("charge"), image.truth, rtol=1e-4)
    everything = sum(image.truth_voxels[1].sum(dtype=float) for image in opened.select())
    counts = done.counts
    assert counts.charge_tiled + counts.charge_untiled == pytest.approx(everything, rel=1e-6)
    tiled = sum(image.truth.sum(dtype=float) for image in opened.select())
    assert counts.charge_outside == pytest.approx(1 - tiled / everything, abs=1e-6)


def test_points_of_a_joined_image(store, tmp_path):
    points, charge = random_points(store.image(0, 0, 3), 300, 3)
    path = write_bee_cloud(tmp_path / "cloud.json", points, charge)
    import_points(store.path, [path], "points", file=0)
    join(store.path, tmp_path / "joined.zarr", [1, 3], predictions=["points"])
    done = import_points(tmp_path / "joined.zarr", [path], "again", file=0)
    assert (done.images, done.counts.tiled > 100) == (1, True)
    image = larstore.open(tmp_path / "joined.zarr").image(0, 0, 1)
    assert_array_equal(image.score("again"), image.score("points"))


@pytest.mark.slow
def test_both_sides_of_a_cathode_joined(tmp_path):
    geometry = make_geometry((1, 2))
    geometry.tpcs[2] = geometry.tpcs[2].model_copy(update={"drift_sign": -1, "anode_x_mm": 1900.0})
    path = tmp_path / "run.zarr"
    larstore.create(path, geometry=geometry, provenance={})
    images = [make_image(0, 0, tpc, 2000, seed=4) for tpc in (1, 2)]
    add_images(path, images)
    opened = larstore.open(path)
    points = np.concatenate([image.position()[::3] for image in opened.select()])
    cloud = write_bee_cloud(tmp_path / "cloud.json", points)
    import_points(path, [cloud], "points", file=0)
    join(path, tmp_path / "joined.zarr", [1, 2], predictions=["points"])
    import_points(tmp_path / "joined.zarr", [cloud], "again", file=0)
    image = larstore.open(tmp_path / "joined.zarr").image(0, 0, 1)
    assert image.score("again").sum() > 500
    assert_array_equal(image.score("again"), image.score("points"))


def test_files_of_the_research_code(tmp_path):
    """Numbers of voxels of one tick and one pixel: as its truth, or from the corner of the drift volume."""
    path = make_store(tmp_path / "run.zarr", 1, 2, (1,), n_voxels=400)
    image = larstore.open(path).image(0, 1, 1)
    rng = np.random.default_rng(5)
    inside = rng.integers(0, [8, 4, 4], (len(image), 3))
    fine = image.coords.astype(int) * [8, 4, 4] + inside
    drift = fine[:, 0] - 20  # make_geometry's tick of zero drift
    wanted = np.arange(len(image)) % 2 == 0
    for product, places in (("wirecell", fine), ("calonosce", fine), ("spacepoint", fine - [20, 0, 0])):
        file = tmp_path / f"reco_Mu_0_{product}-TPC1.npz"
        rows = np.column_stack([places[wanted], np.full(wanted.sum(), float(len(product)))])
        np.savez_compressed(file, np.zeros((0,)), rows)
        done = import_points(path, [file], product)
        assert (done.events, done.images_without_points) == (2, 1)
        score = larstore.open(path).image(0, 1, 1).score(product)
        seen = wanted if product != "spacepoint" else wanted & (drift >= 0) & (drift < 1250)
        assert_array_equal(score, seen)
    with pytest.raises(ConfigError, match=r"--t0 5: .*wirecell-TPC1.npz holds ticks of the read-out. Fix: leave --t0"):
        import_points(path, [tmp_path / "reco_Mu_0_wirecell-TPC1.npz"], "late", t0=5.0)
    with pytest.raises(ConfigError, match=r"points at the read-out and at their own places\. Fix: two"):
        import_points(path, sorted(tmp_path.glob("reco_*")), "mixed")
    for name, words in {
        "reco_Mu_0_depo-TPC1.npz": "'depo' is no point cloud. Fix: one of spacepoint, wirecell",
        "reco_Mu_0_wirecell-TPC5.npz": "testing has no TPC 5. Fix: name it after one of 1",
    }.items():
        np.savez(tmp_path / name, np.zeros((3, 4)))
        with pytest.raises(InputError, match=words):
            import_points(path, [tmp_path / name], "x")


def test_a_spacepoint_file_of_two_tpcs_counts_from_the_first(tmp_path):
    path = make_store(tmp_path / "run.zarr", 1, 1, (1, 2), n_voxels=50)
    image = larstore.open(path).image(0, 0, 1)
    fine = image.coords.astype(int) * [8, 4, 4] + [4 - 20, 2, 2]
    np.savez(tmp_path / "a_0_spacepoint-TPC12.npz", fine)
    import_points(path, [tmp_path / "a_0_spacepoint-TPC12.npz"], "points", tpcs=[1])
    drift = fine[:, 0] + 0.5
    assert_array_equal(larstore.open(path).image(0, 0, 1).score("points"), (drift >= 0) & (drift <= 1250))


def test_events_are_matched_by_number_or_refused(tmp_path):
    path = make_store(tmp_path / "run.zarr", 1, 3, n_voxels=50)  # run 27409, subrun 1, events 100 to 102
    opened = larstore.open(path)
    numbers = {"runNo": "27409", "subRunNo": 1}
    files = [
        write_bee_cloud(tmp_path / f"{n}.json", opened.image(0, n, 1).position(), eventNo=100 + n, **numbers)
        for n in (2, 0)
    ]
    done = import_points(path, files, "points", window=True)
    assert (done.events, done.images, done.voxels_hit) == (2, 2, 100)
    assert [np.isnan(i.score("points")).all() for i in larstore.open(path).select()] == [False, True, False]
    strange = write_bee_cloud(tmp_path / "9.json", np.zeros((2, 3)), eventNo=109, **numbers)
    words = r"9.json: cloud 0 is of run, subrun, event 27409, 1, 109, which .*run.zarr lacks; it has 27409, 1, 100 "
    with pytest.raises(StoreError, match=words + r"\(file 0, event 0\); .* Fix: --file N"):
        import_points(path, [strange, *files], "all")
    done = import_points(path, [strange, *files], "all", skip_unknown=True)
    assert (done.events, done.events_unknown) == (2, 1)
    plain = tmp_path / "plain.npz"
    np.savez(plain, x=[0.0], y=[0.0], z=[0.0])
    with pytest.raises(InputError, match=r"does not tell which event of the store it is\. Fix: --file N"):
        import_points(path, [plain], "x")
    with pytest.raises(StoreError, match="cloud 0 is of file 5, event 0, which"):
        import_points(path, [plain], "x", file=5)
    with pytest.raises(StoreError, match="no image of the clouds' events"):
        import_points(path, [plain], "x", file=5, skip_unknown=True)


def test_an_interrupted_call_is_gone_on_with(store, tmp_path, monkeypatch):
    clouds = {f: write_bee(tmp_path / f"{f}.zip", small_deposits(2, 50, seed=f), name="img") for f in (0, 1)}
    whole = import_points(store.path, [clouds[0]], "whole", file=0)
    calls, write = [], larstore.PredictionWriter.write

    def stop_at_the_second(writer, shard, scores):
        calls.append(shard)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(writer, shard, scores)

    with monkeypatch.context() as patch:
        patch.setattr(larstore.PredictionWriter, "write", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            import_points(store.path, [clouds[0]], "parts", file=0)
    rest = import_points(store.path, [clouds[0]], "parts", file=0)
    assert 0 < rest.images_written < whole.images_written
    assert rest.counts == whole.counts
    assert import_points(store.path, [clouds[0]], "parts", file=0).images_written == 0
    for event in (0, 1):
        for tpc in (1, 3):
            image = larstore.open(store.path).image(0, event, tpc)
            assert_array_equal(image.score("parts"), image.score("whole"))
    for wrong in ({"t0": 1.0}, {"charge": True}, {"window": True}):
        with pytest.raises(StoreError, match=r"'parts' is of checkpoint .* Fix: choose another name"):
            import_points(store.path, [clouds[0]], "parts", file=0, **wrong)
    with pytest.raises(StoreError, match="Fix: choose another name"):
        import_points(store.path, [clouds[1]], "parts", file=0)


def document(**changes):
    return json.dumps({"x": [1.0], "y": [2.0], "z": [3.0], "q": [4.0]} | changes)


@pytest.mark.parametrize(("content", "words"), [
    (document()[:-1], "is no JSON"),
    (document(x=[float("nan")]), "has x nan in row 0, 1 such rows. Fix: "),
    (document(q=[float("inf")]), "has q inf in row 0"),
    (document(y=[1.0, 2.0]), r"lists of unequal lengths \(x 1, y 2, z 1, q 1\)"),
    (document(z="3"), "has no list of numbers 'z'"),
    (document(z=[True]), "has no list of numbers 'z'"),
    ("[]", "holds no point cloud"), ("", "holds no point cloud"),
    ('{"x": [0]}', "has no list of numbers 'y'"),
])  # fmt: skip
def test_bad_json_is_refused_before_anything_is_written(store, tmp_path, content, words):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        import_points(store.path, [path], "x", file=0)
    assert larstore.open(store.path).predictions == {}


@pytest.mark.parametrize("t0", [np.nan, np.inf, 1e300])
def test_a_time_that_is_none_is_refused(store, tmp_path, t0):
    with pytest.raises(ConfigError, match="Fix: a finite number of µs"):
        import_points(store.path, [write_bee_cloud(tmp_path / "1.json", np.zeros((1, 3)))], "x", t0=t0, file=0)


def test_damaged_archives_and_wrong_arrays_are_refused(store, tmp_path):
    bee = write_bee(tmp_path / "whole.zip", small_deposits(1, 200), name="img")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bee.read_bytes()[:-40])
    arrays = {
        "short.npz": {"arr_0": np.zeros((4, 2))}, "gap.npz": {"arr_1": np.zeros((4, 3))},
        "none.npz": {"a": np.zeros(3)}, "uneven.npz": {"x": np.zeros(3), "y": np.zeros(3), "z": np.zeros(2)},
        "nan.npz": {"arr_0": np.array([[0.0, np.nan, 0.0]])}, "objects.npz": {"arr_0": np.array([{}, 1], object)},
    }  # fmt: skip
    for name, content in arrays.items():
        np.savez(tmp_path / name, **content)
    for name, words in {
        "cut.zip": "truncated or damaged", "missing.json": "no such file", "short.npz": r"arr_0 has shape \(4, 2\)",
        "gap.npz": "holds the arrays arr_1. Fix: ", "none.npz": "holds the arrays a. Fix: ",
        "uneven.npz": r"has x \(3,\), y \(3,\), z \(2,\). Fix: ", "nan.npz": "has y nan in row 0",
        "objects.npz": "objects and pickles are not read",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=words):
            import_points(store.path, [tmp_path / name], "x", file=0)
    with zipfile.ZipFile(tmp_path / "bent.zip", "w") as archive:
        archive.writestr("data/0/0-img.json", document(x=[1e300]))
    with pytest.raises(InputError, match=r"has x 1e\+300 in row 0"):
        import_points(store.path, [tmp_path / "bent.zip"], "x", file=0)
    with pytest.raises(ConfigError, match=r"is the same as .* Fix: give each file once"):
        import_points(
            store.path, [bee, Path(bee).rename(tmp_path / "b.zip"), _copy(tmp_path / "b.zip")][1:], "x", file=0
        )
    without = write_bee_cloud(tmp_path / "plain.json", np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"has no charges\. Fix: leave --charge out"):
        import_points(store.path, [without], "x", file=0, charge=True)
    with pytest.raises(InputError, match=r"is one set, 'img' was asked for\. Fix: leave --set out"):
        import_points(store.path, [without], "x", file=0, chosen_set="img")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match=r"pipe.json: is a pipe\. Fix: write it to a file first"):
        import_points(store.path, [tmp_path / "pipe.json"], "x", file=0)
    assert larstore.open(store.path).predictions == {}


def _copy(path):
    other = path.with_name(f"copy-{path.name}")
    other.write_bytes(path.read_bytes())
    return other


def test_the_command(store, tmp_path):
    app = typer.Typer()
    app.command()(import_points_command)
    image = store.image(1, 0, 3)
    position = np.concatenate([image.position()[:20], [[30.0, 20.0, 54.0]]])  # the last one between the TPCs
    path = write_bee_cloud(tmp_path / "cloud.json", position, np.full(21, 10.0))
    call = [str(store.path), str(path), "--name", "wirecell", "--file", "1", "--window", "--tpcs", "3"]
    run = CliRunner().invoke(app, call)
    assert run.exit_code == 0, run.output
    told = dict(line.split("\t") for line in run.stdout.splitlines())
    assert (told["images"], told["voxels_hit"], told["tiled"], told["elsewhere"]) == ("1", "20", "20", "1")
    assert (told["points_outside"], told["charge_outside"]) == ("0", "0")
    assert "0.00% of the points" in run.stderr
    assert larstore.open(store.path).image(1, 0, 3).score("wirecell").sum() == 20
    assert CliRunner().invoke(app, [*call, "--tpcs", "x"]).exit_code == 2
    assert larstore.open(store.path).predictions["wirecell"].get("units") is None
    far = write_bee_cloud(tmp_path / "far.json", np.full((3, 3), 900.0))
    run = CliRunner().invoke(app, [str(store.path), str(far), "--name", "far", "--file", "1"])
    assert "no point lies in these images, 3 points lie in none of the images. Are they in cm" in run.stderr
    bare = write_bee_cloud(tmp_path / "bare.json", np.tile([[30.0, 20.0, 20.0]], (9, 1)))
    run = CliRunner().invoke(app, [str(store.path), str(bare), "--name", "bare", "--file", "1"])
    assert "100.00% of the points in these images lie in no tiled voxel; 0 points" in run.stderr
    assert "of these events" in run.stderr


def test_stores_that_cannot_be_written_are_refused_in_a_line(store, tmp_path, caplog):
    cloud = write_bee_cloud(tmp_path / "cloud.json", np.zeros((1, 3)), [1.0])
    with pytest.raises(StoreError, match=r"^memory://x: a URL can only be read. Fix: "):
        import_points("memory://x", [cloud], "x", file=0)
    for tpcs in ([2], [1, 2]):
        with pytest.raises(ConfigError, match=r"run.zarr: has no image of TPC 2. Fix: --tpcs among 1, 3$"):
            import_points(store.path, [cloud], "x", file=0, tpcs=tpcs)
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        shutil.copytree(store.path, disk / "run.zarr")
        remount(disk, "ro")
        with pytest.raises(StoreError, match=r"cannot write \(Read-only file system\)\. Fix: "):
            import_points(disk / "run.zarr", [cloud], "x", file=0)
        assert not caplog.messages
        remount(disk, "rw")
        filler = fill(disk, 4096)
        with pytest.raises(StoreError, match=r"cannot write \(No space left on device\)\. Fix: "):
            import_points(disk / "run.zarr", [cloud], "x", file=0)
        assert larstore.open(disk / "run.zarr").predictions == {}
        filler.unlink()
        assert import_points(disk / "run.zarr", [cloud], "x", file=0, charge=True).images_written == 2
        assert larstore.open(disk / "run.zarr").predictions["x"]["units"] == "file units"
