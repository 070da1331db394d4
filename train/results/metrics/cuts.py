"""Purity, efficiency and intersection over union of one cut: a voxel is kept where score >= threshold.

With weights (charges) of voxels all are weighted by charge. Efficiency has two denominators: the true voxels that were
tiled, and all true voxels, of which the tiling has lost some; the lost ones are given as ``missed``, their number or
their charge.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from larstore.errors import ConfigError
from train.results.metrics.curves_of_bins import ratio

DENOMINATORS = ("tiled", "all")


class CutMetric(Metric):
    """True and kept, ghosts and kept, true and not kept, true and not tiled: () float64 states that are summed.

    ``update(score, target, weight, missed)``: (n,) scores, (n,) true where above 0, what each voxel counts (1 by
    default), and what the true voxels count that were not tiled.

    Args:
        threshold: a voxel is kept from here on.
    """

    full_state_update = False
    higher_is_better = True
    true_kept: Tensor
    ghost_kept: Tensor
    true_lost: Tensor
    not_tiled: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for name in ("true_kept", "ghost_kept", "true_lost", "not_tiled"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, score: Tensor, target: Tensor, weight: Tensor | None = None, missed: float | Tensor = 0.0) -> None:
        """Take in voxels."""
        keeps, true = score.detach().flatten() >= self.threshold, target.flatten() > 0
        each = torch.ones_like(keeps, dtype=torch.float64) if weight is None else weight.flatten().double()
        self.true_kept += each[keeps & true].sum()
        self.ghost_kept += each[keeps & ~true].sum()
        self.true_lost += each[~keeps & true].sum()
        self.not_tiled += missed


class Purity(CutMetric):
    """True and kept / kept; NaN where nothing is kept."""

    def compute(self) -> Tensor:
        """() float64."""
        return ratio(self.true_kept, self.true_kept + self.ghost_kept)


class Efficiency(CutMetric):
    """True and kept / true.

    Args:
        threshold: a voxel is kept from here on.
        denominator: ``tiled``, or ``all`` true voxels (`update`'s ``missed`` are then among them).

    Raises:
        ConfigError: another denominator.
    """

    def __init__(self, threshold: float = 0.5, denominator: str = "tiled", **kwargs: object) -> None:
        super().__init__(threshold, **kwargs)
        if denominator not in DENOMINATORS:
            raise ConfigError(f"denominator {denominator!r}. Fix: one of {', '.join(DENOMINATORS)}")
        self.denominator = denominator

    def compute(self) -> Tensor:
        """() float64, NaN without true voxels."""
        whole = self.true_kept + self.true_lost
        return ratio(self.true_kept, whole + self.not_tiled if self.denominator == "all" else whole)


class IntersectionOverUnion(CutMetric):
    """True and kept / (true or kept), of tiled voxels; NaN where no voxel is either."""

    def compute(self) -> Tensor:
        """() float64."""
        return ratio(self.true_kept, self.true_kept + self.ghost_kept + self.true_lost)
