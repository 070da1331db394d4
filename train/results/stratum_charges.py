"""What is added up of a charge in strata: ratios to the true charge, of true voxels and of events, and totals."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from train.results.charge_tally import OF_EVENTS, EventRatios
from train.results.metrics.charge import FEW_EDGES, N_FEW_BINS, ratio_bins
from train.results.tallies import EventKey, EventWeights, Floats, Tally
from train.results.voxel_classes import Level

# Σ kept charge, Σ |kept - true charge| over tiled voxels, Σ true charge of these, Σ all true charge.
N_TOTALS = 4
Codes = Mapping[str, npt.NDArray[Any]]


class StratumCharges:
    """Sums of one charge over events, of the strata of each kind, one kind after the other.

    Ratios are in the bins ``FEW_EDGES``: what is not above 0, of voxels that were given no charge, is in the first one.

    Args:
        levels: of the truth.
        weights: shared by all tallies that are to be compared.
        strata: kind -> labels. Memory is 8 · (1 + B) · strata · (levels + 2) · 173 bytes.

    Attributes:
        labels: (kind, label) of each stratum.
        ratios: (stratum, level, bin of the ratio): true and tiled voxels.
        events: (stratum, of events, bin of the ratio): events, of which what lies in the stratum is added up.
        totals: (stratum, `N_TOTALS`).
    """

    def __init__(self, levels: tuple[Level, ...], weights: EventWeights, strata: Mapping[str, Sequence[str]]) -> None:
        self.levels = levels
        self.labels = [(kind, label) for kind, labels in strata.items() for label in labels]
        self._sizes = {kind: len(labels) for kind, labels in strata.items()}
        self.ratios = Tally((len(self.labels), len(levels), N_FEW_BINS), weights)
        self.events = EventRatios((len(self.labels), len(OF_EVENTS)), weights, FEW_EDGES)
        self.totals = Tally((len(self.labels), N_TOTALS), weights)

    def add(
        self,
        key: EventKey,
        estimate: npt.NDArray[np.float64],
        held: npt.NDArray[np.float64],
        truth: npt.NDArray[np.float32],
        reference: npt.NDArray[np.float64],
        codes: Codes,
        whole: npt.NDArray[np.float32] | None,
        true_codes: Codes,
    ) -> None:
        """Take in an image.

        Args:
            estimate, held, truth, reference: (n,) each, as in `train.results.charge_tally.ChargeTally.add`.
            codes: kind -> (n,) strata of the voxels, -1 for none.
            whole: (m,) true charge of all truth voxels; None where not known.
            true_codes: kind -> (m,) their strata.
        """
        known = np.isfinite(truth)
        held, compared = held[known], reference[known]
        weights = (held, np.abs(held - compared), compared)
        some = known & (reference > 0)
        at = ratio_bins(torch.from_numpy(estimate[some]), torch.from_numpy(reference[some]), FEW_EDGES).numpy()
        # How many levels each voxel reaches: at level i it is true where that is above i.
        reached = (truth[some][:, None] >= np.array([level.least for level in self.levels], np.float32)).sum(axis=1)
        n_levels, is_true = len(self.levels), reached > 0
        of_true = (estimate[some][is_true], reference[some][is_true])
        cell, size = reached * N_FEW_BINS + at, (n_levels + 1) * N_FEW_BINS
        ratios, totals = np.zeros(self.ratios.shape), np.zeros(self.totals.shape)
        first = 0
        for kind, n in self._sizes.items():
            rows = slice(first, first + n)
            code = codes[kind].astype(np.int64)
            of_ratio, of_known = code[some], code[known]
            there = of_ratio[is_true]
            for number, weight in enumerate(of_true):
                self.events.part[rows, 1, number] += _sums(there, there >= 0, weight, n)
            counts = _sums(of_ratio * size + cell, of_ratio >= 0, None, n * size).reshape(n, n_levels + 1, N_FEW_BINS)
            ratios[rows] = np.cumsum(counts[:, :0:-1], axis=1)[:, ::-1]
            for number, weight in enumerate(weights):
                totals[rows, number] = _sums(of_known, of_known >= 0, weight, n)
            if whole is None:
                totals[rows, 3] = np.nan
            else:
                true = true_codes[kind].astype(np.int64)
                totals[rows, 3] = _sums(true, true >= 0, whole, n)
            first += n
        self.ratios.add(key, ratios)
        self.totals.add(key, totals)
        self.events.part[:, 0] += totals[:, [0, 3]]

    def end_event(self, key: EventKey) -> None:
        """All images of the event ``key`` have been taken in."""
        self.events.end_event(key)

    @property
    def sums(self) -> tuple[Floats, Floats, Floats]:
        """(1 + B, strata, …) of ratios, events and totals each: the sums, then those of the replicas."""
        return self.ratios.sums, self.events.sums, self.totals.sums

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        self.ratios.merge(other.ratios)
        self.events.merge(other.events)
        self.totals.merge(other.totals)


def _sums(
    at: npt.NDArray[np.int64], some: npt.NDArray[np.bool_], weight: npt.NDArray[Any] | None, n: int
) -> npt.NDArray[Any]:
    """(n,) how many of ``some`` are at each place, or the sum of their weights."""
    return np.bincount(at[some], None if weight is None else weight[some].astype(np.float64), n)
