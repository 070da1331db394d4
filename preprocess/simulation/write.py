"""Writers of Wire-Cell frame archives and truth npz files. Equal input gives equal bytes; a file is there or not."""

import bz2
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.errors import ConfigError

FAST = 1  # compression level: frames are mostly zeros
COMPRESSIONS = (".tar", ".tar.gz", ".tar.bz2", ".npz")


@dataclass(frozen=True)
class Frame:
    """One event as a frame archive holds it.

    Attributes:
        ident: number of the frame.
        waveform: (ticks, channels) float32 electrons.
        channels: (channels,) int32 ascending.
        time_ns, tick_ns, first_tick: ``tickinfo``.
        masks: by name (n, 3) int32 rows [channel, first tick, end tick).
    """

    ident: int
    waveform: npt.NDArray[Any]
    channels: npt.NDArray[np.int32]
    time_ns: float = 0.0
    tick_ns: float = 500.0
    first_tick: int = 0
    masks: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """An array as an npy file's bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def frame_members(frame: Frame, tag: str) -> Iterator[tuple[str, bytes]]:
    """Names and npy bytes of an event's members, frames [channel, tick] in Fortran order as Wire-Cell writes them."""
    label = f"{tag}_{frame.ident}"
    yield f"frame_{label}.npy", npy_bytes(np.ascontiguousarray(frame.waveform).T)
    yield f"channels_{label}.npy", npy_bytes(frame.channels.astype(np.int32))
    tickinfo = np.array([frame.time_ns, frame.tick_ns, frame.first_tick], np.float64)
    yield f"tickinfo_{label}.npy", npy_bytes(tickinfo)
    for name, rows in frame.masks.items():
        yield f"chanmask_{name}_{frame.ident}.npy", npy_bytes(rows.astype(np.int32))


def write_frames(path: Path, frames: Iterable[Frame], tag: str = "sim") -> None:
    """Write a frame archive; the suffix chooses the format, one of ``COMPRESSIONS``. One frame is held at a time."""
    members = (member for frame in frames for member in frame_members(frame, tag))
    write_members(path, members)


def write_arrays(path: Path, arrays: Iterable[npt.NDArray[Any]]) -> None:
    """Write an npz with ``arr_0``, ``arr_1`` …"""
    write_members(path, ((f"arr_{i}.npy", npy_bytes(array)) for i, array in enumerate(arrays)))


def write_truth(path: Path, events: Iterable[dict[str, npt.NDArray[Any]]]) -> None:
    """Write the truth of a file's events: an npz with the members ``<name>_<event>`` of each event's arrays."""
    write_members(path, ((f"{name}_{i}.npy", npy_bytes(array)) for i, event in enumerate(events)
                         for name, array in event.items()))  # fmt: skip


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write an archive of named bytes, under another name until it is complete.

    Raises:
        ConfigError: a suffix that stands for no known format.
    """
    suffix = next((s for s in sorted(COMPRESSIONS, key=len, reverse=True) if path.name.endswith(s)), None)
    if suffix is None:
        raise ConfigError(f"{path}: unknown suffix. Fix: choose one of {', '.join(COMPRESSIONS)}.")
    with _replacing(path) as stream:
        if suffix == ".npz":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=FAST) as archive:
                for name, data in members:
                    info = zipfile.ZipInfo(name)  # dated 1980: equal bytes whenever it is written
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, data, compresslevel=FAST)
        elif suffix == ".tar.gz":
            with gzip.GzipFile("", "wb", FAST, stream, mtime=0) as packed:
                _write_tar(packed, members)
        elif suffix == ".tar.bz2":
            with bz2.BZ2File(stream, "wb", compresslevel=FAST) as packed:
                _write_tar(packed, members)
        else:
            _write_tar(stream, members)


def _write_tar(stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.members = []  # type: ignore[attr-defined]


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with fs.explained(path, "write"):
        try:
            with part.open("wb") as stream:
                yield stream
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
