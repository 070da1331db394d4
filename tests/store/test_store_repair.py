"""Repair keeps what is provably right, bit by bit, and says what it left out; else it refuses."""

import os
import shutil

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import larstore
from larstore import maintenance_cli
from larstore.errors import DamageError, StoreError
from larstore.format import TRUTH_COLUMNS
from larstore.records import Failure, InputFile
from larstore.repairing import repair
from larstore.shards import layout_of
from larstore.testing import add_images, make_geometry, make_image

ALL = tuple(TRUTH_COLUMNS)
SHARDED = ("voxels", "truth", "pixels", "predictions")
ARRAYS = ["voxels/coords", "voxels/charge", "truth/track", "pixels/live", "pixels/truth_value"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files 0 to 2, each with two events of TPCs 1 and 2 in a shard of its own; files 0 and 1 are predicted."""
    path = tmp_path_factory.mktemp("repair") / "a.zarr"
    options = {"shard_rows": 512, "chunk_rows": 64, "truth_columns": ALL, "pixels": True}
    larstore.create(path, geometry=make_geometry((1, 2)), provenance={"tiling": {"threshold": 3}}, **options)
    for file in range(3):
        keys = [(file, event, tpc) for event in range(2) for tpc in (1, 2)]
        images = [make_image(*key, 64, input=f"{file}.npz", truth_columns=ALL, pixels=True) for key in keys]
        add_images(path, images, [InputFile(f"{file}.npz", file, 1, f"{file:064x}")])
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a"}) as writer:
        for shard, images in writer.groups(larstore.open(path).select(files=(0, 1))):
            writer.write(shard, [(image, np.full(len(image), image.row, np.float32)) for image in images])
        writer.commit()
    with larstore.StoreWriter(path) as writer:
        writer.commit([], [Failure(7, -1, "7.npz", "no file")])
    return path


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a.zarr")


def flip(file, at=20):
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def shard_file(path, array, shard):
    place = path / array / "c" / str(shard)
    return place if place.is_file() else place / "0"


def flip_chunk(path, array, shard, chunk):
    layout = layout_of(array, larstore.open(path).root.nodes[array])
    file = path / layout.file(shard)
    table = np.frombuffer(file.read_bytes()[-layout.index_bytes : -4], "<u8").reshape(-1, 2)
    flip(file, int(table[chunk, 0]) + 20)


def expect_repaired(whole, new, dropped):
    """All images but those dropped, bit by bit as in the undamaged store."""
    assert larstore.verify(new).ok
    good = larstore.open(whole)
    keys = [key for key in good.index.index.tolist() if key not in dropped]
    assert larstore.open(new).index.index.tolist() == keys
    assert set(larstore.diff(good, new)) == {f"{key}: in {whole}, not in {new}" for key in dropped}


def test_a_store_without_damage(path, tmp_path):
    done = repair(path, tmp_path / "b.zarr")
    assert (done.dropped, done.unscored, done.predictions) == ([], {}, [])
    assert larstore.diff(path, done.store) == []
    assert done.store.inputs.equals(larstore.open(path).inputs)
    assert done.store.attributes["provenance"]["history"][0]["action"] == "repair"


@pytest.mark.parametrize("array", ARRAYS)
def test_a_damaged_chunk_costs_its_images(made, path, tmp_path, array):
    flip(shard_file(path, array, 1))
    done = repair(path, tmp_path / "b.zarr")
    assert done.dropped
    assert set(done.dropped) == set(done.report.problems[0].images)
    assert {file for file, _, _ in done.dropped} == {1}
    expect_repaired(made, tmp_path / "b.zarr", set(done.dropped))


def test_dropped_images_are_failures_of_their_units(made, path, tmp_path):
    shard_file(path, "voxels/charge", 1).unlink()
    done = repair(path, tmp_path / "b.zarr")
    assert done.dropped == [(1, 0, 1), (1, 0, 2), (1, 1, 1), (1, 1, 2)]
    expect_repaired(made, tmp_path / "b.zarr", set(done.dropped))
    failures = done.store.failures
    assert failures[["file", "tpc", "input"]].to_numpy().tolist() == [
        [7, -1, "7.npz"],
        [1, 1, "1.npz"],
        [1, 2, "1.npz"],
    ]
    assert "damaged in" in failures["error"][1]
    assert "event 0, 1: " in failures["error"][1]
    assert "array voxels/charge, shard 1 is missing" in failures["error"][1]
    assert done.store.inputs["path"].tolist() == ["0.npz", "1.npz", "2.npz"]  # with their numbers, for the next run
    add_images(done.store.path, [make_image(*key, 64, input="1.npz") for key in done.dropped])
    assert larstore.open(done.store.path).failures["file"].tolist() == [7]


def test_a_failure_stands_beside_good_images_of_its_unit(path, tmp_path):
    flip(shard_file(path, "voxels/live", 1))  # the first chunk: one image of two of its unit
    done = repair(path, tmp_path / "b.zarr")
    assert done.dropped == [(1, 0, 1)]
    assert (1, 1, 1) in done.store.index.index
    assert done.store.failures[["file", "tpc"]].to_numpy().tolist() == [[7, -1], [1, 1]]


@pytest.mark.parametrize(("shard", "chunk", "lost"), [(0, 0, (0, 0, 1)), (1, 3, (1, 1, 2))])
def test_damaged_scores_cost_no_image(made, path, tmp_path, shard, chunk, lost):
    flip_chunk(path, "predictions/net/score", shard, chunk)  # of what will be the first, the last image of a shard
    done = repair(path, tmp_path / "b.zarr")
    assert (done.dropped, done.unscored) == ([], {"net": [lost]})
    expect_repaired(made, tmp_path / "b.zarr", set())
    good = larstore.open(made)
    for image in done.store.select():
        expected = good.image(*image.key).score("net")
        if image.key == lost:
            expected[:] = np.nan
        assert image.score("net").tobytes() == expected.tobytes()
    shutil.rmtree(path / "predictions/net/score/c")
    done = repair(path, tmp_path / "c.zarr")
    assert len(done.unscored["net"]) == 8
    assert done.store.predictions["net"]["done"] == []


def test_an_image_that_lost_both_is_dropped_once(made, path, tmp_path):
    flip_chunk(path, "predictions/net/score", 0, 0)
    flip_chunk(path, "voxels/live", 0, 0)
    done = repair(path, tmp_path / "b.zarr")
    assert (done.dropped, done.unscored) == ([(0, 0, 1)], {})
    expect_repaired(made, tmp_path / "b.zarr", {(0, 0, 1)})


def test_a_prediction_that_lies_elsewhere_is_left_out(made, path, tmp_path):
    root = larstore.open(path).root.copy()
    root.nodes["predictions/net"]["attributes"]["done"] = [[0, 99]]
    (path / "zarr.json").write_bytes(root.sealed())
    done = repair(path, tmp_path / "b.zarr")
    assert (done.dropped, done.predictions, done.store.predictions) == ([], ["net"], {})
    expect_repaired(made, tmp_path / "b.zarr", set())


@pytest.mark.parametrize(
    "name", ["index/voxel_start/c/0", "index/deleted/c/0", "inputs/path/c/0", "failures/error/c/0", "geometry/tpc/c/0"]
)
def test_damage_outside_of_images_is_refused(path, tmp_path, name):
    before = path / name
    flip(before, before.stat().st_size // 2)
    column = name.removesuffix("/c/0")
    with pytest.raises(DamageError, match=rf"cannot be repaired: .*column {column}.* Fix: restore") as error:
        repair(path, tmp_path / "b.zarr")
    assert ".." not in str(error.value)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_damaged_root_is_refused(path, tmp_path):
    flip(path / "zarr.json", 900)
    with pytest.raises(DamageError, match=r"cannot be repaired: .*zarr\.json.*Fix: restore"):
        repair(path, tmp_path / "b.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]


def check_any_damage(made, place, data):
    """Whatever files are cut, flipped or gone: every image of the new store is as it was, or it is refused."""
    path = shutil.copytree(made, place / "a.zarr")
    files = sorted(f for f in path.rglob("*") if f.is_file() and ".larstore" not in f.parts)
    shards = [f for f in files if f.relative_to(path).parts[0] in SHARDED and "c" in f.relative_to(path).parts]
    for file in data.draw(
        st.lists(st.sampled_from(shards if data.draw(st.integers(0, 3)) else files), min_size=1, max_size=4)
    ):
        how = data.draw(st.sampled_from(["flip", "cut", "unlink"]))
        if how == "unlink" or not file.is_file() or file.stat().st_size < 2:
            file.unlink(missing_ok=True)
        elif how == "flip":
            flip(file, data.draw(st.integers(0, file.stat().st_size - 1)))
        else:
            file.write_bytes(file.read_bytes()[: data.draw(st.integers(0, file.stat().st_size - 1))])
    report = larstore.verify(path)
    try:
        done = repair(path, place / "b.zarr")
    except DamageError:
        assert any(
            problem.array.partition("/")[0] not in ("voxels", "truth", "pixels", "predictions")
            for problem in report.problems
        )
        return
    expect_repaired(made, place / "b.zarr", set(done.dropped))
    assert set(done.dropped) | {key for keys in done.unscored.values() for key in keys} == report.damaged


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_some_damage_is_repaired_or_refused(made, tmp_path_factory, data):
    check_any_damage(made, tmp_path_factory.mktemp("some"), data)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_repaired_or_refused(made, tmp_path_factory, data):
    check_any_damage(made, tmp_path_factory.mktemp("any"), data)


def test_from_the_command_line(path, tmp_path):
    app = typer.Typer()
    maintenance_cli.register(app)

    def run(*arguments):
        return CliRunner().invoke(app, ["repair", *map(str, arguments)])

    flip(shard_file(path, "voxels/live", 1))
    flip(shard_file(path, "predictions/net/score", 0))
    done = run(path, "-o", tmp_path / "b.zarr")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert (
        "array voxels/live, chunk 0 of shard 1: checksum does not match; images (file, event, tpc) (1, 0, 1)"
        in lines[1]
    )
    assert lines[2:] == [
        "left out: scores net of 1 image(s)",
        "left out: 1 image(s)",
        f"{tmp_path}/b.zarr: 11 images, 704 voxels, 3 inputs",
    ]
    assert "larstore preprocess" in done.stderr
    for source, target in ((path, path), (path, path / "x.zarr"), (tmp_path, tmp_path / "c.zarr")):
        assert isinstance(run(source, "-o", target).exception, StoreError)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]
