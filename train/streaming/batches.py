"""Which images make up which batch: an epoch as a list of batches, computed from the voxel counts alone."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError

RUN_VOXELS = 16_384  # an inner chunk of the store: consecutive images up to this size are read together

Last = Literal["pad", "drop"]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one epoch.

    Attributes:
        order: (images,) int64 positions in the selection, in the order in which they are streamed.
        starts: (batches + 1,) int64; batch b holds ``order[starts[b]:starts[b + 1]]``.
        passes: (images,) int64; how often the image's selection was gone through before. Without weights the epoch.
    """

    order: Numbers
    starts: Numbers
    passes: Numbers

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, batch: int) -> Numbers:
        return self.order[self.starts[batch] : self.starts[batch + 1]]

    def passes_of(self, batch: int) -> Numbers:
        """The passes of a batch's images."""
        return self.passes[self.starts[batch] : self.starts[batch + 1]]

    def by_position(self) -> "BatchPlan":
        """The same batches, each with its images in the order of their positions: neighbours are read in one go."""
        batch = np.repeat(np.arange(len(self)), np.diff(self.starts))
        order = np.lexsort((self.passes, self.order, batch))
        return BatchPlan(self.order[order], self.starts, self.passes[order])


def image_runs(voxel_count: Numbers, run_voxels: int = RUN_VOXELS) -> Numbers:
    """First image of each run of consecutive images that spans at least ``run_voxels``, and the number of images.

    Returns (runs + 1,) int64; the last run may be smaller.
    """
    ends = np.cumsum(voxel_count)
    starts = [0]
    while starts[-1] < len(ends):
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        stop = int(np.searchsorted(ends, before + run_voxels)) + 1
        starts.append(min(stop, len(ends)))
    return np.array(starts, np.int64)


def epoch_order(
    voxel_count: Numbers, *, seed: int, epoch: int, source: int = 0, window: int = 256, run_voxels: int = RUN_VOXELS
) -> Numbers:
    """Shuffled order of the images: a permutation of ``range(len(voxel_count))``.

    Runs of consecutive images stay together, because they share chunks; images inside a run, the runs inside a window
    of ``window`` runs, and the windows are each shuffled with a generator made of (seed, epoch, source).
    """
    runs = image_runs(voxel_count, run_voxels)
    n_runs = len(runs) - 1
    random = np.random.default_rng([seed, epoch, source])
    n_windows = -(-n_runs // window)
    of_window = np.arange(n_runs) // window
    place = np.empty(n_runs, np.int64)
    place[np.lexsort((random.random(n_runs), random.permutation(n_windows)[of_window]))] = np.arange(n_runs)
    of_run = np.repeat(np.arange(n_runs), np.diff(runs))
    return np.lexsort((random.random(len(voxel_count)), place[of_run])).astype(np.int64)


def cut_batches(
    order: Numbers,
    voxel_count: Numbers,
    *,
    batch_size: int | None,
    max_voxels: int | None,
    passes: Numbers | None = None,
) -> BatchPlan:
    """Cut an order into batches of at most ``batch_size`` images and ``max_voxels`` voxels, whichever comes first.

    No image may be larger than ``max_voxels`` on its own; see `within_budget`.
    """
    ends = np.cumsum(voxel_count[order])
    starts = [0] if len(order) else []
    while starts and starts[-1] < len(order):
        stop = len(order)
        if batch_size is not None:
            stop = min(stop, starts[-1] + batch_size)
        if max_voxels is not None:
            before = int(ends[starts[-1] - 1]) if starts[-1] else 0
            stop = min(stop, int(np.searchsorted(ends, before + max_voxels, side="right")))
        starts.append(max(stop, starts[-1] + 1))
    return BatchPlan(order, np.array(starts or [0], np.int64), np.zeros_like(order) if passes is None else passes)


def within_budget(voxel_count: Numbers, max_voxels: int | None, over_budget: str, name: str) -> tuple[Numbers, Numbers]:
    """What becomes of images that alone exceed the budget: (positions that are streamed, voxels each is planned with).

    ``over_budget``: "fail" is a ConfigError that names the selection, "skip" leaves them out, "crop" plans them with
    ``max_voxels``.
    """
    everything = np.arange(len(voxel_count), dtype=np.int64)
    if max_voxels is None:
        return everything, voxel_count
    over = voxel_count > max_voxels
    if over_budget == "fail" and over.any():
        largest = int(voxel_count.max())
        raise ConfigError(
            f"{name}: {int(over.sum())} of {len(voxel_count)} images exceed max_voxels = {max_voxels} (the largest has "
            f"{largest}). Fix: data.max_voxels: {largest}, or data.over_budget: skip or crop"
        )
    return everything[~over] if over_budget == "skip" else everything, np.minimum(voxel_count, max_voxels)


def local_batches(n_batches: int, n_ranks: int, start: int = 0, last: Last = "pad") -> int:
    """Batches that every rank gets from global batch ``start`` on: repeated ones included, or incomplete rows not."""
    left = n_batches - start
    return left // n_ranks if last == "drop" else -(-left // n_ranks)


def assigned(
    n_batches: int,
    *,
    start: int = 0,
    rank: int = 0,
    n_ranks: int = 1,
    worker: int = 0,
    n_workers: int = 1,
    last: Last = "pad",
) -> list[tuple[int, bool]]:
    """Batches of one worker of one rank from global batch ``start`` on, in order, each with "is padding".

    Batch b belongs to rank b mod R, and to worker (b div R) mod W counted from the row of R batches that comes first:
    the ranks together see the same order whatever the numbers of ranks and workers, and wherever they start. The last
    row may be incomplete: "pad" gives the first batches once more, "drop" leaves it out.
    """
    first = start + (rank - start) % n_ranks
    rows = range(worker, local_batches(n_batches, n_ranks, start, last), n_workers)
    batches = [first + row * n_ranks for row in rows]
    return [(b % n_batches, b >= n_batches) for b in batches]


def fingerprint(arrays: list[Numbers], *settings: object) -> str:
    """Short hash of what an epoch's batches are computed from; equal ones mean the same batches."""
    digest = hashlib.sha256(repr([array.shape for array in arrays]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:16]
