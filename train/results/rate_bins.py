"""Counts in bins of half a percent: what medians, histograms and fits need of values that nobody has room to keep."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

RATIO = 1.005  # from bin to bin
LOWEST, HIGHEST = 1e-3, 1e8  # of dQ/dx in electrons/cm; in keV/cm or MeV/cm it would be there, too
EDGES = np.geomspace(LOWEST, HIGHEST, 1 + math.ceil(math.log(HIGHEST / LOWEST) / math.log(RATIO)))
BINS = len(EDGES) + 1  # the first one is all below ``LOWEST``, the last one all from ``HIGHEST`` on

Floats = npt.NDArray[np.float64]


def places(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(n,) the bin of each value (n,); none may be NaN."""
    return np.searchsorted(EDGES, values, side="right")


def spread(counts: Floats, edges: Floats) -> Floats:
    """(..., m) counts (..., BINS) between edges (m + 1,) within [LOWEST, HIGHEST], even within a bin.

    Below ``LOWEST`` nothing is counted, as it is not known where there.
    """
    below = np.cumsum(counts[..., :-1], axis=-1) - counts[..., :1]  # EDGES[i]: of what is from LOWEST on
    place = np.clip(np.searchsorted(EDGES, edges, side="right") - 1, 0, len(EDGES) - 2)
    share = ((edges - EDGES[place]) / (EDGES[place + 1] - EDGES[place])).clip(0.0, 1.0)
    total = below[..., place] * (1 - share) + below[..., place + 1] * share
    return np.asarray(np.diff(total, axis=-1))


def median(counts: Floats) -> float:
    """Of counts (BINS,), right to half a bin; 0 below ``LOWEST``, NaN of nothing."""
    n = round(counts.sum())
    return (_ranked(counts, (n - 1) // 2) + _ranked(counts, n // 2)) / 2 if n else math.nan


def _ranked(counts: Floats, rank: int) -> float:
    """The value with ``rank`` others below it."""
    until = np.cumsum(counts)
    place = int(np.searchsorted(until, rank, side="right"))
    if place == 0:
        return 0.0
    if place >= len(EDGES):
        return HIGHEST
    share = (rank - until[place - 1] + 0.5) / counts[place]
    return float(EDGES[place - 1] + share * (EDGES[place] - EDGES[place - 1]))
