"""Small valid files of wire read-outs, one builder a reader: for our tests and for those of other tools."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from preprocess.detector import Tpc
from preprocess.simulation.write import Frame, write_arrays, write_frames

Waveforms = Sequence[npt.NDArray[Any]]


def small_waveforms(tpc: Tpc, n_events: int = 2, n_ticks: int = 60, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """(ticks, channels) electrons of each event: zero but for 5 % of the samples, whole multiples of 1000."""
    rng = np.random.default_rng(seed)
    shape = (n_ticks, len(tpc.channels))
    return [
        np.where(rng.random(shape) < 0.05, 1000.0 * rng.integers(1, 30, shape), 0.0).astype(np.float32)
        for _ in range(n_events)
    ]


def write_wirecell(
    path: Path,
    tpc: Tpc,
    waveforms: Waveforms,
    tag: str = "gauss",
    tick_ns: float = 500.0,
    masks: dict[str, npt.NDArray[np.int32]] | None = None,
) -> Path:
    """A Wire-Cell frame archive; the suffix is one of .tar, .tar.gz, .tar.bz2, .npz.

    Args:
        path: the file.
        tpc: whose channels the waveforms have.
        waveforms: (ticks, channels) electrons, one for each event; the idents are 0, 1, …
        tag: tag of the frames.
        tick_ns: label of the ticks.
        masks: by name (n, 3) rows [channel, first tick, end tick), the same for each event.
    """
    frames = (Frame(i, w, tpc.channels, tick_ns=tick_ns, masks=masks or {}) for i, w in enumerate(waveforms))
    write_frames(path, frames, tag)
    return path


def write_wirecell_hdf5(
    path: Path,
    tpc: Tpc,
    waveforms: Waveforms,
    tag: str = "gauss",
    tick_ns: float = 500.0,
    masks: dict[str, npt.NDArray[np.int32]] | None = None,
) -> Path:
    """Wire-Cell frames in HDF5, ``/<ident>/frame_<tag>`` and so on; arguments as of ``write_wirecell``."""
    with h5py.File(path, "w") as file:
        for ident, waveform in enumerate(waveforms):
            group = file.create_group(str(ident))
            group.create_dataset(f"frame_{tag}", data=np.ascontiguousarray(waveform.T), compression="gzip")
            group[f"channels_{tag}"] = tpc.channels.astype(np.int32)
            group[f"tickinfo_{tag}"] = np.array([0.0, tick_ns, 0.0])
            for name, rows in (masks or {}).items():
                group[f"chanmask_{name}"] = rows.astype(np.int32)
    return path


def write_numl(path: Path, tpc: Tpc, waveforms: Waveforms, counts: bool = True, n_hits: int = 5) -> Path:
    """NuML/pynuml HDF5 with ``wire_table``, ``hit_table`` and ``edep_table``, in units of 200 electrons.

    Args:
        path: the file.
        tpc: whose channels the waveforms have; the channels of each plane are contiguous.
        waveforms: (ticks, channels) electrons, one for each event; events 10, 11, … of run 1, subrun 2.
        counts: whether the tables have ``event_id.seq_cnt``.
        n_hits: hits of each event, each with one energy deposit.
    """
    plane, wire, column = _numl_wires(tpc)
    hits = np.arange(n_hits, dtype=np.int32)
    with h5py.File(path, "w") as file:
        tables: dict[str, dict[str, npt.NDArray[Any]]] = {
            "wire_table": {
                "tpc": np.full((len(plane), 1), tpc.number, np.int32),
                "local_plane": plane[:, None].astype(np.int32),
                "local_wire": wire[:, None].astype(np.float32),
            },
            "hit_table": {
                "hit_id": hits[:, None],
                "local_plane": (hits % len(tpc.planes))[:, None],
                "local_time": hits[:, None] * np.float32(2.5),
            },
            "edep_table": {
                "hit_id": hits[::-1, None],
                "g4_id": hits[:, None] + 100,
                "energy": (hits[:, None] + 1).astype(np.float32),
            },
        }
        for name, columns in tables.items():
            group = file.create_group(name)
            n_rows = len(next(iter(columns.values())))
            ids = [np.tile(np.array([[1, 2, 10 + i]], np.int32), (n_rows, 1)) for i in range(len(waveforms))]
            group["event_id"] = np.concatenate(ids)
            for key, values in columns.items():
                group[key] = np.concatenate([values] * len(waveforms))
            if counts:
                group["event_id.seq_cnt"] = np.array([[i, n_rows] for i in range(len(waveforms))], np.int64)
        n_ticks = len(waveforms[0])
        adc = file["wire_table"].create_dataset(
            "adc", (len(plane) * len(waveforms), n_ticks), np.float32, chunks=(1, n_ticks), compression="gzip",
            compression_opts=1,
        )  # fmt: skip
        for i, waveform in enumerate(waveforms):
            adc[i * len(plane) : (i + 1) * len(plane)] = waveform.T[column] / np.float32(200.0)
    return path


def _numl_wires(tpc: Tpc) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Plane, wire in the plane and column of each channel."""
    columns = [np.unique(plane.column).astype(np.int64) for plane in tpc.planes]
    plane = np.concatenate([np.full(len(each), index) for index, each in enumerate(columns)])
    wire = np.concatenate([tpc.channels[each] - tpc.channels[each[0]] for each in columns])
    return plane, wire.astype(np.int64), np.concatenate(columns)


def write_parsed(path: Path, tpc: Tpc, waveforms: Waveforms) -> Path:
    """The research code's npz, in units of 1000 electrons; the path ends with ``_<product>-TPC<n>.npz``."""
    assert path.name.endswith(f"-TPC{tpc.number}.npz"), path
    write_arrays(path, [np.asarray(waveform, np.float32) / np.float32(1000.0) for waveform in waveforms])
    return path


# For each reader: the ends of the names of its files, and the builder.
FRAME_BUILDERS: dict[str, tuple[tuple[str, ...], Callable[[Path, Tpc, Waveforms], Path]]] = {
    "wirecell": ((".tar", ".tar.gz", ".tar.bz2", ".npz"), write_wirecell),
    "wirecell-hdf5": ((".h5",), write_wirecell_hdf5),
    "numl": ((".h5",), write_numl),
    "parsed": ((".npz",), write_parsed),
}


def write_frame_file(folder: Path, reader: str, tpc: Tpc, waveforms: Waveforms, suffix: str | None = None) -> Path:
    """A small file of a reader of frames, ``small_1_wire-TPC<n><suffix>``; the suffix is by default its first one."""
    suffixes, build = FRAME_BUILDERS[reader]
    return build(folder / f"small_1_wire-TPC{tpc.number}{suffix or suffixes[0]}", tpc, waveforms)
