"""Overlaps kept on disk under a key made of all they depend on: never stale, and safe with several builders."""

import functools
import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Tpc
from preprocess.overlap import Grid, Overlaps, build_overlaps, grid_of
from preprocess.strips import Strips, strips_of

log = logging.getLogger(__name__)

MAGIC = b"LAROVLP4"
CODE = ("areas", "overlap", "strips")  # modules on which the areas depend
ALIGN = 64  # bytes, so that mapped arrays are aligned


def cache_folder() -> Path:
    """LARSTORE_CACHE, else ``larstore`` under XDG_CACHE_HOME, else under ~/.cache."""
    own = os.environ.get("LARSTORE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "larstore"


def overlaps_of(tpc: Tpc) -> Overlaps:
    """The overlaps of a TPC face: from memory, from disk (memory-mapped), or built and then kept on disk."""
    strips = tuple(strips_of(plane, tpc.shift_z_mm) for plane in tpc.planes)
    n_columns = len(tpc.channels)
    grid = grid_of(tpc)
    key = overlaps_key(strips, grid, n_columns)
    return _remembered(_Face(cache_folder() / f"overlaps-{key}.bin", strips, grid, n_columns))


def overlaps_key(strips: Sequence[Strips], grid: Grid, n_columns: int) -> str:
    """sha256 over the strips, the grid and the code that computes the areas."""
    digest = hashlib.sha256(_code_digest())
    digest.update(json.dumps([*grid, n_columns, [s.normal for s in strips]]).encode())
    for plane in strips:
        for array in (plane.low, plane.high, plane.begin, plane.end, plane.column):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@functools.cache
def _code_digest() -> bytes:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in CODE)).digest()


@dataclass(frozen=True)
class _Face:
    """What overlaps are built from; compared by path, whose name is the key, so that a process can remember it."""

    path: Path
    strips: tuple[Strips, ...] = field(compare=False)
    grid: Grid = field(compare=False)
    n_columns: int = field(compare=False)


@functools.lru_cache(maxsize=4)
def _remembered(face: _Face) -> Overlaps:
    if face.path.exists():
        try:
            return read_overlaps(face.path)
        except (OSError, ValueError) as error:
            log.warning("Rebuilding the pixel areas, the cached file is damaged: %s: %s", face.path, error)
    else:
        log.info("Building the pixel areas of a face of %d × %d pixels", face.grid.n_y, face.grid.n_z)
    overlaps = build_overlaps(face.strips, face.grid, face.n_columns)
    try:
        write_overlaps(face.path, overlaps)
        return read_overlaps(face.path)
    except OSError as error:
        log.warning("The pixel areas could not be kept on disk and stay in memory: %s: %s", face.path, error)
        for array in overlaps:
            array.setflags(write=False)  # as from disk: one compiled kernel serves both
        return overlaps


def write_overlaps(path: Path, overlaps: Overlaps) -> None:
    """Write durably: temporary file, fsync, rename. Layout: magic, header length, JSON header, aligned arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in overlaps._asdict().items()}
    header = {
        name: {"dtype": array.dtype.str, "shape": array.shape, "crc32": zlib.crc32(array.data)}
        for name, array in arrays.items()
    }
    text = json.dumps(header).encode()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(b"\0" * (-file.tell() % ALIGN))
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_overlaps(path: Path) -> Overlaps:
    """Memory-map a file of ``write_overlaps``; ValueError if anything in it is not as written."""
    data = np.memmap(path, np.uint8, mode="r")
    if bytes(data[:8]) != MAGIC:
        raise ValueError("not a file of pixel areas")
    at = 16 + int.from_bytes(bytes(data[8:16]), "little")
    header = json.loads(bytes(data[16:at]))
    if set(header) != set(Overlaps._fields):
        raise ValueError("other arrays than expected")
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, entry in header.items():
        dtype = np.dtype(entry["dtype"])
        at += -at % ALIGN
        size = dtype.itemsize * int(np.prod(entry["shape"], dtype=np.int64))
        raw = data[at : at + size]
        if len(raw) != size or zlib.crc32(raw.data) != entry["crc32"]:
            raise ValueError(f"checksum of {name}")
        arrays[name] = raw.view(dtype).reshape(entry["shape"])
        at += size
    return Overlaps(**arrays)  # type: ignore[arg-type]
