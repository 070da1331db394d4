"""Stores that lie: each case changes a good store, and seals what it changed, as somebody who means harm can."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import larstore
from larstore.codecs import checksum, pack
from larstore.root import Root, read_root
from larstore.shards import layout_of
from larstore.table import _encode

CASES: dict[str, Callable[[Path], None]] = {}
ROWS = 8  # images of the good store


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CASES[function.__name__] = function
    return function


def edited(edit: Callable[[Root], object]) -> Callable[[Path], None]:
    """A case that changes the root and seals it."""

    def change(path: Path) -> None:
        root = read_root(path)
        edit(root)
        (path / "zarr.json").write_bytes(root.sealed())

    return change


def set_at(keys: tuple[object, ...], value: object, root: Root) -> None:
    *way, last = keys
    target = root.document
    for key in way:
        target = target[key]
    target[last] = value


OURS = ("attributes", "larstore")
NODES = ("consolidated_metadata", "metadata")
COORDS, SCORE, FILE, PATHS = (
    (*NODES, n) for n in ("voxels/coords", "predictions/net/score", "index/file", "inputs/path")
)
GRID = ("chunk_grid", "configuration", "chunk_shape")
INNER = ("codecs", 0, "configuration", "chunk_shape")

SIZES = (0, -1, -(2**31), 2**40, 2**62, 2**64, 10**300, 16.0, 1.5, "16", None, True, [16], {"a": 1})
LIES: dict[tuple[object, ...], tuple[object, ...]] = {
    (*COORDS, "shape"): ([], [8], [8, 3, 3], "8", None, [-1, 3], [2**62, 3], [2**40, 10**9], [8.0, 3], {"0": 1}),
    (*COORDS, *GRID): ([], [0, 3], [2**40, 3], [64, 0], [63, 3]),
    (*COORDS, *INNER): ([], [0, 3], [2**40, 3], [16, 3 * 10**9]),
    (*COORDS, "data_type"): ("object", "string", "<M8[ns]", "V1000000000", "uint32", 7, None, {"name": "struct"}),
    (*COORDS, "fill_value"): ("x" * 1000, [0] * 1000, None, 0),
    (*COORDS, "codecs"): ([], None, [{}], [{"name": "bytes"}], ["sharding_indexed"], {"a": 1}),
    (*COORDS, "codecs", 0, "configuration", "codecs"): ([], [{"name": "transpose"}] * 9, None, [1, 2, 3]),
    (*COORDS, "node_type"): ("group", "file", None),
    (*COORDS, "attributes"): (None, [], "x"),
    (*FILE, "shape"): (*([n] for n in SIZES if n != ROWS), [], [ROWS + 1], [10**12], "x", None),
    (*FILE, *GRID): (*([n] for n in SIZES), [], None),
    (*FILE, "data_type"): ("object", "string", "float128", "U1000000000", "int64", None, []),
    (*FILE, "codecs"): ([], None, [{}] * 3, [{"name": "bytes"}, {"name": "gzip"}, {"name": "crc32c"}]),
    (*PATHS, "data_type"): ("int64", "bytes"),
    (*SCORE, "shape"): (*([n] for n in SIZES if type(n) is not int), [8, 3], []),
    (*SCORE, *GRID): ([0], [-1], [2**62], [], None),
    (*SCORE, *INNER): ([0], [2**62], []),
    (*SCORE, "data_type"): ("float64", "object"),
    (*NODES, "predictions/net", "attributes", "done"): (None, 5, "x", [5], [[1]], [["a", 1]], [[0, 10**30]]),
    (*NODES, "geometry", "attributes"): ({}, None, {"tpcs": None}, {"tpcs": []}, {"tpcs": {"1": {}}}),
    (*NODES, "geometry", "attributes", "tpcs", "1", "n_y"): ("x", None, 10**400, 1.5),
    (*NODES, "geometry/tail_x", "shape"): ([1], [0], [10**12]),
    (*OURS, "planes"): (10**9, [], ["p"] * 3, [f"p{i}" for i in range(1000)], ["../x", "v", "w"], [1, 2, 3], None),
    (*OURS, "chunk_rows"): SIZES,
    (*OURS, "shard_rows"): SIZES,
    (*OURS, "downsample"): (None, [], [0, 0, 0], [1, 1, 10**9], "abc"),
    (*OURS, "detector"): (None, 5, "a\nb", "\x1b[31m"),
    (*OURS, "units"): (None, ["electrons"], "a\rb"),
    (*OURS, "geometry_hash"): (None, "x", 7),
    (*OURS, "format_version"): ("1", None, -1, 1.5, True, [1]),
    (*OURS, "commit"): ("x", -1, None, 10**300),
    (*OURS, "provenance"): (None, [], "x"),
    (*OURS, "voxel_mm"): (None, "x"),
    ("consolidated_metadata",): (None, [], {"metadata": []}, {}),
}
for keys, values in LIES.items():
    for number, value in enumerate(values):
        CASES[f"{'.'.join(map(str, keys[1:] or keys))}-{number}"] = edited(partial(set_at, keys, value))

NAMES = (
    "../escape",
    "/etc",
    "index/../../x",
    "index/a\nb",
    "predictions/..",
    "index//a",
    "index/\0",
    "a\\b",
    "x" * 999,
    "",
)
for number, name in enumerate(NAMES):
    CASES[f"name-{number}"] = edited(lambda root, name=name: root.nodes.update({name: root.nodes["index/file"]}))
HARMLESS = {f"{kind} as voxels/live/zarr.json" for kind in ("pipe", "device", "directory", "large")}
HARMLESS |= {"without truth/pdg"}  # as if it had never had it
for missing in (
    "index/file",
    "voxels/charge",
    "truth/pdg",
    "pixels/live",
    "inputs/path",
    "geometry",
    "geometry/tail_x",
):
    CASES[f"without {missing}"] = edited(lambda root, missing=missing: root.nodes.pop(missing))


def write_root(data: bytes, path: Path) -> None:
    (path / "zarr.json").write_bytes(data)


RAW = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not an object": b"[]",
    "a number": b"5",
    "empty": b"",
    "binary": bytes(range(256)),
    "utf-16": '{"attributes": {}}'.encode("utf-16"),
    "digits": b'{"attributes": ' + b"9" * 10_000 + b"}",
    "half a character": b'{"attributes": {"larstore": {"a": "\\ud800"}}}',
    "nan": b'{"attributes": {"larstore": {"a": NaN}}}',
    "infinite": b'{"attributes": {"larstore": {"a": 1e999}}}',
    "brackets": b"[" + b"[]," * (2 << 20) + b"[]]",
    "too large": b" " * (9 << 20) + b"{}",
}
for name, data in RAW.items():
    CASES[f"root {name}"] = partial(write_root, data)


@case
def nested_and_sealed(path: Path) -> None:
    value: list[object] = []
    for _ in range(200):
        value = [value]
    edited(partial(set_at, (*OURS, "provenance"), {"a": value}))(path)


def no_plain_file(kind: str, name: str, path: Path) -> None:
    """A pipe, a directory, a device without end or a file of 100 GB (without disk) in the place of a file."""
    file = path / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "directory":
        file.mkdir()
    else:
        with file.open("wb") as out:
            out.truncate(100 << 30)


for name in ("zarr.json", "index/file/c/0", "inputs/path/c/0", "voxels/live/c/0", "voxels/live/zarr.json"):
    for kind in ("pipe", "device", "directory", "large"):
        CASES[f"{kind} as {name}"] = partial(no_plain_file, kind, name)


def write_column(name: str, value: object, path: Path) -> None:
    """All rows of a column of the index, or its first one."""
    root = read_root(path)
    document = root.nodes[f"index/{name}"]
    whole = larstore.open(path).index_columns.column(name).copy()
    whole[: 1 if name != "deleted" else None] = value
    (path / f"index/{name}/c/0").write_bytes(_encode(document, whole))


INDEX_LIES = {
    "voxel_start": (-1, -2, -(2**63), 2**62, 2**63 - 1, 10**6),
    "voxel_count": (-1, -(2**31), 2**31 - 1, 1000),
    "truth_start": (-2, -(2**63), 2**63 - 1),
    "truth_count": (-1, -(2**31), 2**31 - 1),
    "pixel_start": (-2, 2**63 - 1),
    "pixel_count": (-1, 2**31 - 1),
    "point_start": (-2, 2**63 - 1),
    "point_count": (-1, 2**31 - 1),
    "truth_columns": (-1, 7, 2**31 - 1),
    "input": (2**31 - 1, 7),
    "charge_sum_u": (float("nan"), float("inf")),
    "truth_sum": (float("inf"), 1e300),
}
for column, values in INDEX_LIES.items():
    for value in values:
        CASES[f"{column}={value}"] = partial(write_column, column, value)


def rewrite_index(path: Path, n: int, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """An index of ``n`` images, all as the first one, with what ``change`` does to its columns."""
    store = larstore.open(path)
    columns = {name: np.repeat(store.index_columns.column(name)[:1], n) for name in store.index_columns.names}
    columns["event"] = np.arange(n, dtype=np.int32)
    change(columns)
    root = read_root(path)
    for name, values in columns.items():
        document = root.nodes[f"index/{name}"]
        document["shape"] = [n]
        for number, start in enumerate(range(0, n, 262_144)):
            (path / f"index/{name}/c/{number}").write_bytes(_encode(document, values[start : start + 262_144]))
    (path / "zarr.json").write_bytes(root.sealed())


@case
def many_images_on_the_same_rows(path: Path) -> None:
    rewrite_index(path, 100_000, lambda columns: None)


def claim_rows(path: Path, kinds: tuple[str, ...] = ("voxels/", "truth/", "pixels/", "predictions/net/score")) -> None:
    """Arrays of 2^40 rows of which the shards are not there."""
    root = read_root(path)
    for name, node in root.nodes.items():
        if node["node_type"] == "array" and name.startswith(kinds):
            node["shape"][0] = 2**40
    (path / "zarr.json").write_bytes(root.sealed())


@case
def an_image_of_two_thousand_million_voxels(path: Path) -> None:
    claim_rows(path)
    for kind in ("voxel", "truth", "pixel", "point"):
        write_column(f"{kind}_count", 2**31 - 1, path)


@case
def three_images_of_two_thousand_million_voxels(path: Path) -> None:
    claim_rows(path)

    def change(columns: dict[str, np.ndarray]) -> None:
        for kind in ("voxel", "truth", "pixel", "point"):
            columns[f"{kind}_count"][:] = 2**31 - 1
            columns[f"{kind}_start"][:] = np.arange(3) * 2**31

    rewrite_index(path, 3, change)


@case
def an_index_of_a_million_million_images(path: Path) -> None:
    root = read_root(path)
    for name, node in root.nodes.items():
        if name.startswith("index/"):
            node["shape"] = [10**12]
    (path / "zarr.json").write_bytes(root.sealed())


def text_chunk(data: bytes, path: Path) -> None:
    (path / "inputs/path/c/0").write_bytes(pack(data, 1, "zstd", 1, "noshuffle"))


TEXTS = {
    "four thousand million strings": b"\xff" * 4 + bytes(100),
    "a string beyond the chunk": b"\x02\0\0\0\xff\xff\xff\xff" + b"a" * 10,
    "no number": b"\x02\0",
    "no text": b"\x02\0\0\0\x02\0\0\0\xff\xff\0\0\0\0",
    "a string of which the length is cut": b"\x02\0\0\0\0\0\0\0\x01",
}
for name, data in TEXTS.items():
    CASES[f"text: {name}"] = partial(text_chunk, data)


@case
def text_that_unpacks_to_a_gigabyte(path: Path) -> None:
    text_chunk(b"\x02\0\0\0" + bytes(2**30), path)


@case
def neither_true_nor_false(path: Path) -> None:
    document = read_root(path).nodes["index/deleted"]
    rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    (path / "index/deleted/c/0").write_bytes(pack(b"\2" * rows, 1, "zstd", 1, "noshuffle"))


def shard_index(change: Callable[[np.ndarray], None], path: Path) -> None:
    """Change the index of the first shard of charge, and its checksum."""
    layout = layout_of("voxels/charge", read_root(path).nodes["voxels/charge"])
    file = path / layout.file(0)
    data = file.read_bytes()
    index = np.frombuffer(data[-layout.index_bytes : -4], "<u8").reshape(-1, 2).copy()
    change(index)
    file.write_bytes(data[: -layout.index_bytes] + index.tobytes() + checksum(index.tobytes()))


def set_entry(offset: int, size: int, index: np.ndarray) -> None:
    index[0] = offset, size


for offset, size in (
    (0, 2**40),
    (0, 2**64 - 1),
    (2**63, 100),
    (2**64 - 2, 100),
    (2**40, 10),
    (0, 0),
    (0, 3),
    (5, 2**63),
):
    CASES[f"shard index {offset}, {size}"] = partial(shard_index, partial(set_entry, offset, size))


@case
def chunks_that_overlap(path: Path) -> None:
    def change(index: np.ndarray) -> None:
        index[:] = index[0]

    shard_index(change, path)


def chunk(data: bytes, path: Path) -> None:
    """A first shard of ``voxels/live`` whose only chunk holds ``data``, checksum and all."""
    layout = layout_of("voxels/live", read_root(path).nodes["voxels/live"])
    index = np.full((layout.chunks, 2), 2**64 - 1, "<u8")
    index[0] = 0, len(data)
    (path / layout.file(0)).write_bytes(data + index.tobytes() + checksum(index.tobytes()))


@case
def a_chunk_that_unpacks_to_a_gigabyte(path: Path) -> None:
    chunk(pack(bytes(2**30), 1, "zstd", 1, "noshuffle"), path)


@case
def a_chunk_whose_header_lies(path: Path) -> None:
    body = bytearray(pack(bytes(2**20), 1, "zstd", 1, "noshuffle")[:-4])
    body[4:8] = (16).to_bytes(4, "little")
    chunk(bytes(body) + checksum(bytes(body)), path)


# Whose root is read: what they claim could cost memory.
OPENED = [name for name in CASES if not name.startswith(("metadata", "larstore", "consolidated", "name-"))]


def build(name: str, good: Path, folder: Path) -> Path:
    """The store of a case, in ``folder``."""
    path = folder / "run.zarr"
    if path.is_symlink() or path.exists():
        shutil.rmtree(path)
    shutil.copytree(good, path)
    CASES[name](path)
    return path
