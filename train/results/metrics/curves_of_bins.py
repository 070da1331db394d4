"""Purity, efficiency and average precision of a score from histograms of true voxels and ghosts.

Functions of tensors (..., bins), ascending in the score; leading axes (bootstrap replicas, strata) are kept.

- A cut at bin i keeps the bins from i on.
- purity = true and kept / kept, 0 where nothing is kept; also known as precision.
- efficiency = true and kept / true; also known as recall; NaN without true voxels.
- average precision = Σ over the bins from the highest down of (efficiency gained by the bin) × (purity of the cut at
  the bin), without interpolation: the definition of scikit-learn and torchmetrics, for a score that is rounded to its
  bin. NaN without true voxels.

Histograms of charge instead of voxels give the same weighted by charge.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from train.results.score_bins import SCORE, Bins


def kept(counts: Tensor) -> Tensor:
    """(..., bins) what a cut at each bin keeps of a histogram (..., bins)."""
    return counts.flip(-1).cumsum(-1).flip(-1)


def ratio(part: Tensor, whole: Tensor, empty: float = float("nan")) -> Tensor:
    """part / whole, ``empty`` where the whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, torch.ones_like(whole)), empty)


def purity(true: Tensor, ghost: Tensor) -> Tensor:
    """(..., bins) purity of a cut at each bin."""
    true = kept(true)
    return ratio(true, true + kept(ghost), 0.0)


def efficiency(true: Tensor, everything: Tensor | None = None) -> Tensor:
    """(..., bins) efficiency of a cut at each bin, relative to all of ``true``, or to ``everything`` (...)."""
    whole = true.sum(-1) if everything is None else everything
    return ratio(kept(true), whole[..., None].expand(true.shape))


def average_precision(true: Tensor, ghost: Tensor) -> Tensor:
    """(...) average precision."""
    return ratio((true * purity(true, ghost)).sum(-1), true.sum(-1))


def mixed_average_precision(true: Tensor, ghost: Tensor, tied: Tensor) -> Tensor:
    """(...) average precision of a continuous score of which only the histograms are known.

    In a bin of t true voxels and g ghosts, above which there are T and G, these are taken as evenly mixed, so that the
    purity goes from T / (T + G) to (T + t) / (T + G + t + g) on the way: its mean stands for that of the bin. Bins
    where ``tied`` (bins,) hold one value, and count as in `average_precision`.
    """
    above = kept(true) - true
    c, d = above + kept(ghost) - ghost, true + ghost
    some = (c > 0) & (d > 0)
    safe_c, safe_d = torch.where(some, c, 1.0), torch.where(some, d, 1.0)
    mixed = true / safe_d + (above - true * safe_c / safe_d) / safe_d * torch.log1p(safe_d / safe_c)
    mean = torch.where(tied | ~some, purity(true, ghost), mixed)
    return ratio((true * mean).sum(-1), true.sum(-1))


def best_cut(true: Tensor, ghost: Tensor) -> Tensor:
    """(...) int64: the bin at which the cut has the largest purity + efficiency, the highest among equals.

    Without true voxels that of the largest purity, which is 0 everywhere: the last one.
    """
    total = purity(true, ghost) + ratio(kept(true), true.sum(-1)[..., None].expand(true.shape), 0.0)
    return total.shape[-1] - 1 - total.flip(-1).argmax(-1)


class HistogramMetric(Metric):
    """Histograms of the scores of true voxels and ghosts in fixed bins; (bins,) float64 states that are summed.

    ``update(score, target, weight)``: (n,) scores, (n,) true where above 0, and what each voxel counts (charges), 1 by
    default.
    """

    full_state_update = False
    true: Tensor
    ghost: Tensor

    def __init__(self, bins: Bins = SCORE, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        self.add_state("true", torch.zeros(bins.n, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("ghost", torch.zeros(bins.n, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, score: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Take in voxels."""
        is_true = target.flatten() > 0
        edges = torch.from_numpy(self.bins.edges).to(score.device)
        at = torch.searchsorted(edges, score.detach().flatten().float().contiguous(), right=True)
        each = torch.ones_like(at, dtype=torch.float64) if weight is None else weight.flatten().double()
        self.true += torch.bincount(at[is_true], each[is_true], self.bins.n)
        self.ghost += torch.bincount(at[~is_true], each[~is_true], self.bins.n)


class PooledAveragePrecision(HistogramMetric):
    """Average precision of all voxels together; `average_precision`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """() float64, NaN without true voxels."""
        return average_precision(self.true, self.ghost)


class PurityEfficiencyCurve(HistogramMetric):
    """Purity and efficiency of cuts at all bins."""

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Thresholds, purity and efficiency, (bins,) float64 each, ascending in the threshold."""
        thresholds = torch.from_numpy(self.bins.thresholds)
        return thresholds, purity(self.true, self.ghost), efficiency(self.true)


class BestCut(HistogramMetric):
    """The cut with the largest purity + efficiency."""

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Threshold, purity and efficiency, () float64 each."""
        at = best_cut(self.true, self.ghost)
        thresholds = torch.from_numpy(self.bins.thresholds).to(at.device)
        return thresholds[at], purity(self.true, self.ghost)[at], efficiency(self.true)[at]


class EventAveragePrecision(Metric):
    """Mean over events of their average precision, exact in the score; every event weighs the same.

    ``update(score, target)`` takes in the voxels of one event, (n,) each; one without true voxels does not count.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    events: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("events", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, score: Tensor, target: Tensor) -> None:
        """Take in one event."""
        is_true = (target.flatten() > 0).double()
        if not is_true.any():
            return
        values, at = torch.unique(score.detach().flatten(), return_inverse=True)  # ascending
        true = torch.bincount(at, is_true, len(values))
        self.total += average_precision(true, torch.bincount(at, 1 - is_true, len(values)))
        self.events += 1

    def compute(self) -> Tensor:
        """() float64, NaN without events."""
        return ratio(self.total, self.events)
