"""Small valid files of deposits, one builder a reader: for our tests and for those of other tools."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocess.simulation import Deposits, SimulationConfig
from preprocess.simulation.particles import electrons
from preprocess.simulation.write import npy_bytes, write_members


def small_deposits(n_events: int = 2, n: int = 40, seed: int = 0) -> list[Deposits]:
    """Deposits of each event in a box of 200 mm from (100, 50, 20) mm.

    Whole mm, 1000 to 60,000 whole electrons, times to 50 µs, pdg 13 or 11, tracks from 1.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_events):
        place = rng.integers(0, 200, (n, 3)) + np.array([100.0, 50.0, 20.0])
        points = np.column_stack([place, rng.integers(0, 50, n), rng.integers(1000, 60_000, n)])
        found.append(Deposits(points, rng.choice([11, 13], n).astype(np.int32), rng.integers(1, 9, n, np.int32)))
    return found


def write_bee(path: Path, events: Sequence[Deposits], name: str = "truthDepo", first: int = 0) -> Path:
    """A Bee zip: x, y, z in cm rounded to 1 mm, whole electrons; times, pdg and tracks are lost.

    Args:
        path: the file.
        events: their deposits; the events are numbered from ``first``, their eventNo is one more.
        name: of the set.
        first: number of the first event.
    """
    members = []
    for number, event in enumerate(events, start=first):
        document: dict[str, Any] = {"runNo": "1", "subRunNo": "0", "eventNo": str(number + 1), "geom": "protodune"}
        document |= {axis: (event.points[:, i] / 10.0).round(1).tolist() for i, axis in enumerate("xyz")}
        document |= {"q": event.points[:, 4].round().astype(int).tolist(), "type": name}
        members.append((f"data/{number}/{number}-{name}.json", json.dumps(document).encode()))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED)
    return path


def write_wirecell_depos(path: Path, events: Sequence[Deposits], columns_first: bool = False, earlier: int = 0) -> Path:
    """A Wire-Cell depo archive; the suffix is one of .tar, .tar.gz, .tar.bz2, .npz.

    Args:
        path: the file.
        events: their deposits; n is 0, 1, …
        columns_first: (7, n) and (4, n) instead of (n, 7) and (n, 4).
        earlier: so many deposits of generation 1 are added, of 1000 electrons at the origin.
    """

    def members() -> Iterator[tuple[str, bytes]]:
        for number, event in enumerate(events):
            n = len(event.points)
            data, info = np.zeros((n + earlier, 7), np.float32), np.zeros((n + earlier, 4), np.int32)
            data[:n, 0], data[:n, 1], data[:n, 2:5] = event.points[:, 3] * 1e3, -event.points[:, 4], event.points[:, :3]
            info[:n, 0], info[:n, 1] = event.track, event.pdg
            data[n:, 1], info[n:, 2] = -1000.0, 1
            if columns_first:
                data, info = data.T, info.T
            yield f"depo_data_{number}.npy", npy_bytes(data)
            yield f"depo_info_{number}.npy", npy_bytes(info)

    write_members(path, members())
    return path


def write_edepsim(
    path: Path, events: Sequence[Deposits], first: int = 90, length_cm: float = 0.1, mev_cm: float = 2.1
) -> Path:
    """edep-sim segments in HDF5, one along x for each deposit, in its middle.

    Args:
        path: the file.
        events: their deposits; eventID is ``first``, ``first`` + 1, …
        first: number of the first event.
        length_cm, mev_cm: of each segment; the energy follows from the electrons by ``SimulationConfig()``.
    """
    per_mev = electrons(np.array([1.0]), np.array([1.0 / mev_cm]), SimulationConfig())[0]
    rows = np.zeros(sum(len(event.points) for event in events), EDEPSIM_ROW)
    points = np.concatenate([event.points for event in events]) if events else np.empty((0, 5))
    for i, axis in enumerate("xyz"):
        half = length_cm / 2 if axis == "x" else 0.0
        for name, offset in ((f"{axis}_start", -half), (axis, 0.0), (f"{axis}_end", half)):
            rows[name] = points[:, i] / 10.0 + offset
    for name in ("t_start", "t", "t_end"):
        rows[name] = points[:, 3]
    rows["eventID"] = np.repeat(np.arange(first, first + len(events)), [len(event.points) for event in events])
    rows["pdgId"] = np.concatenate([event.pdg for event in events]) if events else 0
    rows["trackID"] = np.concatenate([event.track for event in events]) if events else 0
    rows["dE"], rows["dEdx"], rows["dx"] = points[:, 4] / per_mev, mev_cm, length_cm
    with h5py.File(path, "w") as file:
        file["segments"] = rows
    return path


EDEPSIM_ROW = np.dtype(
    [("eventID", "u4"), ("trackID", "u4"), ("pdgId", "i4")]
    + [(f"{axis}{end}", "f4") for axis in "xyzt" for end in ("_start", "", "_end")]
    + [("dx", "f4"), ("dE", "f4"), ("dEdx", "f4"), ("n_electrons", "u4")]
)
DEPO_BUILDERS: dict[str, tuple[tuple[str, ...], Callable[[Path, Sequence[Deposits]], Path]]] = {
    "bee": ((".zip",), write_bee),
    "wirecell-depos": ((".tar", ".tar.gz", ".tar.bz2", ".npz"), write_wirecell_depos),
    "edepsim": ((".h5",), write_edepsim),
}


def write_depo_file(folder: Path, reader: str, events: Sequence[Deposits], suffix: str | None = None) -> Path:
    """A small file of a reader of deposits, ``depos<suffix>``; the suffix is by default its first one."""
    suffixes, build = DEPO_BUILDERS[reader]
    return build(folder / f"depos{suffix or suffixes[0]}", events)
