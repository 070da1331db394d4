"""Reader for edep-sim segments in HDF5 (input of larnd-sim): one compound dataset ``segments``, a row a step."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.sources.depos import FARTHEST, DepoEvent, DepoSource, check_count, check_values, depo_event
from preprocess.sources.hdf5 import dataset, open_hdf5, read
from preprocess.sources.names import HDF5_SUFFIXES
from preprocess.sources.registry import Probe, Reader

if TYPE_CHECKING:  # readers load without the simulation
    from preprocess.simulation.config import SimulationConfig

SEGMENTS = "segments"
# Column -> its names, the older one first. `dEdx`, `t_start` and `t_end` may be missing.
WHOLE = {"event": ("eventID", "event_id"), "track": ("trackID", "traj_id"), "pdg": ("pdgId", "pdg_id")}
ENDS = tuple(f"{axis}_{end}" for end in ("start", "end") for axis in "xyz")
MM_PER_CM = 10.0
BLOCK_ROWS = 1 << 14  # rows of which the event numbers are looked at together
LEAST = 1e-9  # MeV or MeV/cm: nothing is freed below
MOST_COMPRESSED = 1100  # deflate makes nothing smaller than that
Columns = dict[str, npt.NDArray[Any]]


class EdepSimSource(DepoSource):
    """Positions in cm, times in µs, ``dE`` in MeV and ``dEdx`` in MeV/cm; the rows of an event lie together.

    Electrons follow from both by the modified box model of the settings (``w_ion_ev``, ``box_alpha``, ``box_beta``,
    ``field_kv_cm``, ``density_g_cm3``). A segment longer than ``step_mm`` becomes equal pieces, its electrons and
    times shared along it. The axes are the file's; a ``Place`` moves them into a TPC.
    """

    @property
    def n_events(self) -> int:
        """Number of events with segments; reads the column of their numbers."""
        with open_hdf5(self.path) as file:
            return len(self._rows(file))

    def read(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """See ``DepoSource.read``.

        Notes: ``segments without length or dE/dx``, ``segments without energy``, ``deposits without electrons``
        (the model leaves none below 0.23 MeV/cm, by default).
        """
        with open_hdf5(self.path) as file:
            rows = self._rows(file)
        for event, (event_id, chosen) in enumerate(rows.items()):
            # Opened for each event: the consumer's own errors must not pass through here.
            with open_hdf5(self.path) as file:
                columns = self._columns(file, event, chosen)
            yield self._event(event, event_id, columns, config)

    def _node(self, file: h5py.File) -> h5py.Dataset:
        node = dataset(self.path, file, SEGMENTS, "V")
        names = node.dtype.names or ()
        missing = [name for name in (*ENDS, "dE") if name not in names]
        missing += [known[0] for known in WHOLE.values() if not set(known) & set(names)]
        if missing or node.ndim != 1:
            what = f"lacks {missing[0]}" if missing else f"has shape {node.shape}"
            raise InputError(f"{self.path}: {SEGMENTS} {what}. Fix: write it with edep-sim's converter of larnd-sim.")
        # A damaged shape may claim rows that take years to go through.
        if node.shape[0] * node.dtype.itemsize > MOST_COMPRESSED * self.path.stat().st_size:
            raise InputError(f"{self.path}: {SEGMENTS} claims {node.shape[0]} rows. Fix: copy or write the file again.")
        return node

    def _rows(self, file: h5py.File) -> dict[int, slice]:
        """The rows of each event, by its number, in the order of the file."""
        node, found = self._node(file), dict[int, slice]()
        for start in range(0, node.shape[0], BLOCK_ROWS):
            block = slice(start, min(start + BLOCK_ROWS, node.shape[0]))
            ids = _field(self.path, read(self.path, node, block), WHOLE["event"], "iu")
            firsts = np.flatnonzero(np.diff(ids, prepend=ids[0] ^ 1))
            for first, last in zip(firsts, [*firsts[1:], len(ids)], strict=True):
                number, rows = int(ids[first]), slice(start + int(first), start + int(last))
                if number not in found:
                    found[number] = rows
                elif found[number].stop == rows.start:
                    found[number] = slice(found[number].start, rows.stop)
                else:
                    raise InputError(f"{self.path}: the rows of event {number} lie apart. Fix: sort them by event.")
        return found

    def _columns(self, file: h5py.File, event: int, rows: slice) -> Columns:
        values = read(self.path, self._node(file), rows)
        names = values.dtype.names or ()
        columns = {key: _field(self.path, values, known, "iu") for key, known in WHOLE.items()}
        times = [name for name in ("t_start", "t_end") if name in names]
        for name in (*ENDS, "dE", *times, *(("dEdx",) if "dEdx" in names else ())):
            column = _field(self.path, values, (name,), "fiu")
            check_values(self.path, event, name, column)
            columns[name] = column.astype(np.float64)
        return columns

    def _event(self, event: int, event_id: int, columns: Columns, config: "SimulationConfig") -> DepoEvent:
        from preprocess.simulation.particles import electrons  # compiled code, for this reader only

        start, end = (np.column_stack([columns[name] for name in ENDS[half : half + 3]]) for half in (0, 3))
        length = np.linalg.norm(end - start, axis=1)
        energy = columns["dE"]
        energetic = energy > LEAST
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            per_cm = energy / length
        given = columns.get("dEdx", per_cm)
        per_cm = np.where(given > LEAST, given, per_cm)
        known = energetic & (per_cm > LEAST) & (per_cm < FARTHEST)
        notes = {
            "segments without energy": int((~energetic).sum()),
            "segments without length or dE/dx": int((energetic & ~known).sum()),
        }
        free = electrons(energy[known], energy[known] / per_cm[known], config)
        step_cm = config.step_mm / MM_PER_CM
        pieces = np.maximum(np.ceil(length[known] / step_cm), 1.0)
        total = float(pieces.sum())
        check_count(self.path, event, int(total))
        segment = np.repeat(np.flatnonzero(known), pieces.astype(np.int64))
        share = np.repeat(1.0 / pieces, pieces.astype(np.int64))
        first = np.repeat(np.cumsum(pieces) - pieces, pieces.astype(np.int64))
        along = (np.arange(len(segment)) - first + 0.5) * share  # the middle of each piece
        place = (start[segment] + along[:, None] * (end - start)[segment]) * MM_PER_CM
        time = np.zeros(len(segment))
        if "t_start" in columns and "t_end" in columns:
            time = columns["t_start"][segment] + along * (columns["t_end"] - columns["t_start"])[segment]
        charge = np.repeat(free, pieces.astype(np.int64)) * share
        return depo_event(
            self.path, event, [*place.T, time, charge], columns["pdg"][segment], columns["track"][segment], event_id,
            {name: count for name, count in notes.items() if count},
        )  # fmt: skip


def _field(path: Any, values: npt.NDArray[Any], known: tuple[str, ...], kinds: str) -> npt.NDArray[Any]:
    """One column of a compound array; InputError where it is not of plain numbers of these kinds."""
    name = next(name for name in known if name in (values.dtype.names or ()))
    column = values[name]
    if column.ndim != 1 or column.dtype.kind not in kinds:
        raise InputError(
            f"{path}: {SEGMENTS}/{name} has dtype {column.dtype}, shape {column.shape}. Fix: write numbers."
        )
    return column


def _recognises(probe: Probe) -> bool:
    return probe.container == "hdf5" and SEGMENTS in probe.names


READER = Reader(
    "edepsim", "depos", "edep-sim segments, as of larnd-sim (.h5, .hdf5: segments)", HDF5_SUFFIXES, _recognises,
    EdepSimSource,
)  # fmt: skip
