"""What is added up of one method (a prediction or a baseline): its scores by class of voxel, and its events."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from train.results.event_precision import EventScores
from train.results.metrics.curves_of_bins import mixed_average_precision
from train.results.score_bins import Bins
from train.results.score_tally import COUNT, ScoreTally
from train.results.sp_area import THRESHOLDS, event_curve
from train.results.tallies import EventKey, EventWeights, Floats, Tally
from train.results.voxel_classes import VoxelClasses
from train.results.voxels import Voxels

HALO = ("ghosts", "left out")  # what halo voxels count as


def true_and_ghosts(cells: Floats, classes: VoxelClasses, level: int, halo: int) -> tuple[Floats, Floats]:
    """Cells (..., classes, bins, quantities) of true voxels and of ghosts, (..., bins, quantities) each.

    Args:
        level: number of a level of ``classes``.
        halo: number in ``HALO``: halo voxels are ghosts, or left out.
    """
    wanted = _chosen(classes, level, halo)
    *leading, n_classes, n_bins, n_quantities = cells.shape
    true, ghosts = np.moveaxis(wanted @ cells.reshape(-1, n_classes, n_bins * n_quantities), 1, 0)
    shape = (*leading, n_bins, n_quantities)
    return true.reshape(shape), ghosts.reshape(shape)


def _chosen(classes: VoxelClasses, level: int, halo: int) -> Floats:
    """(2, classes) 1 for the classes of true voxels, and for those of ghosts, else 0."""
    ghost = classes.ghost(level) | classes.halo(level) if halo == 0 else classes.ghost(level)
    return np.stack([classes.true(level), ghost]).astype(np.float64)


class MethodTally:
    """Sums of one method over events; the parts of an event (its TPCs) must follow on each other.

    Args:
        bins: of its score.
        unit: score -> the same from 0 to 1, for ``sp_area``; None where that has no meaning.

    Attributes:
        score: `ScoreTally` of all voxels.
        events: per event and (level, halo): its average precision, and 1; 0 and 0 without true voxels. Exact of events
            of up to `train.results.event_precision.MOST_VOXELS` voxels, of larger ones from the bins.
        areas: per image with truth: efficiency and purity at the thresholds of `train.results.sp_area`, and 1.
        strata: `ScoreTally` of the strata, in fewer bins; None without.
    """

    def __init__(
        self,
        bins: Bins,
        classes: VoxelClasses,
        weights: EventWeights,
        unit: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None,
        strata: ScoreTally | None = None,
    ) -> None:
        self.classes, self.unit, self.strata = classes, unit, strata
        self.score = ScoreTally(bins, classes.n, weights)
        self.events = Tally((len(classes.levels), len(HALO), 2), weights)
        self.areas = Tally((2 * len(THRESHOLDS) + 1,), weights)
        self._event: Floats | None = None
        self._scores = EventScores()
        self._tied = torch.from_numpy(bins.tied)
        # Classes of true voxels and of ghosts, for each (level, halo).
        chosen = [[_chosen(classes, level, halo) for halo in range(len(HALO))] for level in range(len(classes.levels))]
        self._chosen = np.moveaxis(np.array(chosen), 2, 0)

    def add(
        self,
        key: EventKey,
        score: npt.NDArray[np.float32],
        kind: npt.NDArray[np.int64],
        voxels: Voxels,
        charge: npt.NDArray[np.float64],
        codes: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Take in an image: score, class and mean plane charge (n,) of its voxels, and codes of strata."""
        cells = self.score.cells(score, kind, voxels.truth, charge)
        self._event = cells if self._event is None else self._event + cells
        self._scores.add(score, kind)
        if self.unit is not None and voxels.truth is not None:
            curves = event_curve(self.unit(score), voxels.truth, self.classes.levels[-1].least)
            self.areas.add(key, np.concatenate([*curves, [1.0]]))
        if self.strata is not None:
            self.strata.add_event(key, score, kind, voxels.truth, charge, codes)

    def end_event(self, key: EventKey) -> None:
        """All images of the event ``key`` have been taken in."""
        if self._event is None:
            return
        precision = self._scores.take(self._chosen)
        if precision is None:
            true, ghost = torch.from_numpy(self._chosen @ self._event[0, ..., COUNT])
            precision = mixed_average_precision(true, ghost, self._tied).numpy()
        some = np.isfinite(precision)
        self.score.add(key, self._event)
        self.events.add(key, np.stack([np.where(some, precision, 0.0), some], axis=-1))
        self._event = None

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        self.score.merge(other.score)
        self.events.merge(other.events)
        self.areas.merge(other.areas)
        if self.strata is not None and other.strata is not None:
            self.strata.merge(other.strata)
