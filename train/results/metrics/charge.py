"""Bias and resolution of charges, from histograms of the ratio estimate / reference.

- bias = median of the ratio - 1;
- half width = half the distance of the ratio's 16 % and 84 % quantiles (its standard deviation, were it Gaussian);
- resolution = half width / median, as an estimate that is far too small would else look sharp; NaN where the median is
  not above 0.

Quantiles are interpolated within bins of 0.005 from 0 to 3 and 20 a decade from there to 100; a quantile below 0 or
above 100 is given as 0 or 100. Where there are many histograms (strata), the bins are ``FEW_EDGES``: 0.01 from 0.5 to
1.5, 0.02 below, 0.05 up to 3 and 10 a decade from there; ratios that are not above 0 are in the first of them alone.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from train.results.metrics.curves_of_bins import ratio

_LINEAR = [0.005 * k for k in range(600)]
_DECADES = [3.0 * 10 ** (k / 20) for k in range(31)]
RATIO_EDGES = torch.tensor([*_LINEAR, *_DECADES, 100.0], dtype=torch.float64)
N_RATIO_BINS = len(RATIO_EDGES) + 1
_FEW = [*(0.02 * k for k in range(1, 25)), *(0.5 + 0.01 * k for k in range(100)), *(1.5 + 0.05 * k for k in range(30))]
_FEW_DECADES = [3.0 * 10 ** (k / 10) for k in range(16)]
FEW_EDGES = torch.tensor([torch.finfo(torch.float64).tiny, *_FEW, *_FEW_DECADES, 100.0], dtype=torch.float64)
N_FEW_BINS = len(FEW_EDGES) + 1
LOW, MIDDLE, HIGH = 0.16, 0.5, 0.84


def ratio_bins(estimate: Tensor, reference: Tensor, edges: Tensor = RATIO_EDGES) -> Tensor:
    """(n,) int64: the bin of estimate / reference; both (n,), the reference above 0."""
    found = (estimate.double() / reference.double()).contiguous()
    return torch.searchsorted(edges.to(found.device), found, right=True)


def quantile(counts: Tensor, q: float, edges: Tensor = RATIO_EDGES) -> Tensor:
    """(...) quantile of the ratio from a histogram (..., bins); NaN where it is empty."""
    total = counts.sum(-1, keepdim=True)
    below = counts.cumsum(-1)
    at = (below < q * total).sum(-1, keepdim=True).clamp(max=counts.shape[-1] - 1)
    inside = counts.gather(-1, at)
    part = ratio(q * total - (below.gather(-1, at) - inside), inside, 0.0)
    edges = edges.to(counts.device, counts.dtype)
    low = torch.cat([edges[:1], edges])[at]
    high = torch.cat([edges, edges[-1:]])[at]
    return torch.where(total > 0, low + part * (high - low), float("nan"))[..., 0]


def spread(counts: Tensor, edges: Tensor = RATIO_EDGES) -> tuple[Tensor, Tensor, Tensor]:
    """(...) bias (median of the ratio - 1), half width, and resolution (half width / median)."""
    low, middle, high = (quantile(counts, q, edges) for q in (LOW, MIDDLE, HIGH))
    half = (high - low) / 2
    return middle - 1, half, ratio(half, middle)


class ChargeMetric(Metric):
    """Histogram of the ratio estimate / reference: a (bins,) float64 state that is summed.

    ``update(estimate, reference)``: (n,) each, in one unit; voxels (or events) whose reference is not above ``least``
    do not count.

    Args:
        least: of the reference.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, least: float = 0.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.least = least
        self.add_state("counts", torch.zeros(N_RATIO_BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, estimate: Tensor, reference: Tensor) -> None:
        """Take in voxels, or the sums of events."""
        estimate, reference = estimate.detach().flatten(), reference.flatten()
        some = reference > max(self.least, 0.0)
        at = ratio_bins(estimate[some], reference[some])
        self.counts += torch.bincount(at, minlength=N_RATIO_BINS).double()


class ChargeBias(ChargeMetric):
    """Median of estimate / reference, less 1; NaN where nothing counts."""

    def compute(self) -> Tensor:
        """() float64."""
        return spread(self.counts)[0]


class ChargeHalfWidth(ChargeMetric):
    """Half the central 68 % of estimate / reference; NaN where nothing counts."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """() float64."""
        return spread(self.counts)[1]


class ChargeResolution(ChargeMetric):
    """Half the central 68 % of estimate / reference over its median; NaN where that is not above 0."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """() float64."""
        return spread(self.counts)[2]
