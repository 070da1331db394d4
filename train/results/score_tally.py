"""Histogram of a score × class of voxel × stratum, added up over events with their bootstrap replicas."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from train.results.score_bins import Bins
from train.results.tallies import EventKey, EventWeights, Floats, Tally

# What is added up in each cell: voxels, their true charge, the mean charge of their planes, and their scores.
COUNT, TRUTH, CHARGE, SCORE = range(4)


class ScoreTally:
    """Of one score: cells (stratum, class, bin, quantity).

    Stratum 0 is everything. Further ones are the labels of each kind of ``strata``, one kind after the other; a voxel
    is in at most one of each kind.

    Args:
        bins: of the score. Memory is 8 · (1 + B) · strata · classes · bins · quantities bytes.
        n_classes: of voxels, see `train.results.voxel_classes.VoxelClasses`.
        weights: shared by all tallies that are to be compared.
        strata: kind -> labels.
        with_scores: also add up the scores, for the calibration.
    """

    def __init__(
        self,
        bins: Bins,
        n_classes: int,
        weights: EventWeights,
        strata: Mapping[str, Sequence[str]] | None = None,
        with_scores: bool = True,
    ) -> None:
        self.bins, self.n_classes = bins, n_classes
        self.strata = {kind: list(labels) for kind, labels in (strata or {}).items()}
        self.labels = [("", "all"), *((kind, label) for kind, labels in self.strata.items() for label in labels)]
        self.tally = Tally((len(self.labels), n_classes, bins.n, 4 if with_scores else 3), weights)

    def cells(
        self,
        score: npt.NDArray[np.float32],
        kind: npt.NDArray[np.int64],
        truth: npt.NDArray[Any] | None,
        charge: npt.NDArray[Any],
        codes: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Floats:
        """(strata, classes, bins, quantities) of the voxels of an image.

        Args:
            score: (n,).
            kind: (n,) class of each voxel.
            truth: (n,) true charge, NaN counts as 0; None where nothing is known.
            charge: (n,) mean charge of the live planes; below 0 counts as 0.
            codes: kind of stratum -> (n,) number of the label, -1 for voxels in none.

        Raises:
            ConfigError: kinds of strata that this tally was not made for.
        """
        if set(codes or {}) != set(self.strata):
            raise ConfigError(
                f"strata {sorted(codes or {})}, the tally has {sorted(self.strata)}. Fix: codes of these kinds"
            )
        cell = kind * self.bins.n + self.bins.index(score)
        known = np.zeros(len(score)) if truth is None else np.nan_to_num(truth.astype(np.float64))
        n_quantities = self.tally.shape[-1]
        all_weights = (None, known, np.maximum(charge.astype(np.float64), 0.0), score.astype(np.float64))
        weights = all_weights[:n_quantities]
        found = np.empty((len(self.labels), self.n_classes * self.bins.n, n_quantities))
        size = found.shape[1]
        for quantity, weight in enumerate(weights):
            found[0, :, quantity] = np.bincount(cell, weight, size)
        first = 1
        for name, labels in self.strata.items():
            code = (codes or {})[name].astype(np.int64)
            some = code >= 0
            at, n = code[some] * size + cell[some], len(labels) * size
            for quantity, weight in enumerate(weights):
                counts = np.bincount(at, None if weight is None else weight[some], n)
                found[first : first + len(labels), :, quantity] = counts.reshape(len(labels), size)
            first += len(labels)
        return found.reshape(self.tally.shape)

    def add(self, key: EventKey, cells: Floats) -> None:
        """Take in ``cells`` of (a part of) the event ``key`` = (file, event)."""
        self.tally.add(key, cells)

    def add_event(
        self,
        key: EventKey,
        score: npt.NDArray[np.float32],
        kind: npt.NDArray[np.int64],
        truth: npt.NDArray[Any] | None,
        charge: npt.NDArray[Any],
        codes: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """`cells` and `add` in one."""
        self.add(key, self.cells(score, kind, truth, charge, codes))

    @property
    def sums(self) -> Floats:
        """(1 + B, strata, classes, bins, quantities): the sums, then those of the replicas."""
        return self.tally.sums

    def merge(self, other: Self) -> None:
        """Add what another tally took in; ConfigError where its bins, strata, seed or replicas differ."""
        if (self.bins.name, self.labels) != (other.bins.name, other.labels):
            raise ConfigError(
                f"tallies of bins {self.bins.name!r} and {other.bins.name!r}, or other strata. Fix: the same for both"
            )
        self.tally.merge(other.tally)
