"""The distribution of dQ/dx: a Landau, folded with a Gauss, fitted by maximum likelihood; errors by bootstrap."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from train.results.rate_bins import median, spread

MODE = -0.42931455  # of SciPy's Landau of scale 1 …
SCALE = np.pi / 2  # … which is that of Landau's own width 2/π: 4.02 widths are the full width at half maximum
WINDOW = (0.6, 1.8)  # of the mode: what is fitted; beyond lie lost charge, and crossing tracks and delta rays
BINS = 120
NODES = np.linspace(-4.0, 4.0, 81)  # of the Gauss, in its widths
LEAST = 100  # values that a fit needs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LandauFit:
    """A Landau of most probable value ``mpv`` and width ``width`` (ξ), folded with a Gauss of width ``sigma``.

    ``peak`` and ``fwhm``: maximum and full width at half maximum of the folded curve. ``errors``: standard deviations
    of these five over the bootstrap samples, NaN without. ``low``, ``high``: the window. ``n``: values in it.
    """

    mpv: float
    width: float
    sigma: float
    peak: float
    fwhm: float
    errors: tuple[float, float, float, float, float]
    low: float
    high: float
    n: int

    def density(self, x: Floats) -> Floats:
        """(n,) probability density at ``x``, of 1 within the window."""
        inside = np.linspace(self.low, self.high, 2001)
        total = np.trapezoid(folded(inside, self.mpv, self.width, self.sigma), inside)
        return np.asarray(folded(x, self.mpv, self.width, self.sigma) / total)


def folded(x: Floats, mpv: float, width: float, sigma: float) -> Floats:
    """(n,) density of a Landau folded with a Gauss at ``x``."""
    grid, density = _table()
    weights = np.exp(-0.5 * NODES**2)
    at = (x[:, None] - sigma * NODES - mpv) / (width * SCALE) + MODE
    values = np.interp(at, grid, density, left=0.0, right=0.0)
    return np.asarray(values @ (weights / weights.sum()) / (width * SCALE))


def fit_landau(counts: Floats) -> LandauFit | None:
    """Fit counted values in ``BINS`` bins of the window; None for fewer than ``LEAST`` values in it.

    Args:
        counts: (1 + samples, bins) of `train.results.rate_bins`: as they are, then those of the bootstrap samples.
            Fewer than two samples, or those of one track alone, which only repeat it, give no errors.
    """
    if counts[0, 1:].sum() < LEAST:
        return None
    mode = _mode(counts[0])
    low, high = (part * mode for part in WINDOW)
    edges = np.linspace(low, high, BINS + 1)
    total, *samples = spread(counts, edges)
    n = round(total.sum())
    if n < LEAST:
        return None
    middle = (edges[1:] + edges[:-1]) / 2
    best = _maximise(total, middle, np.array([mode, 0.1 * mode, 0.1 * mode]))
    shape = _shape(best, low, high)
    errors: tuple[float, ...] = (float("nan"),) * 5
    drawn = [each for each in samples if each.sum() > 0]
    if len(drawn) > 1 and not all(np.allclose(each / each.sum(), total / total.sum()) for each in drawn):
        again = [_maximise(each, middle, best) for each in drawn]
        figures = [(*each, *_shape(each, low, high)) for each in again]
        errors = tuple(float(e) for e in np.std(figures, axis=0, ddof=1))
    mpv, width, sigma = (float(v) for v in best)
    return LandauFit(mpv, width, sigma, *shape, (errors[0], errors[1], errors[2], errors[3], errors[4]), low, high, n)


def _mode(counts: Floats) -> float:
    """Where values > 0 are densest, to a twentieth of their median."""
    positive = np.concatenate([[0.0], counts[1:]])
    edges = np.linspace(0.0, 3.0 * median(positive), 181)
    smooth = np.convolve(spread(positive, edges), np.ones(5), "same")
    return float((edges[1:] + edges[:-1])[np.argmax(smooth)] / 2)


def _maximise(counts: Floats, middle: Floats, start: Floats) -> Floats:
    """(3,) mpv, width and sigma of the largest likelihood of counts in bins."""
    scale = start[0]

    def loss(p: Floats) -> float:
        mpv, width, sigma = scale * p[0], scale * np.exp(p[1]), scale * np.exp(p[2])
        density = folded(middle, mpv, width, sigma)
        share = density / max(density.sum(), 1e-300)
        # Widths that no bin resolves, or beyond the window, are not to be told from each other.
        bound = ((p[1:] - np.clip(p[1:], np.log(0.004), np.log(0.7))) ** 2).sum()
        return float(-(counts * np.log(np.maximum(share, 1e-12))).sum() / counts.sum() + bound)

    first = np.array([start[0] / scale, *np.log(start[1:] / scale)])
    found = optimize.minimize(loss, first, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-8, "maxfev": 2000})
    return np.array([scale * found.x[0], *(scale * np.exp(found.x[1:]))])


def _shape(best: Floats, low: float, high: float) -> tuple[float, float]:
    """Place of the maximum, and full width at half of it."""
    x = np.linspace(0.5 * low, high, 4001)
    y = folded(x, *best)
    above = np.flatnonzero(y >= y.max() / 2)
    return float(x[np.argmax(y)]), float(x[above[-1]] - x[above[0]])


@cache
def _table() -> tuple[Floats, Floats]:
    """SciPy's Landau of scale 1, to be interpolated: it takes a thousand times longer."""
    grid = np.concatenate([np.linspace(-6.0, 40.0, 9201)[:-1], np.geomspace(40.0, 4000.0, 1500)])
    return grid, np.asarray(stats.landau.pdf(grid))
