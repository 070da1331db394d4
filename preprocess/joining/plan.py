"""Which images belong together: the events of a store that have all TPCs, those that lack some, and tasks of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import StoreError

MOST_EVENTS = 4096  # of a task: small images cost time, not rows
LEAST_ROWS = 1 << 16  # of a task: smaller ones are not worth a file each
TASKS_PER_WORKER = 4  # at least so many, so that the last one does not hold the rest up
SAME = ("run", "subrun", "event_id")  # numbers of the frame; images that differ in one are not of one event

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """Events whose images are joined, in the order of their keys.

    Attributes:
        file, event: (n,) their keys.
        rows: (n, tpcs) rows of the source's index, -1 where an image is missing.
        incomplete: (file, event, missing TPCs) of those that lack some, joined or not.
        differing: (file, event) of those whose images have other run, subrun or frame numbers; never joined.
    """

    file: Rows
    event: Rows
    rows: Rows
    incomplete: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    differing: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.file)

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Events":
        """Some of the events; what was left out stays told."""
        return Events(
            self.file[chosen], self.event[chosen], self.rows[chosen], self.incomplete, self.differing
        )  # fmt: skip

    @property
    def keys(self) -> Rows:
        """(n,) file and event as one number."""
        return self.file << 32 | self.event


def find_events(
    store: larstore.Store, tpcs: Sequence[int], files: tuple[int, int] | None = None, keep_incomplete: bool = False
) -> Events:
    """The events of a store that have images of all these TPCs (ascending); of any, with ``keep_incomplete``.

    StoreError if there are none.
    """
    part = store.select(files=files, tpcs=tpcs)
    file, event = (part.column(name).astype(np.int64) for name in ("file", "event"))
    new = np.ones(len(part), bool)
    new[1:] = (file[1:] != file[:-1]) | (event[1:] != event[:-1])
    rows = np.full((int(new.sum()), len(tpcs)), -1, np.int64)
    rows[np.cumsum(new) - 1, np.searchsorted(tpcs, part.column("tpc"))] = part.row_numbers
    file, event = file[new], event[new]
    there = rows >= 0
    alike = np.ones(len(rows), bool)
    for name in SAME:
        values = store.index_columns.column(name).astype(np.int64)[rows] if len(part) else rows
        known = there & (values >= 0)
        low = np.where(known, values, np.iinfo(np.int64).max).min(axis=1)
        alike &= (low >= np.where(known, values, -1).max(axis=1)) | ~known.any(axis=1)
    complete = there.all(axis=1)
    incomplete = [
        (int(file[i]), int(event[i]), tuple(n for n, found in zip(tpcs, there[i], strict=True) if not found))
        for i in np.flatnonzero(~complete)
    ]
    differing = [(int(file[i]), int(event[i])) for i in np.flatnonzero(~alike)]
    events = Events(file, event, rows, incomplete, differing).take(alike & (complete | keep_incomplete))
    if not len(events):
        text = ",".join(map(str, tpcs))
        raise StoreError(
            f"{store.path}: no event has images of all TPCs {text}, {len(incomplete)} have some of them. "
            "Fix: choose TPCs that 'larstore index' lists, or --incomplete keep"
        )
    return events


def split(store: larstore.Store, events: Events, shard_rows: int, workers: int) -> Iterator[tuple[Rows, int]]:
    """Events in tasks: positions of each task's, and the shards that its images need at most.

    A task fills about a shard, or is a single event.
    """
    counts = np.zeros((2, len(events)), np.int64)
    for i, kind in enumerate(("voxel", "truth")):
        for column in events.rows.T:
            there = np.flatnonzero(column >= 0)
            counts[i, there] += store.index_columns.place(f"{kind}_count", column[there])
    share = int(counts.max(axis=0).sum()) // (TASKS_PER_WORKER * workers)
    most = min(shard_rows, max(share, LEAST_ROWS))
    first, total = 0, np.zeros(2, np.int64)
    for i in range(len(events) + 1):
        full = i < len(events) and i > first and (int((total + counts[:, i]).max()) > most or i - first >= MOST_EVENTS)
        if full or (i == len(events) and i > first):
            yield np.arange(first, i), max(1, -(-int(total.max()) // shard_rows))
            first, total = i, np.zeros(2, np.int64)
        if i < len(events):
            total += counts[:, i]
