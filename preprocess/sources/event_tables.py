"""Tables of an HDF5 file whose rows belong to events, as NuML/pynuml writes them: which rows are whose."""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.sources.hdf5 import dataset, read, subgroup

EventKey = tuple[int, int, int]  # run, subrun, event
COUNTS = "event_id.seq_cnt"


class EventTable:
    """One group of columns with an ``event_id`` (n, 3): run, subrun, event; each event's rows lie together.

    ``event_id.seq_cnt`` (m, 2), where it is there, gives each event's number of rows; else equal ids are counted.

    Attributes:
        rows: each event's rows, in the order of the table.
        n_rows: rows of the table.

    Raises:
        InputError: the group or its ``event_id`` is missing or misshaped, the counts don't add up, or an event comes
            twice.
    """

    def __init__(self, path: Path, file: h5py.File, name: str) -> None:
        self.path, self.name = path, name
        group = subgroup(path, file, name)
        ids = dataset(path, group, "event_id", "iu")
        if ids.ndim != 2 or ids.shape[1] != 3:
            raise InputError(f"{path}: {name}/event_id has shape {ids.shape}. Fix: write (n, 3): run, subrun, event.")
        self.n_rows = int(ids.shape[0])
        starts = self._starts(group, ids)
        self.rows: dict[EventKey, slice] = {}
        for start, end in zip(starts, [*starts[1:], self.n_rows][: len(starts)], strict=True):
            run, subrun, event = (int(value) for value in read(path, ids, slice(start, start + 1))[0])
            if (run, subrun, event) in self.rows:
                raise InputError(
                    f"{path}: {name} holds event {event} of run {run}, subrun {subrun} twice. "
                    "Fix: write the rows of an event together."
                )
            self.rows[run, subrun, event] = slice(start, end)

    def _starts(self, group: h5py.Group, ids: h5py.Dataset) -> list[int]:
        """The first row of each event."""
        if COUNTS not in group:
            all_ids = np.asarray(read(self.path, ids))
            first = np.ones(self.n_rows, bool)
            first[1:] = (all_ids[1:] != all_ids[:-1]).any(axis=1)
            return [int(row) for row in np.flatnonzero(first)]
        pairs = np.asarray(read(self.path, dataset(self.path, group, COUNTS, "iu")))
        where = f"{self.path}: {self.name}/{COUNTS}"
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise InputError(f"{where} has shape {pairs.shape}. Fix: write (events, 2): event index, rows.")
        counts = [int(value) for value in pairs[:, 1]]  # Python's integers: damaged ones overflow
        if sum(counts) != self.n_rows or min(counts, default=1) < 1:
            raise InputError(
                f"{where} counts {sum(counts)} rows (smallest {min(counts, default=0)}), the table has {self.n_rows}. "
                "Fix: write it again."
            )
        return [int(total) for total in np.cumsum([0, *counts])[:-1]]

    def read(self, file: h5py.File, column: str, rows: slice, width: int | None = None) -> npt.NDArray[np.generic]:
        """Rows of a column, (n,) for those of one number a row; InputError for another shape or length.

        Args:
            file: the open file.
            column: its name.
            rows: which rows.
            width: numbers a row; None: one.
        """
        node = dataset(self.path, subgroup(self.path, file, self.name), column)
        fitting = ((self.n_rows,), (self.n_rows, 1)) if width is None else ((self.n_rows, width),)
        if node.shape not in fitting:
            raise InputError(f"{self.path}: {self.name}/{column} has shape {node.shape}. Fix: write {fitting[0]}.")
        values = read(self.path, node, rows)
        return values.reshape(len(values)) if width is None else values

    def columns(self, file: h5py.File) -> list[str]:
        """Names of the columns with one number a row, other than ``event_id``."""
        group = subgroup(self.path, file, self.name)
        shapes, found = ((self.n_rows,), (self.n_rows, 1)), []
        for name in group:
            node = None if name.startswith("event_id") else group.get(name)
            if isinstance(node, h5py.Dataset) and node.dtype.kind in "fiu" and node.shape in shapes:
                found.append(name)
        return found
