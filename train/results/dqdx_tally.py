"""What the segments of all tracks tell: fits, medians and histograms, from sums that do not grow with the tracks.

Errors are of a Poisson bootstrap over tracks (`train.results.tallies`): in a sample each counts Poisson(1) times, with
all its segments, as values of one track are not independent.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from train.results.landau import LandauFit, fit_landau
from train.results.rate_bins import BINS, median, places
from train.results.tallies import EventWeights, Tally

RANGE_EDGES_CM = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 200.0)
FIGURES = ("mpv", "width", "sigma", "peak", "fwhm")  # of a fit

Floats = npt.NDArray[np.float64]


class RateTally:
    """Take in the segments of all tracks with ``add``, one track after the other.

    Args:
        labels: name -> label of each method that there may be; the first is what others are divided by.
        bootstraps, seed: samples for the errors, 0 for none.
    """

    def __init__(self, labels: Mapping[str, str], bootstraps: int, seed: int = 0) -> None:
        self.labels = dict(labels)
        self._counts = Tally((len(labels), BINS), EventWeights(bootstraps, seed))
        self._sums = np.zeros((len(labels), 3))  # values, their sum, and how many are not above 0
        self._in_range = np.zeros((len(RANGE_EDGES_CM) - 1, len(labels), BINS))
        self._range_segments = np.zeros(len(RANGE_EDGES_CM) - 1, np.int64)

    def add(self, key: tuple[int, int, int], track: int, segments: pd.DataFrame) -> None:
        """The segments of a track: a column of each method that there is, and ``residual_cm``."""
        file, event, tpc = key
        edges = np.array(RANGE_EDGES_CM)
        residual = np.searchsorted(edges, segments["residual_cm"].to_numpy(), side="right") - 1  # NaN: at the end
        stopping = np.flatnonzero((residual >= 0) & (residual < len(edges) - 1))
        self._range_segments += np.bincount(residual[stopping], minlength=len(edges) - 1)
        counts = np.zeros(self._counts.shape)
        for i, name in enumerate(self.labels):
            if name not in segments:
                continue
            values = segments[name].to_numpy()
            place = places(values)
            counts[i] = np.bincount(place, minlength=BINS)
            self._sums[i] += len(values), values.sum(), (values <= 0).sum()
            np.add.at(self._in_range[:, i], (residual[stopping], place[stopping]), 1.0)
        self._counts.add((file << 32 | event, tpc << 32 | track), counts)

    @property
    def methods(self) -> dict[str, Floats]:
        """Those with segments -> (BINS,) counts."""
        return {name: self._counts.sums[0, i] for i, name in enumerate(self.labels) if self._sums[i, 0]}

    def fits(self) -> tuple[pd.DataFrame, dict[str, LandauFit]]:
        """One row a method, and the fitted curves of those with enough segments."""
        curves, rows = {}, []
        for name, counts in self.methods.items():
            i = list(self.labels).index(name)
            fit = fit_landau(self._counts.sums[:, i])
            if fit is not None:
                curves[name] = fit
            n, total, empty = self._sums[i].tolist()
            row: dict[str, Any] = {"method": name, "label": self.labels[name], "segments": int(n)}
            row |= {"median": median(counts), "mean": total / n, "empty": empty / n}
            for figure, error in zip(FIGURES, (np.nan,) * 5 if fit is None else fit.errors, strict=True):
                row |= {figure: np.nan if fit is None else getattr(fit, figure), f"{figure}_error": error}
            rows.append(row | {"fitted": 0 if fit is None else fit.n})
        fits = pd.DataFrame(rows)
        fits["mpv_over_truth"] = fits["mpv"] / fits["mpv"].iloc[0]
        return fits, curves

    def residual(self) -> pd.DataFrame:
        """Medians in bins of the residual range: low_cm, high_cm, segments, NAME, NAME_over_<first method>."""
        names, (first, *others) = list(self.labels), self.methods
        rows = []
        for i, (low, high) in enumerate(pairwise(RANGE_EDGES_CM)):
            if not self._range_segments[i]:
                continue
            row: dict[str, Any] = {"low_cm": low, "high_cm": high, "segments": int(self._range_segments[i])}
            row |= {name: median(self._in_range[i, names.index(name)]) for name in self.methods}
            row |= {f"{name}_over_{first}": row[name] / row[first] if row[first] else np.nan for name in others}
            rows.append(row)
        return pd.DataFrame(rows, columns=None if rows else ["low_cm", "high_cm", "segments", first, *others])
