"""Shards: whole files encoded in memory, and a reader that checks every index and every chunk it touches."""

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.codecs import CorruptError, checksum, pack, split_checksum, unpack
from larstore.errors import DamageError, StoreError
from larstore.format import Document

MISSING = 2**64 - 1  # offset and size of a chunk that a shard does not hold
CACHED_CHUNKS = 16  # decoded chunks kept per array: neighbouring small images share them
CACHED_INDICES = 4096

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

    @property
    def chunks(self) -> int:
        """Chunks in a shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return self.chunk_rows * int(np.prod(self.width, dtype=np.int64)) * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Size of a shard's index with its checksum."""
        return 16 * self.chunks + 4

    def file(self, shard: int) -> str:
        """A shard's path relative to the root."""
        return f"{self.path}/c/{shard}" + "/0" * len(self.width)


def layout_of(path: str, document: Document) -> Layout:
    """Read a layout from ``zarr.json``; a document of another shape is refused with its path."""
    try:
        (sharding,) = document["codecs"]
        configuration = sharding["configuration"]
        *transpose, _, blosc, crc = configuration["codecs"]
        settings = blosc["configuration"]
        shape, shard = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = configuration["chunk_shape"]
        known = (sharding["name"], blosc["name"], crc["name"], configuration["index_location"])
        fill = float("nan") if document["fill_value"] == "NaN" else document["fill_value"]
        layout = Layout(
            path=path,
            dtype=np.dtype(document["data_type"]).newbyteorder("<"),
            fill=fill,
            rows=int(shape[0]),
            width=tuple(int(n) for n in shape[1:]),
            shard_rows=int(shard[0]),
            chunk_rows=int(chunk[0]),
            transposed=bool(transpose),
            typesize=int(settings["typesize"]),
            cname=settings["cname"],
            clevel=int(settings["clevel"]),
            shuffle=settings["shuffle"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(
            f"{path}/zarr.json: not a sharded array of larstore ({error!r}). Fix: see larstore verify"
        ) from error
    if known != ("sharding_indexed", "blosc", "crc32c", "end") or layout.shard_rows % layout.chunk_rows:
        raise StoreError(f"{path}/zarr.json: codecs {known} are not larstore's. Fix: see larstore verify")
    return layout


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
        blob = pack(ordered, layout.typesize, layout.cname, layout.clevel, layout.shuffle)
        index[number] = offset, len(blob)
        parts.append(blob)
        offset += len(blob)
    table = index.tobytes()
    return b"".join([*parts, table, checksum(table)])


def decode_chunk(layout: Layout, blob: bytes) -> Array:
    """One chunk's rows, (chunk_rows, *width); raises CorruptError."""
    flat = np.frombuffer(unpack(blob, layout.chunk_bytes), dtype=layout.dtype)
    if layout.transposed:
        return flat.reshape(layout.width[0], layout.chunk_rows).T
    return flat.reshape(layout.chunk_rows, *layout.width)


def decode_index(layout: Layout, table: bytes, body_bytes: int) -> npt.NDArray[np.uint64]:
    """(chunks, 2) offset and size, verified; ``body_bytes`` = size of the file before its index."""
    index = np.frombuffer(split_checksum(table), dtype="<u8").reshape(layout.chunks, 2)
    present = index[:, 0] != MISSING
    offset, size = index[present, 0], index[present, 1]
    if bool((offset > body_bytes).any()) or bool((size > np.uint64(body_bytes) - offset).any()):
        raise CorruptError("its index points outside the file")
    return index


class ShardDamageError(DamageError):
    """Damage in a sharded array. ``what`` names file, array and shard; ``images`` those that were being read."""

    def __init__(self, what: str, images: str, fix: str) -> None:
        super().__init__(f"{what}; images {images}. {fix}")
        self.what = what
        self._parts = (what, images, fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardDamageError, self._parts


_pool_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def pool() -> ThreadPoolExecutor:
    """Threads that decode; made anew in a forked process, where the parent's do not exist."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = (os.getpid(), ThreadPoolExecutor(min(8, os.cpu_count() or 1), "larstore-decode"))
        return _pool[1]


class ShardReader:
    """Reads rows of one sharded array. Whatever is missing or fails a checksum is a DamageError, never a number.

    ``owners(start, stop)`` names the images in a range of rows, for the messages.
    """

    def __init__(self, root: Path, layout: Layout, owners: Callable[[int, int], str]) -> None:
        self.root = root
        self.layout = layout
        self._owners = owners
        self._indices: OrderedDict[int, npt.NDArray[np.uint64]] = OrderedDict()
        self._chunks: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as an array (rows, *width)."""
        layout = self.layout
        if start < 0 or stop > layout.rows:
            raise self._damage(start, stop, f"rows {start}:{stop} lie outside the array's {layout.rows}")
        out = np.empty((max(stop - start, 0), *layout.width), dtype=layout.dtype.newbyteorder("="))
        if stop <= start:
            return out
        numbers = range(start // layout.chunk_rows, (stop - 1) // layout.chunk_rows + 1)

        def copy(number: int) -> None:
            first = number * layout.chunk_rows
            low, high = max(start, first), min(stop, first + layout.chunk_rows)
            keep = low > first or high < first + layout.chunk_rows  # shared with a neighbour: worth keeping
            out[low - start : high - start] = self._chunk(number, keep, start, stop)[low - first : high - first]

        if len(numbers) <= 2:
            for number in numbers:
                copy(number)
        else:
            list(pool().map(copy, numbers))
        return out

    def _chunk(self, number: int, keep: bool, start: int, stop: int) -> Array:
        with self._lock:
            if number in self._chunks:
                self._chunks.move_to_end(number)
                return self._chunks[number]
        shard, inner = divmod(number, self.layout.chunks)
        entry = self._index(shard, start, stop)[inner]
        if entry[0] == MISSING:  # a shard is never rewritten, so this is what was (not) stored
            raise self._damage(start, stop, f"chunk {inner} of shard {shard} is missing", shard)
        chunk = self._decode(number, entry, start, stop)
        if keep:
            with self._lock:
                self._chunks[number] = chunk
                while len(self._chunks) > CACHED_CHUNKS:
                    self._chunks.popitem(last=False)
        return chunk

    def _decode(self, number: int, entry: npt.NDArray[np.uint64], start: int, stop: int) -> Array:
        shard, inner = divmod(number, self.layout.chunks)
        blob = self._bytes(shard, int(entry[0]), int(entry[1]), start, stop)[0]
        try:
            return decode_chunk(self.layout, blob)
        except CorruptError as error:
            raise self._damage(start, stop, f"chunk {inner} of shard {shard}: {error}", shard) from error

    def _index(self, shard: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
        with self._lock:
            if shard in self._indices:
                return self._indices[shard]
        table, size = self._bytes(shard, -self.layout.index_bytes, self.layout.index_bytes, start, stop)
        try:
            index = decode_index(self.layout, table, size - self.layout.index_bytes)
        except (CorruptError, ValueError, struct.error) as error:
            raise self._damage(start, stop, f"index of shard {shard}: {error}", shard) from error
        with self._lock:
            self._indices[shard] = index
            while len(self._indices) > CACHED_INDICES:
                self._indices.popitem(last=False)
        return index

    def _bytes(self, shard: int, offset: int, size: int, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes of a shard's file (a negative offset counts from its end) and the file's size."""
        path = self.root / self.layout.file(shard)
        try:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                list(os.scandir(path.parent))  # a network file system may remember that it was not there yet
                descriptor = os.open(path, os.O_RDONLY)
            try:
                total = os.fstat(descriptor).st_size
                position = offset if offset >= 0 else max(total + offset, 0)
                return os.pread(descriptor, size, position), total
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise self._damage(start, stop, f"shard {shard} is missing", shard) from error
        except OSError as error:
            raise self._damage(start, stop, f"shard {shard} cannot be read ({error.strerror})", shard) from error

    def _damage(self, start: int, stop: int, what: str, shard: int | None = None) -> DamageError:
        file = self.root / (self.layout.path if shard is None else self.layout.file(shard))
        fix = f"Fix: restore the file, or list all damage with 'larstore verify {self.root}'"
        return ShardDamageError(f"{file}: array {self.layout.path}, {what}", self._owners(start, stop), fix)
