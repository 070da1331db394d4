"""Cuts that need no network, which a score has to beat: each gives every voxel a score, higher = likely charge."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Baseline:
    """A score made of an image's charges alone: ``score(charge (n, planes), live (n,)) -> (n,) float32``."""

    name: str
    label: str
    definition: str
    score: Callable[[npt.NDArray[np.float32], npt.NDArray[np.uint8]], Scores]


def no_cut(charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]) -> Scores:
    """The same score for all voxels: its average precision is the purity after tiling."""
    return np.zeros(len(charge), np.float32)


def live_planes(charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(n, planes) whether a plane's charge comes from real wires only."""
    return (live[:, None] >> np.arange(charge.shape[1], dtype=np.uint8) & 1).astype(bool)


def mean_of_planes(charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(n,) mean of the live planes' charges, 0 where none is live."""
    is_live = live_planes(charge, live)
    total = np.where(is_live, charge.astype(np.float64), 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(is_live.sum(axis=1), 1))


def live_extremes(
    charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Smallest and largest charge of a voxel's live planes (below 0 taken as 0), and how many are live; (n,) each.

    A voxel without any live plane counts as one whose planes all hold nothing.
    """
    is_live = live_planes(charge, live)
    positive = np.maximum(charge.astype(np.float64), 0.0)
    low = np.where(is_live, positive, np.inf).min(axis=1)
    high = np.where(is_live, positive, 0.0).max(axis=1)
    return np.where(np.isfinite(low), low, 0.0), high, is_live.sum(axis=1)


def plane_agreement(charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]) -> Scores:
    """Minus the spread (max - min) / (max + min) of the live planes' charges: 0 where they agree, -1 at worst.

    Planes for which a bad channel or a part without wires stood in are left out; where fewer than two are live
    nothing can agree, and the spread counts as 1.
    """
    low, high, n_live = live_extremes(charge, live)
    total = low + high
    spread = np.divide(high - low, total, out=np.ones_like(total), where=(total > 0) & (n_live > 1))
    return (-spread).astype(np.float32)


def smallest_charge(charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8]) -> Scores:
    """The smallest charge of the live planes, electrons: large only where all planes see a large charge."""
    return live_extremes(charge, live)[0].astype(np.float32)


BASELINES = (
    Baseline("no_cut", "no cut", "all tiled voxels are kept: AP = purity after tiling", no_cut),
    Baseline(
        "plane_agreement",
        "planes agree",
        "-(max - min) / (max + min) of the charges of a voxel's live planes, charges below 0 taken as 0",
        plane_agreement,
    ),
    Baseline(
        "smallest_charge",
        "smallest plane charge",
        "the smallest of the charges of a voxel's live planes, in electrons",
        smallest_charge,
    ),
)
