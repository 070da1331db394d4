"""Shards: whole files encoded in memory, their index and chunks verified and decoded. See ``reading`` for files."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.codecs import (
    PACKED_EXTRA,
    CorruptError,
    checksum,
    pack,
    split_checksum,
)
from larstore.errors import DamageError
from larstore.root_checks import MOST_CHUNK_ROWS, MOST_CHUNKS, MOST_PLANES, MOST_ROWS, Document, whole

MISSING = 2**64 - 1  # offset and size of a chunk that a shard does not hold
MOST_BYTES = 1 << 48  # of a shard
MOST_BLOCK = 1 << 30  # bytes of blosc's block

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """A sharded array, as its ``zarr.json`` describes it. ``width`` is () or (columns,)."""

    path: str
    dtype: np.dtype[Any]
    fill: Any
    rows: int
    width: tuple[int, ...]
    shard_rows: int
    chunk_rows: int
    transposed: bool
    typesize: int
    cname: str
    clevel: int
    shuffle: str
    blocksize: int = 0  # of blosc's, 0: as it thinks best

    @cached_property
    def chunks(self) -> int:
        """Chunks in a shard."""
        return self.shard_rows // self.chunk_rows

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return self.chunk_rows * self.row_bytes

    @cached_property
    def row_bytes(self) -> int:
        """Size of a row."""
        return math.prod(self.width) * self.dtype.itemsize

    @cached_property
    def index_bytes(self) -> int:
        """Size of a shard's index with its checksum."""
        return 16 * self.chunks + 4

    def file(self, shard: int) -> str:
        """A shard's path relative to the root."""
        return f"{self.path}/c/{shard}" + "/0" * len(self.width)


def layout_of(path: str, document: Document) -> Layout:
    """Read a layout from ``zarr.json``; a document of another shape is refused with its path."""
    try:
        return parse_layout(path, document)
    except ValueError as error:
        raise DamageError(f"{path}/zarr.json: {error}. Fix: see larstore verify") from error


def parse_layout(path: str, document: Document) -> Layout:
    """``layout_of``, with ValueError for what is no sharded array of ours."""
    try:
        (sharding,) = document["codecs"]
        configuration = sharding["configuration"]
        *transpose, _, blosc, crc = configuration["codecs"]
        settings = blosc["configuration"]
        (rows, *width), (shard_rows, *shard_width) = (
            document["shape"],
            document["chunk_grid"]["configuration"]["chunk_shape"],
        )
        chunk_rows, *chunk_width = configuration["chunk_shape"]
        codecs = (sharding["name"], *(codec["name"] for codec in transpose), blosc["name"], crc["name"])
        layout = Layout(
            path=path,
            dtype=np.dtype(document["data_type"]).newbyteorder("<"),
            fill=float("nan") if document["fill_value"] == "NaN" else document["fill_value"],
            rows=rows,
            width=tuple(width),
            shard_rows=shard_rows,
            chunk_rows=chunk_rows,
            transposed=bool(transpose),
            typesize=settings["typesize"],
            cname=settings["cname"],
            clevel=settings["clevel"],
            shuffle=settings["shuffle"],
            blocksize=settings.get("blocksize", 0),
        )
        _check_sizes(layout)
        place = configuration["index_location"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is no sharded array of larstore ({type(error).__name__}: {error})") from error
    known = ("sharding_indexed", *["transpose"] * layout.transposed, "blosc", "crc32c")
    if codecs != known or place != "end" or document.get("node_type") != "array":
        raise ValueError(f"{path}: codecs {ascii(codecs)[:100]} are not larstore's")
    if not width == shard_width == chunk_width or shard_rows % chunk_rows:
        raise ValueError(f"{path}: shards and chunks do not fit its shape")
    return layout


def _check_sizes(layout: Layout) -> None:
    """ValueError for sizes that no array of ours has; arrays that version 1 does not know come here unchecked."""
    whole(layout.rows, 0, MOST_ROWS, "rows")
    whole(layout.chunk_rows, 1, MOST_CHUNK_ROWS, "chunk_rows")
    whole(layout.shard_rows, layout.chunk_rows, layout.chunk_rows * MOST_CHUNKS, "shard_rows")
    whole(layout.blocksize, 0, MOST_BLOCK, "blocksize")
    if layout.dtype.kind not in "biuf" or len(layout.width) > 1 or layout.transposed > len(layout.width):
        raise ValueError(f"type {layout.dtype}, {len(layout.width) + 1} dimensions")
    for width in layout.width:
        whole(width, 1, MOST_PLANES, "width")


def encode_shard(layout: Layout, values: Array) -> bytes:
    """The file of one shard from its first rows; every chunk that these touch is written, later ones are absent."""
    if len(values) > layout.shard_rows:
        raise ValueError(f"{len(values)} rows do not fit a shard of {layout.shard_rows}")
    index = np.full((layout.chunks, 2), MISSING, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for number, start in enumerate(range(0, len(values), layout.chunk_rows)):
        chunk = np.full((layout.chunk_rows, *layout.width), layout.fill, dtype=layout.dtype)
        rows = values[start : start + layout.chunk_rows]
        chunk[: len(rows)] = rows
        ordered = np.ascontiguousarray(chunk.T if layout.transposed else chunk)
        blob = pack(ordered, layout.typesize, layout.cname, layout.clevel, layout.shuffle, layout.blocksize)
        index[number] = offset, len(blob)
        parts.append(blob)
        offset += len(blob)
    table = index.tobytes()
    return b"".join([*parts, table, checksum(table)])


def decode_index(layout: Layout, table: bytes, body_bytes: int = MOST_BYTES) -> npt.NDArray[np.uint64]:
    """(chunks, 2) offset and size, verified; ``body_bytes`` = size of the file before its index, if it is known."""
    index = np.frombuffer(split_checksum(table), dtype="<u8").reshape(layout.chunks, 2)
    present = index[:, 0] != MISSING
    offset, size = index[present, 0], index[present, 1]
    if bool((offset > body_bytes).any()) or bool((size > np.uint64(body_bytes) - offset).any()):
        raise CorruptError("its index points outside the file")
    if bool((size > layout.chunk_bytes + PACKED_EXTRA).any()):
        raise CorruptError(f"its index has a chunk of {size.max()} bytes, more than a chunk can have")
    order = np.argsort(offset)
    if bool((offset[order][1:] < (offset + size)[order][:-1]).any()):
        raise CorruptError("chunks of its index overlap")
    return index
