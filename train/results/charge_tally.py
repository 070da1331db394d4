"""What is added up of a charge: ratios to the true charge, per voxel, per event and against the true charge."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from train.results.charge_units import ELECTRONS, electron_in
from train.results.metrics.charge import N_RATIO_BINS, RATIO_EDGES, ratio_bins
from train.results.tallies import EventKey, EventWeights, Floats, Tally
from train.results.voxel_classes import Level

# Bins of the true charge of a voxel, electrons: below the first edge, …, from the last one up.
CHARGE_EDGES = np.array([1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5])
DECADES = 10.0 ** np.arange(-6, 10)  # in units of which nobody knows how many electrons they are
POPULATIONS = ("true", "true, with charge")  # all true and tiled voxels; those to which a charge was given
OF_EVENTS = ("all", "true")  # Σ kept / Σ all true charge; Σ over true and tiled voxels of both


def charge_edges(unit: str) -> Floats:
    """(k,) edges of the bins of a voxel's true charge, in this unit."""
    electron = electron_in(unit)
    return np.asarray(DECADES if electron is None else CHARGE_EDGES * electron)


class EventRatios(Tally):
    """Ratios of charges of whole events, (…, bin of the ratio): of each the parts are added up, then it counts once.

    Args:
        shape: of what is compared.
        edges: of the bins.

    Attributes:
        part: (*shape, 2) estimate and reference of the event at hand so far.
    """

    def __init__(self, shape: tuple[int, ...], weights: EventWeights, edges: torch.Tensor = RATIO_EDGES) -> None:
        super().__init__((*shape, len(edges) + 1), weights)
        self.part, self._edges = np.zeros((*shape, 2)), edges

    def end_event(self, key: EventKey) -> None:
        """All of the event ``key`` was added to ``part``; where its reference is not above 0 it does not count."""
        found: Floats = np.zeros(self.shape)
        some = np.nonzero(self.part[..., 1] > 0)
        estimate, reference = torch.from_numpy(self.part[some]).T
        found[*some, ratio_bins(estimate, reference, self._edges).numpy()] = 1.0
        self.add(key, found)
        self.part[:] = 0.0


class ChargeTally:
    """Sums of one charge over events; the parts of an event (its TPCs) must follow on each other.

    Args:
        levels: of the truth.
        weights: shared by all tallies that are to be compared.
        unit: of the true charge.

    Attributes:
        edges: of the bins of the true charge.
        ratios: (level, population, bin of the true charge, bin of the ratio): voxels.
        events: (of events, bin of the ratio): events.
        totals: Σ kept charge, Σ |kept - true charge| over tiled voxels, Σ true charge of these, Σ all true charge.
    """

    def __init__(self, levels: tuple[Level, ...], weights: EventWeights, unit: str = ELECTRONS) -> None:
        self.levels, self.edges = levels, charge_edges(unit)
        shape = (len(levels), len(POPULATIONS), len(self.edges) + 1, N_RATIO_BINS)
        self.ratios, self.events = Tally(shape, weights), EventRatios((len(OF_EVENTS),), weights)
        self.totals = Tally((4,), weights)

    def add(
        self,
        key: EventKey,
        estimate: npt.NDArray[np.float64],
        held: npt.NDArray[np.float64],
        truth: npt.NDArray[np.float32],
        reference: npt.NDArray[np.float64],
        everything: float,
    ) -> None:
        """Take in an image.

        Args:
            estimate: (n,) charge of each voxel, in the truth's unit.
            held: (n,) the part of it that is kept; not taken for the ratios of true voxels.
            truth: (n,) by which a voxel is true; NaN where not known.
            reference: (n,) true charge that the estimate is compared with.
            everything: that of all truth voxels of the image; NaN where not known.
        """
        known = np.isfinite(truth)
        some = known & (reference > 0)
        ratios = ratio_bins(torch.from_numpy(estimate[some]), torch.from_numpy(reference[some])).numpy()
        charges = np.searchsorted(self.edges, reference[some], side="right")
        cell = charges * N_RATIO_BINS + ratios
        size = (len(self.edges) + 1) * N_RATIO_BINS
        found = np.zeros(self.ratios.shape)
        for number, level in enumerate(self.levels):
            true = truth[some] >= np.float32(level.least)
            for population, chosen in enumerate((true, true & (estimate[some] > 0))):
                found[number, population] = np.bincount(cell[chosen], minlength=size).reshape(-1, N_RATIO_BINS)
        self.ratios.add(key, found)
        # Where the truth is not known (a bridged gap) neither charge counts.
        held, reference = np.where(known, held, 0.0), np.where(known, reference, 0.0)
        is_true = known & (truth >= np.float32(self.levels[0].least))
        self.events.part += [[held.sum(), everything], [estimate[is_true].sum(), reference[is_true].sum()]]
        self.totals.add(key, [held.sum(), np.abs(held - reference).sum(), reference.sum(), everything])

    def end_event(self, key: EventKey) -> None:
        """All images of the event ``key`` have been taken in."""
        self.events.end_event(key)

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        for mine, theirs in ((self.ratios, other.ratios), (self.events, other.events), (self.totals, other.totals)):
            mine.merge(theirs)
