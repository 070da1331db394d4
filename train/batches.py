"""Which images make up which batch: an epoch as a list of batches, computed from the voxel counts alone."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError

RUN_VOXELS = 16_384  # an inner chunk of the store: consecutive images up to this size are read together


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one epoch.

    Attributes:
        order: (images,) int64 positions in the selection, in the order in which they are streamed.
        starts: (batches + 1,) int64; batch b holds ``order[starts[b]:starts[b + 1]]``.
        skipped: (k,) int64 positions of images over the budget that were left out.
    """

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    skipped: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, batch: int) -> npt.NDArray[np.int64]:
        return self.order[self.starts[batch] : self.starts[batch + 1]]


def image_runs(voxel_count: npt.NDArray[np.int64], run_voxels: int = RUN_VOXELS) -> npt.NDArray[np.int64]:
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
    voxel_count: npt.NDArray[np.int64], *, seed: int, epoch: int, window: int = 256, run_voxels: int = RUN_VOXELS
) -> npt.NDArray[np.int64]:
    """Shuffled order of the images: a permutation of ``range(len(voxel_count))``.

    Runs of consecutive images stay together, because they share chunks; images inside a run, the runs inside a window
    of ``window`` runs, and the windows are each shuffled with a generator made of (seed, epoch).
    """
    runs = image_runs(voxel_count, run_voxels)
    n_runs = len(runs) - 1
    random = np.random.default_rng([seed, epoch])
    pieces = []
    n_windows = -(-n_runs // window)
    for w in random.permutation(n_windows):
        first = int(w) * window
        in_window = first + random.permutation(min(window, n_runs - first))
        pieces += [runs[r] + random.permutation(int(runs[r + 1] - runs[r])) for r in in_window]
    return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


def cut_batches(
    order: npt.NDArray[np.int64],
    voxel_count: npt.NDArray[np.int64],
    *,
    batch_size: int | None,
    max_voxels: int | None,
) -> BatchPlan:
    """Cut an order into batches of at most ``batch_size`` images and ``max_voxels`` voxels, whichever comes first.

    An image that is larger than ``max_voxels`` on its own is left out and listed in ``skipped``; whether that is
    allowed is for the caller to say (`check_budget`).
    """
    fits = voxel_count[order] <= max_voxels if max_voxels is not None else np.ones(len(order), bool)
    kept = order[fits]
    starts = [0]
    images = voxels = 0
    for i, size in enumerate(voxel_count[kept].tolist()):
        full = (batch_size is not None and images == batch_size) or (
            max_voxels is not None and voxels + size > max_voxels
        )
        if full and images:
            starts.append(i)
            images = voxels = 0
        images += 1
        voxels += size
    if len(kept):
        starts.append(len(kept))
    return BatchPlan(kept, np.array(starts, np.int64), order[~fits])


def check_budget(voxel_count: npt.NDArray[np.int64], max_voxels: int | None, name: str) -> None:
    """Raise ConfigError if an image called ``name`` % position exceeds the budget."""
    if max_voxels is None or not len(voxel_count):
        return
    over = np.flatnonzero(voxel_count > max_voxels)
    if len(over):
        largest = int(voxel_count.max())
        raise ConfigError(
            f"{name}: {len(over)} of {len(voxel_count)} images exceed max_voxels = {max_voxels} (the largest has "
            f"{largest}). Fix: data.max_voxels: {largest}, or data.over_budget: skip"
        )


def local_batches(n_batches: int, n_ranks: int, start: int = 0) -> int:
    """Batches that every rank gets from global batch ``start`` on, repeated ones included."""
    return -(-(n_batches - start) // n_ranks)


def assigned(
    n_batches: int, *, start: int = 0, rank: int = 0, n_ranks: int = 1, worker: int = 0, n_workers: int = 1
) -> list[tuple[int, bool]]:
    """Batches of one worker of one rank from global batch ``start`` on, in order, each with "is padding".

    From ``start`` on, batches go to the ranks in turn, and within a rank to its workers in turn: the ranks together
    see the same order whatever the numbers of ranks and workers. Past the last batch the first ones come again.
    """
    rows = range(worker, local_batches(n_batches, n_ranks, start), n_workers)
    batches = [start + row * n_ranks + rank for row in rows]
    return [(b % n_batches, b >= n_batches) for b in batches]


def fingerprint(voxel_count: npt.NDArray[np.int64], *settings: object) -> str:
    """Short hash of what an epoch's batches are computed from; equal ones mean the same batches."""
    digest = hashlib.sha256(np.ascontiguousarray(voxel_count, "<i8").tobytes())
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:16]
