"""Is a score a probability: reliability curve and expected calibration error.

The scores are sorted into bins of equal width from 0 to 1. In a bin with n of N voxels, mean score s and a fraction f
of true voxels, the reliability curve has the point (s, f); the expected calibration error is Σ n / N · |s - f| (that
of torchmetrics' BinaryCalibrationError with the norm l1, but for bins that are closed below).
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from larstore.errors import ConfigError
from train.results.metrics.curves_of_bins import ratio

N_BINS = 20


def reliability(count: Tensor, score: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Mean score and fraction of true voxels (..., bins) from sums of voxels, scores and true voxels; NaN if empty."""
    return ratio(score, count), ratio(true, count)


def expected_error(count: Tensor, score: Tensor, true: Tensor) -> Tensor:
    """(...) expected calibration error from sums (..., bins); NaN without voxels."""
    return ratio((score - true).abs().sum(-1), count.sum(-1))


class CalibrationError(Metric):
    """Expected calibration error of scores from 0 to 1; (bins,) float64 states that are summed.

    ``update(score, target)``: (n,) scores and (n,) true where above 0. Scores outside 0 … 1 are counted in the
    outermost bins. ``curve()`` gives the reliability curve.

    Args:
        n_bins: of equal width; at least 1.

    Raises:
        ConfigError: no bin.
    """

    full_state_update = False
    higher_is_better = False
    count: Tensor
    score: Tensor
    true: Tensor

    def __init__(self, n_bins: int = N_BINS, **kwargs: object) -> None:
        super().__init__(**kwargs)
        if n_bins < 1:
            raise ConfigError(f"n_bins = {n_bins}. Fix: 1 or more")
        self.n_bins = n_bins
        for name in ("count", "score", "true"):
            self.add_state(name, torch.zeros(n_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, score: Tensor, target: Tensor) -> None:
        """Take in voxels."""
        score = score.detach().flatten().double()
        at = (score * self.n_bins).long().clamp(0, self.n_bins - 1)
        self.count += torch.bincount(at, minlength=self.n_bins).double()
        self.score += torch.bincount(at, score, self.n_bins)
        self.true += torch.bincount(at, (target.flatten() > 0).double(), self.n_bins)

    def compute(self) -> Tensor:
        """() float64."""
        return expected_error(self.count, self.score, self.true)

    def curve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean score, fraction of true voxels and voxels of each bin, (bins,) float64."""
        return *reliability(self.count, self.score, self.true), self.count
