"""Format version 1: array layouts, fill values, and the ``zarr.json`` documents; the root carries its own sha256."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from larstore.codecs import BYTES_CODEC, CRC_CODEC, blosc_codec
from larstore.root_checks import Document as Document

FORMAT_VERSION = 1
MANTISSA_BITS = 23  # of a float32
KEPT_BITS = "quantization_nsb"  # CF conventions 1.12: significant bits of a rounded mantissa
ATTRIBUTE = "larstore"  # the key of the root's attributes that is ours
SHARD_ROWS = 2_097_152  # measured: see the format page
CHUNK_ROWS = 16_384
TABLE_ROWS = 262_144  # rows of a chunk of the index
TEXT_TABLE_ROWS = 16_384  # of the small tables with text columns

INDEX_COLUMNS = {
    "file": "int32",
    "event": "int32",
    "tpc": "int32",
    "voxel_start": "int64",
    "voxel_count": "int32",
    "truth_start": "int64",  # -1: this image has no truth voxels
    "truth_count": "int32",
    "run": "int32",
    "subrun": "int32",
    "event_id": "int64",
    "input": "int32",  # row of inputs/, -1 unknown
    "commit": "int32",
    "deleted": "bool",
    "truth_sum": "float64",  # NaN: no truth known
    "n_bad_channels": "int32",
}
PLACES = tuple(f"{kind}_{what}" for kind in ("voxel", "truth", "pixel", "point") for what in ("start", "count"))
INPUT_COLUMNS = {"path": "string", "file": "int64", "size": "int64", "sha256": "string", "sample": "string"}
GEOMETRY_COLUMNS = {"tpc": "int32", "plane": "uint8", "channel": "int32", "segment": "int32"}
GEOMETRY_COLUMNS |= {f"{end}_{axis}": "float64" for end in ("tail", "head") for axis in "xyz"}
FAILURE_COLUMNS = {"file": "int64", "tpc": "int32", "input": "string", "error": "string", "commit": "int32"}


PIXEL_INDEX_COLUMNS = {
    "pixel_start": "int64",  # -1: this image keeps no pixels
    "pixel_count": "int32",
    "point_start": "int64",  # -1: no truth points
    "point_count": "int32",
}


def index_columns(planes: list[str], truth_columns: Sequence[str] = (), pixels: bool = False) -> dict[str, str]:
    """Names and types of the index's columns; one charge sum per plane, and what the store's additions need."""
    columns = INDEX_COLUMNS | {f"charge_sum_{plane}": "float64" for plane in planes}
    columns |= {"truth_columns": "int32"} if truth_columns else {}
    return columns | (PIXEL_INDEX_COLUMNS if pixels else {})


@dataclass(frozen=True)
class ArraySpec:
    """How one kind of sharded array is stored."""

    dtype: str
    fill: int | str
    dimensions: tuple[str, ...]
    cname: str
    shuffle: str
    clevel: int = 3
    transposed: bool = False


# Measured, docs/store-speed.md: sorted coordinates compress to a tenth column by column; of charges little more than
# sign and exponent does, so what decodes fastest is taken; so too of live and truth, which are small anyway.
COORDS = ArraySpec("uint16", 65535, ("voxel", "axis"), "zstd", "shuffle", 5, transposed=True)
CHARGE = ArraySpec("float32", "NaN", ("voxel", "plane"), "lz4hc", "shuffle", 1)
ROUNDED_CHARGE = replace(CHARGE, cname="lz4", shuffle="bitshuffle", clevel=5)  # the bits that are 0 take no room
LIVE = ArraySpec("uint8", 255, ("voxel",), "lz4hc", "noshuffle", 3)
TRUTH = ArraySpec("float32", "NaN", ("voxel",), "lz4hc", "noshuffle", 3)
TRUTH_COORDS = ArraySpec("uint16", 65535, ("true_voxel", "axis"), "zstd", "shuffle", 5, transposed=True)
TRUTH_VALUE = ArraySpec("float32", "NaN", ("true_voxel",), "zstd", "bitshuffle", 1)
SCORE = ArraySpec("float32", "NaN", ("voxel",), "zstd", "bitshuffle", 1)

VOXEL_ARRAYS = {"voxels/coords": COORDS, "voxels/charge": CHARGE, "voxels/live": LIVE, "voxels/truth": TRUTH}
TRUTH_ARRAYS = {"truth/coords": TRUTH_COORDS, "truth/value": TRUTH_VALUE}

UNKNOWN_NUMBER = -(2**31)  # fill of pdg and track: neither has such a value
TRUTH_NUMBER = ArraySpec("int32", UNKNOWN_NUMBER, ("true_voxel",), "zstd", "shuffle", 3)
# What a store may know about each truth voxel besides its value; bit i of the index's truth_columns is the i-th.
TRUTH_COLUMNS = {"collected": TRUTH_VALUE, "pdg": TRUTH_NUMBER, "track": TRUTH_NUMBER}


def truth_arrays(columns: Sequence[str]) -> dict[str, ArraySpec]:
    """Path -> layout of all arrays along the truth voxels, with these optional columns."""
    return TRUTH_ARRAYS | {f"truth/{name}": TRUTH_COLUMNS[name] for name in columns}


# Pixels: a wire's value recurs along it, which shuffled bytes would hide; points are float64, so that sums are exact.
POINT_VALUE = ArraySpec("float64", "NaN", ("point",), "zstd", "shuffle", 3)
POINT_NUMBER = ArraySpec("int32", UNKNOWN_NUMBER, ("point",), "zstd", "shuffle", 3)
PIXEL_ARRAYS = {
    "pixels/coords": ArraySpec("uint16", 65535, ("pixel", "axis"), "zstd", "shuffle", 1, transposed=True),
    "pixels/charge": ArraySpec("float32", "NaN", ("pixel", "plane"), "zstd", "noshuffle", 3, transposed=True),
    "pixels/live": ArraySpec("uint8", 255, ("pixel",), "zstd", "bitshuffle", 1),
}
POINT_ARRAYS = {
    "pixels/truth_coords": ArraySpec("uint16", 65535, ("point", "axis"), "zstd", "shuffle", 5, transposed=True),
    "pixels/truth_value": POINT_VALUE,
}
POINT_COLUMNS = {"collected": POINT_VALUE, "pdg": POINT_NUMBER, "track": POINT_NUMBER}


def point_arrays(columns: Sequence[str]) -> dict[str, ArraySpec]:
    """Path -> layout of all arrays along the truth points that are kept with pixels, with these truth columns."""
    return POINT_ARRAYS | {f"pixels/truth_{name}": POINT_COLUMNS[name] for name in columns}


def row_arrays(truth_columns: Sequence[str], pixels: bool) -> dict[str, dict[str, ArraySpec]]:
    """Kind of row (voxel, truth, pixel, point; the index has KIND_start and KIND_count) -> its arrays."""
    kinds = {"voxel": VOXEL_ARRAYS, "truth": truth_arrays(truth_columns)}
    return kinds | ({"pixel": PIXEL_ARRAYS, "point": point_arrays(truth_columns)} if pixels else {})


def kind_of(path: str) -> str:
    """The kind of row that a sharded array has; scores of predictions lie along the voxels."""
    if path.startswith("pixels/"):
        return "point" if path.startswith("pixels/truth_") else "pixel"
    return "truth" if path.startswith("truth/") else "voxel"


def width_of(spec: ArraySpec, n_planes: int) -> int | None:
    """Columns of an array: 3 axes or the planes; None for one without."""
    widths = {"axis": 3, "plane": n_planes}
    return widths[spec.dimensions[1]] if len(spec.dimensions) > 1 else None


def truth_bits(columns: Iterable[str]) -> int:
    """The index's entry for an image that has these truth columns."""
    return sum(1 << list(TRUTH_COLUMNS).index(name) for name in columns)


def truth_names(bits: int) -> tuple[str, ...]:
    """The truth columns that such an entry stands for."""
    return tuple(name for i, name in enumerate(TRUTH_COLUMNS) if bits >> i & 1)


def group_document(attributes: Document | None = None) -> Document:
    """``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}


def array_document(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    codecs: list[Document],
    fill: Any,
    dimensions: tuple[str, ...],
    attributes: Document | None = None,
) -> Document:
    """``zarr.json`` of an array with a regular grid."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": attributes or {},
        "dimension_names": list(dimensions),
        "storage_transformers": [],
    }


def sharded_document(spec: ArraySpec, width: int | None, shard_rows: int, chunk_rows: int, rows: int = 0) -> Document:
    """``zarr.json`` of a voxel-like array: (rows,) or (rows, width), the index with its crc32c at a shard's end."""
    tail = () if width is None else (width,)
    inner: list[Document] = [{"name": "transpose", "configuration": {"order": [1, 0]}}] if spec.transposed else []
    typesize = np.dtype(spec.dtype).itemsize
    inner += [BYTES_CODEC if typesize > 1 else {"name": "bytes"}]
    # A block a chunk: a last one that is shorter would compress less well, in four times the time, and chunks of one
    # block each can be unpacked together.
    block = chunk_rows * (width or 1) * typesize
    inner += [blosc_codec(typesize, spec.cname, spec.clevel, spec.shuffle, block), CRC_CODEC]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk_rows, *tail],
            "codecs": inner,
            "index_codecs": [BYTES_CODEC, CRC_CODEC],
            "index_location": "end",
        },
    }
    return array_document((rows, *tail), spec.dtype, (shard_rows, *tail), [sharding], spec.fill, spec.dimensions)


def to_bytes(document: Document) -> bytes:
    """A document as it is written."""
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def voxel_size_mm(tick_us: float | None, speed: float | None, pixel_mm: float, downsample: tuple[int, int, int]) -> Any:
    """Size of a voxel in x, y, z; x is None where the drift speed is not known."""
    along = None if tick_us is None or speed is None else math.fsum([tick_us * speed * downsample[0]])
    return [along, pixel_mm * downsample[1], pixel_mm * downsample[2]]
