"""Purity–efficiency curves of a score from counts that are pooled over images, in bounded memory."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

GHOST, TRUE, UNKNOWN = 0, 1, 2  # what a voxel is; UNKNOWN (no truth) is counted and takes no part in curves
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One point per distinct score, best first; a voxel is kept where score >= threshold.

    Attributes:
        threshold: (k,) descending.
        kept: (k,) voxels kept that are true or ghosts.
        true: (k,) true voxels kept.
        n_true: all true voxels.
    """

    threshold: Floats
    kept: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    n_true: int

    @property
    def purity(self) -> Floats:
        """(k,) true / kept, also known as precision."""
        return self.true / np.maximum(self.kept, 1)

    @property
    def efficiency(self) -> Floats:
        """(k,) true kept / true and tiled, also known as recall; NaN without true voxels."""
        return self.true / self.n_true if self.n_true else np.full(len(self.true), np.nan)

    @property
    def average_precision(self) -> float:
        """Sum over the points of (efficiency - efficiency of the point before) × purity; NaN without true voxels.

        No interpolation; voxels of equal score enter together. The definition of scikit-learn and torchmetrics.
        """
        if not self.n_true:
            return float("nan")
        return float(np.diff(self.true, prepend=0) @ self.purity / self.n_true)

    def best(self) -> int | None:
        """The point of largest purity + efficiency, the highest threshold among equals; None without true voxels."""
        return int(np.argmax(self.purity + self.efficiency)) if self.n_true else None

    def thinned(self, n: int = 400) -> npt.NDArray[np.int64]:
        """About ``n`` points to draw: evenly spaced in efficiency, and in kept voxels, first and last included."""
        if not len(self.threshold):
            return np.zeros(0, np.int64)
        chosen = [np.array([0, len(self.threshold) - 1])]
        for counts in (self.true, self.kept):
            wanted = np.linspace(counts[0], counts[-1], n // 2)
            chosen.append(np.searchsorted(counts, wanted).clip(max=len(counts) - 1))
        return np.unique(np.concatenate(chosen))


class ScoreCounts:
    """Distinct scores and how many ghosts, true and unknown voxels have each.

    Exact as long as there are at most ``limit`` distinct ones; beyond, scores are cut to fewer bits of their float32
    mantissa, as few as needed (``bits_cut``), which keeps their order but for ties. Memory is bounded by ``limit``.
    """

    def __init__(self, limit: int = 1 << 21) -> None:
        self.limit, self.bits_cut = limit, 0
        self._score = np.zeros(0, np.float32)
        self._count = np.zeros((0, 3), np.int64)
        self._waiting: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]] = []
        self._n_waiting = 0

    def add(self, score: npt.NDArray[np.float32], kind: npt.NDArray[np.uint8]) -> None:
        """Take in the voxels of an image: score (n,), finite, and kind (n,): GHOST, TRUE or UNKNOWN."""
        self._waiting.append((score.astype(np.float32), kind))
        self._n_waiting += len(score)
        if self._n_waiting >= self.limit:
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        score = np.concatenate([self._score, *(s for s, _ in self._waiting)])
        kind = np.concatenate([k for _, k in self._waiting])
        count = np.concatenate([self._count, kind[:, None] == np.arange(3)])
        self._waiting, self._n_waiting = [], 0
        self._put(score, count)

    def _put(self, score: npt.NDArray[np.float32], count: npt.NDArray[np.int64]) -> None:
        self._score, self._count = _sum_equal(self._cut(score), count)
        while len(self._score) > self.limit:
            self.bits_cut += 1
            self._score, self._count = _sum_equal(self._cut(self._score), self._count)

    def merge(self, other: Self) -> None:
        """Add what another one took in."""
        self._merge()
        other._merge()
        self.bits_cut = max(self.bits_cut, other.bits_cut)
        self._put(np.concatenate([self._score, other._score]), np.concatenate([self._count, other._count]))

    def _cut(self, score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        mask = np.uint32(0xFFFFFFFF >> self.bits_cut << self.bits_cut)
        return (score.view(np.uint32) & mask).view(np.float32)

    @property
    def n(self) -> npt.NDArray[np.int64]:
        """(3,) ghosts, true and unknown voxels taken in."""
        self._merge()
        return np.asarray(self._count.sum(axis=0))

    def curve(self) -> Curve:
        """The purity–efficiency curve of ghosts and true voxels."""
        self._merge()
        known = self._count[:, [GHOST, TRUE]].any(axis=1)
        count = self._count[known][::-1].cumsum(axis=0)
        n_true = int(count[-1, TRUE]) if len(count) else 0
        threshold = self._score[known][::-1].astype(np.float64)
        return Curve(threshold, count[:, GHOST] + count[:, TRUE], count[:, TRUE], n_true)

    def kept(self, threshold: float) -> npt.NDArray[np.int64]:
        """(3,) ghosts, true and unknown voxels with score >= threshold."""
        self._merge()
        return np.asarray(self._count[np.searchsorted(self._score, np.float32(threshold)) :].sum(axis=0))

    def range(self) -> tuple[float, float]:
        """Lowest and highest score, (0, 1) without any."""
        self._merge()
        return (float(self._score[0]), float(self._score[-1])) if len(self._score) else (0.0, 1.0)

    def histogram(self, edges: Floats) -> npt.NDArray[np.int64]:
        """(bins, 3) ghosts, true and unknown voxels between ``edges``, the last bin closed on both sides."""
        self._merge()
        columns = [np.histogram(self._score, edges, weights=self._count[:, k])[0] for k in range(3)]
        return np.stack(columns, axis=1).astype(np.int64)


def _sum_equal(
    score: npt.NDArray[np.float32], count: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Distinct scores, ascending, and the sums of the counts of equal ones."""
    order = np.argsort(score)
    score, count = score[order], count[order]
    first = np.flatnonzero(np.diff(score, prepend=np.float32(-np.inf)) != 0) if len(score) else np.zeros(0, np.int64)
    return score[first], np.add.reduceat(count, first, axis=0) if len(first) else count[:0]
