"""Inverse calibration of a charge: an estimate without median bias at each true charge, at the price of resolution.

A network that minimises the absolute error gives, for what it sees, the median of the charges that look so. With finite
resolution that draws estimates to the middle: voxels with little charge are taken for more, those with much for less.
With m(t) = the median estimate of voxels whose true charge is t, an estimate e is replaced by m⁻¹(e): medians follow
monotone functions, so the median at each t is t then. What m does not tell apart (where it is level) it cannot mend.

Source: "numerical inversion", as jets are calibrated (ATLAS, Eur. Phys. J. C 75 (2015) 17, section 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from larstore.errors import StoreError

BINS = 100  # of the true charge, with equally many voxels in each
FEWEST = 20  # voxels in a bin, for a median that means something
FIT_VOXELS = 20_000_000  # that are fitted with, at most: some 700 MB
SEED = 20  # of the choice among more

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """m⁻¹ as knots, linear between them, with the ratio of the outermost knots beyond.

    Attributes:
        estimate: (k,) ascending, > 0.
        charge: (k,) ascending, the true charge of voxels with this median estimate.
    """

    estimate: Floats
    charge: Floats

    def __call__(self, estimate: npt.NDArray[Any]) -> Floats:
        """Estimates (n,), calibrated; what is not above 0 becomes 0."""
        positive = np.maximum(estimate.astype(np.float64), 0.0)
        found = np.interp(positive, self.estimate, self.charge)
        low, high = positive < self.estimate[0], positive > self.estimate[-1]
        found[low] = positive[low] * (self.charge[0] / self.estimate[0])
        found[high] = positive[high] * (self.charge[-1] / self.estimate[-1])
        return found


def fit_calibration(estimate: npt.NDArray[Any], truth: npt.NDArray[Any], name: str, bins: int = BINS) -> Calibration:
    """The calibration of voxels with estimates (n,) and true charges (n,) > 0, in the same unit.

    m is the median estimate in each of at most ``bins`` bins of the true charge, made monotone by isotonic regression;
    bins that it makes equal are one knot at their mean charge.

    Raises:
        StoreError: names ``name``; fewer than two bins of 20 voxels, or estimates that do not grow with the charge.
    """
    bins = min(bins, len(truth) // FEWEST)
    if bins < 2:
        raise StoreError(
            f"{name}: {len(truth)} voxels with truth are too few to calibrate a charge. Fix: at least {2 * FEWEST}, "
            "more files in --fit-files"
        )
    parts = np.array_split(np.argsort(truth, kind="stable"), bins)
    median = np.array([np.median(estimate[part]) for part in parts], np.float64)
    charge = np.array([np.median(truth[part]) for part in parts], np.float64)
    levels, group = np.unique(isotonic_regression(median).x, return_inverse=True)
    knots = np.bincount(group, charge) / np.bincount(group)
    good = levels > 0
    if good.sum() < 2:
        raise StoreError(f"{name}: its estimates do not grow with the true charge. Fix: another prediction, of charges")
    return Calibration(levels[good], knots[good])


class FitVoxels:
    """Estimates and true charges to fit with: all that are added, or of more than ``most`` a random share.

    Each voxel draws a number from [0, 1), seeded by its image's key, and is kept if that is below ``share``, which is
    halved as often as needed. So all images have the same share, and neither their order nor chance decides who stays.
    """

    def __init__(self, most: int = FIT_VOXELS) -> None:
        self.most, self.share, self.kept = most, 1.0, 0
        self._parts: list[npt.NDArray[np.float32]] = []

    def add(self, key: Sequence[int], estimate: npt.NDArray[Any], charge: npt.NDArray[Any]) -> None:
        """Take in the voxels (n,) of the image ``key``, both in the same unit."""
        drawn = np.random.default_rng([SEED, *key]).random(len(charge), np.float32)
        part = np.stack([drawn, estimate, charge]).astype(np.float32, copy=False)
        self._parts.append(self._shared(part))
        self.kept += self._parts[-1].shape[1]
        while self.kept > self.most:
            self.share /= 2
            self._parts = [self._shared(part) for part in self._parts]
            self.kept = sum(part.shape[1] for part in self._parts)

    def _shared(self, part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return part if self.share == 1 else part[:, part[0] < self.share]

    def fit(self, name: str) -> Calibration:
        """`fit_calibration` of what is kept."""
        none = np.empty((3, 0), np.float32)
        _, estimate, charge = np.concatenate([none, *self._parts], axis=1)
        return fit_calibration(estimate, charge, name)
