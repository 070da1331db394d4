"""The images of an evaluation, collected here or in parts by a Dask cluster's workers; memory is bounded in both."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from larstore.image import Image
from larstore.selection import Selection
from train.results.collecting import Collector

if TYPE_CHECKING:
    from distributed import Client

PART_VOXELS = 16_000_000  # of a part at least: what it is summed up to is some 20 MB for each prediction
AHEAD = 2  # parts for each thread of the cluster that are in hand at once: none waits, and few wait to be added

Empty = Callable[[], Collector]


def collect(selection: Selection, empty: Empty, max_voxels: int, client: "Client | None" = None) -> Collector:
    """What ``empty`` makes, after it has taken in all images.

    Parts do not depend on the cluster and are added in their order: the sums are the same for any workers.

    Args:
        selection: images, those of an event one after another.
        empty: makes a collector without images; a client's workers must be able to unpickle it.
        max_voxels: read at a time, by each worker.
        client: of a Dask cluster whose workers see the store under the same path; None = this process does it.
    """
    if client is None:
        collected = empty()
        for image in read_images(selection, max_voxels, collected.kinds[0].name):
            collected.add(image)
        collected.finish()
        return collected
    return _by_workers(selection, empty, max_voxels, client)


def _by_workers(selection: Selection, empty: Empty, max_voxels: int, client: "Client") -> Collector:
    collected = empty()
    waiting: deque[Any] = deque()
    most = AHEAD * max(1, sum(client.nthreads().values()))
    try:
        for part in event_parts(selection, PART_VOXELS):
            waiting.append(client.submit(_part, part, empty, max_voxels, pure=False))
            if len(waiting) >= most:
                collected.merge(waiting.popleft().result())
        while waiting:
            collected.merge(waiting.popleft().result())
    finally:
        for future in waiting:  # after an error or Ctrl-C
            future.cancel()
    return collected


def _part(selection: Selection, empty: Empty, max_voxels: int) -> Collector:
    """A worker's task."""
    return collect(selection, empty, max_voxels)


def event_parts(selection: Selection, voxels: int) -> Iterator[Selection]:
    """Neighbouring images of at least so many voxels together, but for the last ones; no event is divided."""
    ends = np.cumsum(selection.column("voxel_count").astype(np.int64))
    file, event = (selection.column(name).astype(np.int64) for name in ("file", "event"))
    # Where another event begins.
    cuts = np.flatnonzero((file[1:] != file[:-1]) | (event[1:] != event[:-1])) + 1
    start = 0
    while start < len(selection):
        before = int(ends[start - 1]) if start else 0
        full = int(np.searchsorted(ends, before + voxels)) + 1
        at = int(np.searchsorted(cuts, full))
        stop = int(cuts[at]) if at < len(cuts) else len(selection)
        yield selection[start:stop]
        start = stop


def read_images(selection: Selection, max_voxels: int, prediction: str | None = None) -> Iterator[Image]:
    """The images of a selection with their arrays, read in runs of at most ``max_voxels`` (one image at least)."""
    ends = np.cumsum(selection.column("voxel_count").astype(np.int64))
    start = 0
    while start < len(selection):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + max_voxels, side="right")), start + 1)
        yield from selection.read(start, stop, prediction)
        start = stop
