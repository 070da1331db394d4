"""Fixed bins of a score, in which histograms of all events and workers can be added; they keep the order of scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.results.charge_units import electron_in

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins by their inner edges, ascending float32; bin i holds edges[i - 1] <= score < edges[i].

    The first bin holds what is below all edges, the last what is at or above the last: nothing falls outside.
    """

    name: str
    edges: npt.NDArray[np.float32]
    values: tuple[float, ...] = ()  # that scores take often

    @property
    def tied(self) -> npt.NDArray[np.bool_]:
        """(bins,) bins of one of ``values``, in which most scores are equal."""
        found = np.zeros(self.n, bool)
        found[self.index(np.array(self.values, np.float32))] = True
        return found

    @property
    def n(self) -> int:
        """How many."""
        return len(self.edges) + 1

    @property
    def thresholds(self) -> Floats:
        """(bins,) the lowest score of each bin; -inf for the first."""
        return np.concatenate([[-np.inf], self.edges.astype(np.float64)])

    def index(self, score: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """(n,) the bin of each score; +-inf fall into the outermost ones."""
        return np.searchsorted(self.edges, score, side="right")

    def at(self, threshold: float) -> int:
        """The first bin of what a cut score >= ``threshold`` keeps, where that is an edge (else of the next edge)."""
        return int(np.searchsorted(self.edges, np.float32(threshold), side="left")) + 1


def _decades(low: float, high: float, a_decade: int) -> list[float]:
    steps = round(np.log10(high / low) * a_decade)
    return [low * 10 ** (k / a_decade) for k in range(steps + 1)]


def _bins(name: str, edges: list[float], *values: float) -> Bins:
    return Bins(name, np.unique(np.array(edges, np.float32)), values)


# Networks crowd their scores at 0 and 1: 0.01, 0.02 … 0.99 in between, 20 a decade from 1e-6 to 0.01 and from 0.99 to
# 1 - 1e-6. Scores outside 0 … 1, of what is no probability, have 5 a decade.
_TAIL = _decades(1e-6, 0.01, 20)
SCORE = _bins(
    "score",
    [-x for x in _decades(1e-2, 1e6, 5)]
    + [0.0, *_TAIL, *(round(0.01 * k, 2) for k in range(1, 100)), *(1 - x for x in _TAIL)]
    + [1.0, *_decades(1.0, 1e6, 5)],
    0.0,
    1.0,
)
TINY = float(np.finfo(np.float32).tiny)
# Charges: 60 a decade from 10 to 10^6 electrons; voxels without charge are in the first bin alone.
CHARGE = _bins("charge", [TINY, *_decades(10.0, 1e6, 60)], 0.0)
# Minus a spread: -1 … 0 in steps of 0.005, and 0 alone.
AGREEMENT = _bins("agreement", [-1 + 0.005 * k for k in range(1, 200)] + [0.0], -1.0, 0.0)
ONE = Bins("one", np.zeros(0, np.float32), (0.0,))  # a constant
# For strata, of which there are many: 0.05 … 0.95, a few towards 0 and 1; 8 a decade of charge.
_FEW_TAIL = [1e-4, 1e-3, 0.01, 0.02]
SCORE_FEW = _bins("score, few", [*_FEW_TAIL, *(round(0.05 * k, 2) for k in range(1, 20)), *(1 - x for x in _FEW_TAIL)])
CHARGE_FEW = _bins("charge, few", [TINY, *_decades(100.0, 1e5, 8)], 0.0)


def charge_bins(unit: str) -> tuple[Bins, Bins]:
    """``CHARGE`` and ``CHARGE_FEW`` in a unit; 20 and 2 a decade from 10^-6 to 10^9 where electrons are not told."""
    electron = electron_in(unit)
    if electron == 1:
        return CHARGE, CHARGE_FEW
    found = []
    for bins, a_decade in ((CHARGE, 20), (CHARGE_FEW, 2)):
        edges = _decades(1e-6, 1e9, a_decade) if electron is None else (bins.edges[1:] * np.float64(electron)).tolist()
        found.append(_bins(f"{bins.name}, {unit}", [TINY, *edges], 0.0))
    return found[0], found[1]
