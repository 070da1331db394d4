"""Bins with fixed edges, and the labels that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int16]

NONE = -1  # in no stratum


@dataclass(frozen=True)
class Bins:
    """Ranges of a quantity: stratum k holds ``edges[k - 1] <= value < edges[k]``, the first and last are open.

    Attributes:
        edges: (k,) ascending.
        labels: (k + 1,) names of the strata.
    """

    edges: tuple[float, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges have {len(self.edges) + 1} bins, not {len(self.labels)}")

    def codes(self, values: npt.NDArray[Any]) -> Codes:
        """The stratum of each value, any shape; NONE for NaN."""
        found = np.searchsorted(self.edges, values, side="right").astype(np.int16)
        return np.where(np.isnan(values), np.int16(NONE), found)


def labelled(edges: Sequence[float], texts: Sequence[str], unit: str) -> Bins:
    """Bins that are named by the texts of their edges and a unit: "< 15°", "15–30°", "≥ 30°"."""
    between = [f"{low}–{high}{unit}" for low, high in pairwise(texts)]
    return Bins(tuple(edges), (f"< {texts[0]}{unit}", *between, f"≥ {texts[-1]}{unit}"))


def filled(n: int, code: int) -> Codes:
    """(n,) of one stratum."""
    return np.full(n, code, np.int16)
