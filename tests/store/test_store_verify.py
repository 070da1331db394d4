"""verify finds each promise of the format that is broken, by itself, and tells where, also to machines."""

import json
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import store_cli
from larstore.commit import write_child
from larstore.format import TRUTH_COLUMNS
from larstore.records import InputFile
from larstore.root import read_root
from larstore.shards import encode_shard, layout_of
from larstore.table import _encode
from larstore.testing import add_images, make_geometry, make_image

ALL = tuple(TRUTH_COLUMNS)
KEYS = [(0, 0, 1), (0, 1, 1), (0, 2, 1)]
SHARDS = dict(zip(KEYS, ([0], [0, 1], [1]), strict=True))  # of voxels
PIXELS = ("pixels/coords", "pixels/charge", "pixels/live")  # 40 of each image
PIXEL_SHARDS = [0, 1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three images of 20 voxels in shards of 32 rows: the second spans two."""
    path = tmp_path_factory.mktemp("verify") / "a.zarr"
    options = {"shard_rows": 32, "chunk_rows": 8, "truth_columns": ALL, "pixels": True}
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, **options)
    images = [make_image(*key, 20, input="0.npz", truth_columns=ALL, pixels=True) for key in KEYS]
    add_images(path, images, [InputFile("0.npz", 0, 1, "0" * 64)])
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a"}) as writer:
        for shard, group in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, np.arange(len(image), dtype=np.float32)) for image in group])
        writer.commit()
    assert larstore.verify(path).ok
    return path


@pytest.fixture
def path(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a.zarr")


def edit_root(path, change):
    """Change the root and its children, with a valid seal."""
    root = read_root(path)
    change(root)
    (path / "zarr.json").write_bytes(root.sealed())
    for node, document in root.nodes.items():
        write_child(path, node, document)


def edit_column(path, name, change):
    """Change a column of the index, with valid checksums."""
    values = larstore.open(path).index_columns.column(name).copy()
    change(values)
    (path / f"index/{name}/c/0").write_bytes(_encode(read_root(path).nodes[f"index/{name}"], values))


def edit_rows(path, array, change):
    """Change rows of a sharded array, with valid checksums."""
    layout = layout_of(array, read_root(path).nodes[array])
    values = larstore.open(path).read_rows(array, 0, layout.rows)
    change(values)
    for shard in range(-(-layout.rows // layout.shard_rows)):
        part = values[shard * layout.shard_rows : (shard + 1) * layout.shard_rows]
        (path / layout.file(shard)).write_bytes(encode_shard(layout, part))


def put(i, value):
    """An edit that sets an entry."""

    def change(values):
        values[i] = value

    return change


def only(path, **options):
    """The one problem that there is."""
    (problem,) = larstore.verify(path, **options).problems
    return problem


@pytest.mark.parametrize(
    ("column", "change", "what", "images"),
    [
        ("voxel_start", put(2, 41), "voxel rows outside the arrays' 60", [KEYS[2]]),
        ("voxel_start", put(0, -1), "voxel rows outside the arrays' 60", [KEYS[0]]),
        ("voxel_count", put(1, -1), "voxel rows outside the arrays' 60", [KEYS[1]]),
        ("voxel_count", put(0, 21), "voxel rows of two images overlap", KEYS[:2]),
        ("voxel_count", put(0, 45), "voxel rows of two images overlap", KEYS),
        ("truth_count", put(2, 1000), "truth rows outside the arrays'", [KEYS[2]]),
        ("truth_start", put(1, 0), "truth rows of two images overlap", KEYS[:2]),
        ("pixel_start", put(1, 0), "pixel rows of two images overlap", KEYS[:2]),
        ("point_count", put(2, 1000), "point rows outside the arrays'", [KEYS[2]]),
        ("truth_columns", put(1, 8), "names a truth column that the store lacks", [KEYS[1]]),
        ("input", put(2, 1), "names an input that inputs/ does not hold", [KEYS[2]]),
        ("input", put(1, -2), "names an input that inputs/ does not hold", [KEYS[1]]),
    ],
)
def test_the_index_against_the_arrays(path, column, change, what, images):
    edit_column(path, column, change)
    problem = only(path, fast=True)
    assert what in problem.what
    assert problem.images == images
    kind = column.partition("_")[0]
    assert problem.array == (f"index/{kind}_start" if kind in ("voxel", "pixel", "point") else problem.array)
    assert problem.array.startswith("index/")
    assert what in next(p.what for p in larstore.verify(path).problems)


def test_columns_of_other_lengths(path):
    edit_root(path, lambda root: root.set_rows("index/n_bad_channels", 2))
    assert "columns differ in length" in only(path, fast=True).what


def test_a_column_that_is_missing(path):
    edit_root(path, lambda root: root.nodes.pop("index/truth_sum"))
    assert "columns ['truth_sum'] are missing" in only(path, fast=True).what


@pytest.mark.parametrize(
    ("array", "change", "what", "images"),
    [
        ("voxels/coords", lambda v: put([3, 4], v[[4, 3]])(v), "not sorted", KEYS[:1]),
        ("voxels/coords", lambda v: put(4, v[3])(v), "not sorted", KEYS[:1]),
        ("voxels/coords", put(59, 65535), "never written", KEYS[2:]),
        ("voxels/charge", put((25, 1), 1e9), "sums differ", KEYS[1:2]),
        ("voxels/charge", put((25, 1), np.nan), "never written", KEYS[1:2]),
        ("voxels/live", put(25, 255), "never written", KEYS[1:2]),
        ("voxels/truth", put(3, np.inf), "infinity", KEYS[:1]),
        ("truth/value", put(0, 1e9), "sum differs", KEYS[:1]),
        ("truth/coords", lambda v: put([0, 1], v[[1, 0]])(v), "not sorted", KEYS[:1]),
        ("truth/value", put(0, np.nan), "never written", KEYS[:1]),
        ("truth/collected", put(0, np.nan), "never written", KEYS[:1]),
        ("truth/track", put(0, -(2**31)), "never written", KEYS[:1]),
        ("pixels/coords", lambda v: put([0, 1], v[[1, 0]])(v), "not sorted", KEYS[:1]),
        ("pixels/charge", put((0, 0), 1e9), "sums differ", KEYS[:1]),
        ("pixels/live", put(0, 255), "never written", KEYS[:1]),
        ("pixels/truth_value", put(0, 1e9), "sum differs", KEYS[:1]),
        ("pixels/truth_pdg", put(0, -(2**31)), "never written", KEYS[:1]),
    ],
)
def test_content_against_the_rules(path, array, change, what, images):
    edit_rows(path, array, change)
    assert larstore.verify(path, fast=True).ok
    problem = only(path)
    assert what in problem.what
    shards = SHARDS[images[0]] if array.startswith("voxels") else PIXEL_SHARDS if array in PIXELS else [0]
    named = f"shard {shards[0]}, " if len(shards) == 1 else f"shards {shards[0]} to {shards[-1]}, "
    assert f"/{array}: {named}" in problem.what
    assert (problem.array, problem.shard, problem.images) == (array, shards[0], images)


def test_sums_of_no_rows_name_no_shard(path):
    """The index claims a sum of an image without voxels: no shard can be to blame."""
    edit_column(path, "voxel_count", put(2, 0))
    problems = [p for p in larstore.verify(path).problems if p.array == "voxels/charge"]
    assert [(p.shard, p.images) for p in problems] == [(None, KEYS[2:])]


@pytest.mark.parametrize("change", ["longer", "shards", "done", "gone"])
def test_predictions_are_aligned(path, change):
    def edit(root):
        score, attributes = root.nodes["predictions/net/score"], root.nodes["predictions/net"]["attributes"]
        if change == "longer":
            score["shape"] = [61]
        elif change == "shards":
            score["chunk_grid"]["configuration"]["chunk_shape"] = [64]
        elif change == "done":
            attributes["done"] = [[0, 2]]
        else:
            root.nodes.pop("predictions/net/score")

    edit_root(path, edit)
    for fast in (True, False):
        problem = only(path, fast=fast)
        assert problem.array == "predictions/net/score"
        assert ("beyond its 60 rows" if change == "done" else "not aligned with voxels/") in problem.what


def test_the_geometry_hash(path):
    edit_root(path, lambda root: root.attributes.update(geometry_hash="0" * 64))
    problem = only(path, fast=True)
    assert problem.array == "geometry"
    assert "geometry_hash" in problem.what


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize(
    "array", ["voxels/coords", "voxels/truth", "truth/pdg", "pixels/charge", "predictions/net/score"]
)
def test_damage_names_shard_and_chunk(path, array):
    layout = layout_of(array, read_root(path).nodes[array])
    flip(path / layout.file(0), 20)  # in its first chunk
    problem = only(path)
    assert (problem.array, problem.shard, problem.chunks) == (array, 0, [0])
    assert problem.images[0] == KEYS[0]


def test_a_missing_shard_names_all_chunks_that_images_need(path):
    (path / "voxels/live/c/1").unlink()
    problem = only(path)
    assert (problem.array, problem.shard, problem.chunks) == ("voxels/live", 1, [0, 1, 2, 3])
    assert problem.images == KEYS[1:]


@pytest.mark.parametrize("table", ["index/run", "inputs/sha256", "geometry/tail_x"])
def test_damage_in_a_table(path, table):
    flip(path / table / "c/0", 12)
    problem = only(path, fast=True)
    assert problem.array == (table if table.startswith("index") else table.partition("/")[0])
    assert table in problem.what


def test_json_says_all(path):
    app = typer.Typer()
    store_cli.register(app)
    flip(path / "voxels/live/c/0", 20)
    (path / "index/run/zarr.json").unlink()
    for options, ok in ([], False), (["--fast"], True):
        done = CliRunner().invoke(app, ["verify", str(path), "--json", *options])
        assert done.exit_code == (0 if ok else 1)
        found = json.loads(done.stdout)
        assert list(found) == ["path", "ok", "fast", "images", "voxels", "problems", "notes"]
        assert (found["ok"], found["fast"], found["images"], found["voxels"]) == (ok, ok, 3, 60)
        assert len(found["notes"]) == 1
    found = json.loads(CliRunner().invoke(app, ["verify", str(path), "--json"]).stdout)["problems"]
    place = {"array": "voxels/live", "shard": 0, "chunks": [[0, 0]], "images": [[0, 0, 1]], "unreadable": False}
    assert [{**problem, "what": ""} for problem in found] == [{"what": "", **place}]
    assert "Fix" not in found[0]["what"]
