"""What a store is measured against: a bare loop over its shards, a compressed npz a unit, and uncompressed HDF5."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from larstore.codecs import CorruptError, unpack_into
from larstore.reading import pool
from larstore.records import ImageRecord
from larstore.shards import MISSING, Array, Layout, decode_index
from larstore.turning import turn

ARRAYS = ("coords", "charge", "live", "truth")


def concatenated(images: Sequence[ImageRecord]) -> dict[str, np.ndarray]:
    """A unit's images one after another, and where each one starts."""
    counts = [len(image.coords) for image in images]
    arrays = {name: np.concatenate([_array(image, name) for image in images]) for name in ARRAYS}
    return arrays | {"start": np.cumsum([0, *counts])}


def _array(image: ImageRecord, name: str) -> np.ndarray:
    values = getattr(image, name)
    return np.full(len(image.coords), np.nan, np.float32) if values is None else values


class NpzFiles:
    """A ``savez_compressed`` a unit; the whole file is read for any image, as the format has it."""

    def __init__(self, folder: Path, units: Sequence[Sequence[ImageRecord]]) -> None:
        folder.mkdir()
        self.paths = [folder / f"{number}.npz" for number in range(len(units))]
        for path, images in zip(self.paths, units, strict=True):
            np.savez_compressed(path, **concatenated(images))

    def unit(self, number: int) -> dict[str, np.ndarray]:
        """All arrays of a unit."""
        with np.load(self.paths[number]) as file:
            return {name: file[name] for name in file.files}

    def image(self, number: int, event: int) -> list[np.ndarray]:
        """One image."""
        arrays = self.unit(number)
        part = slice(*arrays["start"][event : event + 2])
        return [arrays[name][part] for name in ARRAYS]


class Hdf5File:
    """All units in one file of contiguous arrays, opened once."""

    def __init__(self, path: Path, units: Sequence[Sequence[ImageRecord]]) -> None:
        whole = concatenated([image for images in units for image in images])
        self.start = whole.pop("start")
        with h5py.File(path, "w") as file:
            for name, values in whole.items():
                file[name] = values
        self.file = h5py.File(path)
        self.arrays = [self.file[name] for name in ARRAYS]

    def image(self, number: int) -> list[np.ndarray]:
        """One image."""
        part = slice(*self.start[number : number + 2])
        return [array[part] for array in self.arrays]


def chunks_of(root: Path, layouts: Sequence[Layout], start: int, stop: int) -> list[tuple[Layout, bytes]]:
    """The chunks, as they are stored, that hold rows [start, stop) of these arrays."""
    found = []
    for layout in layouts:
        for number in range(start // layout.chunk_rows, -(-stop // layout.chunk_rows)):
            shard, inner = divmod(number, layout.chunks)
            data = (root / layout.file(shard)).read_bytes()
            offset, size = decode_index(layout, data[-layout.index_bytes :])[inner].tolist()
            found.append((layout, data[offset : offset + size]))
    return found


def decode_chunk(layout: Layout, blob: bytes | memoryview, out: Array) -> None:
    """Decode a whole chunk to ``out``, (chunk_rows, *width); raises CorruptError.

    ``out`` lies in C order and has the array's type; that of a transposed array may be any that holds its numbers.
    """
    if not layout.transposed:
        unpack_into(blob, out)
        return
    columns = np.empty((1, layout.width[0], layout.chunk_rows), dtype=layout.dtype)
    unpack_into(blob, columns)
    turn(columns, out)


def decode_chunks(chunks: Sequence[tuple[Layout, bytes]]) -> None:
    """Check and decode chunks, and do no more, in one thread."""

    def work() -> None:
        for layout, blob in chunks:
            decode_chunk(layout, blob, np.empty((layout.chunk_rows, *layout.width), layout.dtype))

    pool(1).submit(work).result()  # in the main thread numcodecs would use several


def decode_shards(root: Path, layouts: Sequence[Layout]) -> int:
    """Read and decode every chunk of these arrays with the threads that a reader has; returns the bytes made."""

    def made(layout: Layout, blob: bytes) -> int:
        out = np.empty((layout.chunk_rows, *layout.width), layout.dtype)
        decode_chunk(layout, blob, out)
        return out.nbytes

    total = 0
    for layout in layouts:
        for shard in range(-(-layout.rows // layout.shard_rows)):
            data = (root / layout.file(shard)).read_bytes()
            body = len(data) - layout.index_bytes
            if body < 0:
                raise CorruptError(f"shard {shard} of {layout.path}")
            index = decode_index(layout, data[body:], body)
            blobs = [data[offset : offset + size] for offset, size in index.tolist() if offset != MISSING]
            total += sum(pool().map(lambda blob, layout=layout: made(layout, blob), blobs))
    return total
