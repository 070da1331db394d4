"""Reader for NuML/pynuml HDF5, as of MicroBooNE: waveforms in ``wire_table``, truth of hits in ``edep_table``."""

from collections.abc import Iterator

import h5py
import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, Source, check_size, check_tick, check_waveform, factor_of
from preprocess.sources.event_tables import EventKey, EventTable
from preprocess.sources.frames import channel_counts, check_named, named_tpc
from preprocess.sources.hdf5 import dataset, open_hdf5, subgroup
from preprocess.sources.names import HDF5_SUFFIXES
from preprocess.sources.options import ReadOptions
from preprocess.sources.peek import Peek
from preprocess.sources.registry import Probe, Reader

ELECTRONS_PER_UNIT = 200.0  # MicroBooNE's deconvolved recob::Wire: electrons × 0.005
WIRES, EDEPS, HITS = "wire_table", "edep_table", "hit_table"
BLOCK_ROWS = 1024  # wires read at a time, 26 MB for 6400 ticks
TOO_MANY = 1 << 31  # no wire, plane or TPC has such a number
Columns = dict[str, npt.NDArray[np.generic]]


class NumlSource(Source):
    """Waveforms of all wires, ``adc`` (wires, ticks) float32, deconvolved despite its name; no positions of deposits.

    The images have no truth voxels. What the file knows is the truth of hits: ``hits``. The file labels neither its
    ticks nor the first one.
    """

    default_scale = ELECTRONS_PER_UNIT

    @property
    def n_events(self) -> int:
        """Number of events with wires."""
        with open_hdf5(self.path) as file:
            return len(EventTable(self.path, file, WIRES).rows)

    def tpcs(self, detector: Detector) -> list[int]:
        """The TPC in the file's name, else those of ``wire_table``'s first event; InputError if it has no such TPC."""
        named = named_tpc(self.path, detector)
        if named is not None:
            return [named]
        with open_hdf5(self.path) as file:
            table = EventTable(self.path, file, WIRES)
            numbers = np.unique(self._tpc_column(file, table, next(iter(table.rows.values()), slice(0, 0)))).tolist()
        foreign = [number for number in numbers if number not in detector.tpcs]
        if foreign or not numbers:
            valid = ", ".join(str(n) for n in sorted(detector.tpcs))
            raise InputError(
                f"{self.path}: {WIRES} holds TPC {foreign[0] if foreign else '(none)'}, {detector.name} has {valid}. "
                "Fix: choose its detector."
            )
        return [int(number) for number in numbers]

    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """See ``Source.read``; the scale is 200 by default, and there are no tags, orientations or truth voxels.

        Notes of an event: ``hit-level truth rows (see NumlSource.hits)``.
        """
        check_named(self.path, tpc)
        factor = np.float32(factor_of(options, self.default_scale))
        if options.tag is not None:
            raise InputError(f"{self.path}: NuML files have no tags (got {options.tag!r}). Fix: leave it out.")
        if options.orientation == "ticks_first":
            raise InputError(f"{self.path}: NuML files hold (wires, ticks). Fix: leave orientation out.")
        check_tick(self.path, tpc, None, options)
        with open_hdf5(self.path) as file:
            wires = EventTable(self.path, file, WIRES)
            edeps = EventTable(self.path, file, EDEPS).rows if EDEPS in file else {}
        for number, key in enumerate(wires.rows):
            notes = {"no truth voxels in this format": 1} if options.truth else {}
            hits = edeps.get(key, slice(0, 0))
            if hits.stop > hits.start:
                notes["hit-level truth rows (see NumlSource.hits)"] = hits.stop - hits.start
            with open_hdf5(self.path) as file:
                waveform, missing = self._waveform(file, wires, number, key, tpc, options)
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                waveform *= factor
            check_waveform(self.path, number, waveform)
            if len(missing):
                notes["channels that the frame lacks"] = len(missing)
            bad = np.column_stack([missing, np.zeros_like(missing), np.full_like(missing, len(waveform))])
            run, subrun, event_id = key
            yield Event(
                number, waveform, bad=bad.astype(np.int32), run=run, subrun=subrun, event_id=event_id, notes=notes
            )  # fmt: skip

    def hits(self, event: int | Event) -> Columns:
        """The hit-level truth of an event (its position in the file): equally long columns, as in a data frame.

        All columns of ``edep_table``, such as hit_id, g4_id and energy (its unit: the file's maker knows); empty where
        the event has none. Where the file has ``hit_table``, its columns follow, matched by hit_id, with the prefix
        ``hit_`` (hit_local_plane, hit_local_wire, hit_local_time, …).

        Raises:
            InputError: no such event, no ``edep_table``, or an edep of a hit that ``hit_table`` lacks.
        """
        number = event if isinstance(event, int) else event.event
        with open_hdf5(self.path) as file:
            keys = list(EventTable(self.path, file, WIRES).rows)
            if not 0 <= number < len(keys):
                raise InputError(f"{self.path}: has no event {number}. Fix: choose one of 0 … {len(keys) - 1}.")
            found = self._table(file, EDEPS, keys[number])
            if HITS in file and "hit_id" in found:
                found |= self._matched(self._table(file, HITS, keys[number]), found["hit_id"], number)
        return found

    def peek(self) -> Iterator[Peek]:
        """See ``Source.peek``: the wires of each event, all TPCs."""
        with open_hdf5(self.path) as file:
            table = EventTable(self.path, file, WIRES)
            others = [name for name in file if name != WIRES]
        for key, rows in table.rows.items():
            with open_hdf5(self.path) as file:
                values = table.read(file, "adc", rows, self._n_ticks(file))
                plane = table.read(file, "local_plane", rows)
            yield Peek(key[2], "adc", values, plane=plane, remark=f"run {key[0]}, subrun {key[1]}")
        yield Peek(-1, "other tables", remark=", ".join(others) or "none")

    def _table(self, file: h5py.File, name: str, key: EventKey) -> Columns:
        table = EventTable(self.path, file, name)
        rows = table.rows.get(key, slice(0, 0))
        return {column: table.read(file, column, rows) for column in table.columns(file)}

    def _matched(self, hits: Columns, wanted: npt.NDArray[np.generic], number: int) -> Columns:
        if "hit_id" not in hits:
            raise InputError(f"{self.path}: {HITS} has no column hit_id. Fix: copy or write the file again.")
        order = np.argsort(hits["hit_id"], kind="stable")
        ids = hits["hit_id"][order]
        place = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
        if len(wanted) and (not len(ids) or (ids[place] != wanted).any()):
            raise InputError(
                f"{self.path}: {EDEPS} names hits of event {number} that {HITS} lacks. Fix: write it again."
            )
        chosen = order[place] if len(ids) else place
        return {f"hit_{name}": values[chosen] for name, values in hits.items() if name != "hit_id"}

    def _tpc_column(self, file: h5py.File, table: EventTable, rows: slice) -> npt.NDArray[np.int64]:
        if "tpc" not in table.columns(file):
            return np.zeros(rows.stop - rows.start, np.int64)
        return _whole(table.read(file, "tpc", rows), f"{self.path}: {WIRES}/tpc")

    def _n_ticks(self, file: h5py.File) -> int:
        node = dataset(self.path, subgroup(self.path, file, WIRES), "adc")
        if node.ndim != 2:
            raise InputError(f"{self.path}: {WIRES}/adc has shape {node.shape}. Fix: write (wires, ticks).")
        return int(node.shape[1])

    def _waveform(
        self, file: h5py.File, table: EventTable, number: int, key: EventKey, tpc: Tpc, options: ReadOptions
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """One event as (ticks, channels) in the file's unit, and the columns that it has no wire for."""
        n_ticks, rows = self._n_ticks(file), table.rows[key]
        check_size(self.path, number, n_ticks, len(tpc.channels))
        if (table.read(file, "event_id", rows, 3) != np.array(key)).any():
            raise InputError(f"{self.path}: the rows of event {number} in {WIRES} lie apart. Fix: write it again.")
        ours = self._tpc_column(file, table, rows) == tpc.number
        columns = np.full(len(ours), -1, np.int64)
        columns[ours] = self._columns(file, table, rows, tpc)[ours]
        used = columns[ours]
        values, counts = np.unique(used, return_counts=True)
        if (counts > 1).any() or (used < 0).any():
            what = f"channel {tpc.channels[values[counts > 1][0]]} twice" if (counts > 1).any() else "an unknown wire"
            raise InputError(
                f"{self.path}: event {number} holds {what}, by local_plane and local_wire; {tpc.detector} has "
                f"{channel_counts(tpc, np.empty(0, np.int64))} (u, v, … as 0, 1, …). Fix: choose its detector."
            )
        missing = np.setdiff1d(np.arange(len(tpc.channels)), used)
        if len(missing) and options.missing_channels == "refuse":
            raise InputError(
                f"{self.path}: event {number} lacks channels of TPC {tpc.number} of {tpc.detector}: "
                f"{channel_counts(tpc, used)}. Fix: choose its detector, or set missing_channels to bad."
            )
        waveform = np.zeros((n_ticks, len(tpc.channels)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(rows.start, rows.stop, BLOCK_ROWS):
                block = slice(start, min(start + BLOCK_ROWS, rows.stop))
                place = columns[block.start - rows.start : block.stop - rows.start]
                waveform[:, place[place >= 0]] = table.read(file, "adc", block, n_ticks)[place >= 0].T
        return waveform, missing

    def _columns(self, file: h5py.File, table: EventTable, rows: slice, tpc: Tpc) -> npt.NDArray[np.int64]:
        """The column of each wire: the plane's first channel + local_wire; −1 where the TPC has no such channel."""
        plane = _whole(table.read(file, "local_plane", rows), f"{self.path}: {WIRES}/local_plane")
        wire = _whole(table.read(file, "local_wire", rows), f"{self.path}: {WIRES}/local_wire")
        columns = np.full(len(plane), -1, np.int64)
        for index, each in enumerate(tpc.planes):
            channels = np.unique(each.channel).astype(np.int64)
            ours = (plane == index) & (wire >= 0) & (wire < TOO_MANY)
            channel = channels[0] + wire[ours]
            known = np.isin(channel, channels)
            columns[np.flatnonzero(ours)[known]] = np.searchsorted(tpc.channels, channel[known])
        return columns


def _whole(values: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.int64]:
    """Whole numbers, which the format writes as floats in part; InputError for others."""
    floats = np.asarray(values, np.float64)
    if not (np.isfinite(floats) & (floats == np.floor(floats)) & (np.abs(floats) < TOO_MANY)).all():
        raise InputError(f"{where} holds other than whole numbers below 2^31. Fix: copy or write the file again.")
    return floats.astype(np.int64)


def _recognises(probe: Probe) -> bool:
    return probe.container == "hdf5" and WIRES in probe.names


READER = Reader(
    "numl", "frames", "NuML/pynuml HDF5 (.h5, .hdf5: wire_table, edep_table)", HDF5_SUFFIXES, _recognises, NumlSource
)
