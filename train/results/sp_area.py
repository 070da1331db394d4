"""`sp_area`: the figure that the 2021 research code gives for deghosting, the area under a curve averaged over events.

Its definition, by which ours can be compared with its 0.945 and 0.831:

- 50 thresholds t = 0, 0.02 … 0.98. A voxel is kept where score > t, so that a score of exactly 0 is never kept.
- A voxel is true where its truth reaches ``truth_threshold``, here 5,000 electrons (0.17 MeV then); all others count as
  ghosts, those with a little truth too. Voxels without known truth take no part.
- In each event and at each t, efficiency = true kept / true and tiled, purity = true kept / kept. Where nothing is kept
  the purity is 1; an event without true voxels has efficiency 1.
- Both are averaged over the events at each t, every event with the same weight.
- Area = Σ_k (e_k − e_{k+1}) · p_k over ascending t with e_50 = 0: a staircase under the mean curve, each step at the
  purity of its lower threshold; what lies beyond the last threshold has the purity that is reached there.

It is not the area under one curve of all voxels (`Curve.average_precision`, pooled): small events weigh as much as
large ones, and a score that is right in order but saturates at 0 or 1 loses the part of the curve it cannot resolve.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

THRESHOLDS: Floats = 0.02 * np.arange(50, dtype=np.float64)
TRUE_ELECTRONS = 5000.0


@dataclass
class SpCurve:
    """The mean efficiency–purity curve of the events given to ``add``.

    Attributes:
        truth_threshold: a voxel is true from here on, in the unit of the truth.
        efficiencies, purities: (50,) of each event.
    """

    truth_threshold: float = TRUE_ELECTRONS
    efficiencies: list[Floats] = field(default_factory=list)
    purities: list[Floats] = field(default_factory=list)

    def add(self, score: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> float:
        """Take in the voxels of an event, score (n,) and truth (n,); returns the area of the event alone."""
        efficiency, purity = event_curve(score, truth, self.truth_threshold)
        self.efficiencies.append(efficiency)
        self.purities.append(purity)
        return area(efficiency, purity)

    @property
    def efficiency(self) -> Floats:
        """(50,) mean over the events."""
        return np.asarray(np.mean(self.efficiencies, axis=0))

    @property
    def purity(self) -> Floats:
        """(50,) mean over the events."""
        return np.asarray(np.mean(self.purities, axis=0))

    @property
    def area(self) -> float:
        """The figure; NaN without events."""
        return area(self.efficiency, self.purity) if self.efficiencies else float("nan")


def event_curve(
    score: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], truth_threshold: float = TRUE_ELECTRONS
) -> tuple[Floats, Floats]:
    """Efficiency and purity (50,) of the voxels of one event, score (n,) and truth (n,)."""
    known = np.isfinite(truth)
    score, true = score[known], truth[known] >= truth_threshold
    kept, true_kept = _above(score), _above(score[true])
    n_true = int(true.sum())
    efficiency = true_kept / n_true if n_true else np.ones(len(THRESHOLDS))
    return efficiency, np.divide(true_kept, kept, out=np.ones(len(THRESHOLDS)), where=kept > 0)


def area(efficiency: Floats, purity: Floats) -> float:
    """The staircase under a curve of (k,) points by ascending threshold, closed at efficiency 0."""
    return float(areas(efficiency, purity))


def areas(efficiency: Floats, purity: Floats) -> Floats:
    """`area` of many curves (..., k)."""
    after = np.concatenate([efficiency[..., 1:], np.zeros_like(efficiency[..., :1])], axis=-1)
    return np.asarray(((efficiency - after) * purity).sum(-1))


def _above(score: npt.NDArray[np.float32]) -> Floats:
    """(50,) how many scores lie above each threshold."""
    return np.asarray(len(score) - np.searchsorted(np.sort(score.astype(np.float64)), THRESHOLDS, side="right"), float)
