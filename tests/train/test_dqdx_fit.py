"""The arithmetic of dQ/dx: the axis of a track, the bins, the fit, and what is kept of the tracks."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from train.results.dqdx_segments import METHODS
from train.results.dqdx_tally import RateTally
from train.results.landau import MODE, SCALE, fit_landau, folded
from train.results.rate_bins import BINS, median, places, spread
from train.results.tallies import EventWeights, Tally
from train.results.tracks import principal_axis


def landau_values(mpv, width, sigma, n, seed=0):
    rng = np.random.default_rng(seed)
    scale = width * SCALE
    return stats.landau.rvs(mpv - MODE * scale, scale, size=n, random_state=rng) + rng.normal(0, sigma, n)


def test_the_curve_is_landaus_integral():
    """p(x) = 1/π ∫ exp(−t ln t − x t) sin(π t) dt, whose maximum is at −0.22278."""
    t = np.linspace(1e-9, 40.0, 400_001)
    x = np.array([-2.0, -0.22278298, 0.0, 1.0, 5.0, 20.0])
    expected = [np.trapezoid(np.exp(-t * np.log(t) - each * t) * np.sin(np.pi * t), t) / np.pi for each in x]
    found = folded(60.0 + 3.0 * (x + 0.22278298), 60.0, 3.0, 1e-6) * 3.0
    assert_allclose(found, expected, rtol=1e-4)
    grid = np.linspace(-40.0, 40.0, 8001)
    for each in (50.0, 60.0, 75.0):  # folded with a Gauss, one value after the other
        landau = stats.landau.pdf((each - grid - 60.0) / (3.0 * SCALE) + MODE) / (3.0 * SCALE)
        brute = np.trapezoid(landau * stats.norm.pdf(grid, 0, 6.0), grid)
        assert_allclose(folded(np.array([each]), 60.0, 3.0, 6.0), brute, rtol=1e-3)


def fit_values(values, groups, bootstraps):
    """The fit of values of tracks (groups)."""
    tally = Tally((BINS,), EventWeights(bootstraps))
    for group in np.unique(groups):
        tally.add((int(group), 0), np.bincount(places(values[groups == group]), minlength=BINS))
    return fit_landau(tally.sums)


@pytest.mark.parametrize("n", [1, 2, 7, 5000])
def test_bins_tell_medians_and_histograms(n):
    values = np.random.default_rng(n).lognormal(10.0, 0.5, n)
    counts = np.bincount(places(values), minlength=BINS).astype(float)
    assert median(counts) == pytest.approx(np.median(values), rel=0.0026)  # half a bin
    edges = np.linspace(0.0, 3.0 * np.median(values), 31)
    found, expected = spread(counts, edges), np.histogram(values, edges)[0]
    assert np.abs(found.cumsum() - expected.cumsum()).max() <= max(1, 0.01 * n)
    odd = np.bincount(places(np.array([-3.0, 0.0, 0.0005, 1e12, 7.0])), minlength=BINS).astype(float)
    assert np.isnan(median(0 * odd))
    assert median(odd) == 0.0
    assert spread(odd, np.array([0.0, 1.0, 8.0])).tolist() == [0, 1]


@pytest.mark.parametrize(("width", "sigma"), [(2.0, 5.0), pytest.param(3.0, 1.5, marks=pytest.mark.slow)])
def test_the_fit_finds_what_was_drawn(width, sigma):
    values = landau_values(60.0, width, sigma, 20_000)
    fit = fit_values(values, np.arange(len(values)) // 50, bootstraps=6)
    assert fit.mpv == pytest.approx(60.0, rel=0.01)
    assert (fit.width, fit.sigma) == (pytest.approx(width, rel=0.12), pytest.approx(sigma, rel=0.25))
    assert abs(fit.mpv - 60.0) < 5 * fit.errors[0]
    assert 0.01 < fit.errors[0] < 0.5
    x = np.linspace(fit.low, fit.high, 5001)
    density = fit.density(x)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
    assert fit.peak == pytest.approx(x[np.argmax(density)], abs=0.1)
    half = x[density >= density.max() / 2]
    assert fit.fwhm == pytest.approx(half[-1] - half[0], abs=0.2)
    edges = np.linspace(fit.low, fit.high, 41)
    counts = np.histogram(values, edges)[0]
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    expected = np.diff(np.interp(edges, x, total)) * counts.sum()
    assert ((counts - expected) ** 2 / np.maximum(expected, 1)).sum() < 100  # 40 bins


@pytest.mark.slow
def test_values_of_one_track_count_once_in_the_errors():
    values = landau_values(60.0, 3.0, 2.0, 400)
    alone = fit_values(values, np.arange(400), bootstraps=10)
    copied = fit_values(np.tile(values, 4), np.tile(np.arange(400), 4), bootstraps=10)
    assert copied.errors[0] == pytest.approx(alone.errors[0], rel=0.4)
    assert fit_values(values[:50], np.arange(50), 10) is None
    assert np.isnan(fit_values(values, np.arange(400), bootstraps=0).errors).all()
    assert np.isnan(fit_values(values, np.zeros(400, int), bootstraps=10).errors).all()  # one track


def test_what_is_kept_of_tracks_does_not_grow(tmp_path):
    rng = np.random.default_rng(0)
    tally, sizes = RateTally(METHODS, 5), []
    for _ in range(2):
        for track in range(1100):  # more than the weights that are remembered
            values = {name: rng.lognormal(11, 0.3, 20) for name in METHODS}
            tally.add((0, len(sizes), 1), track, pd.DataFrame(values | {"residual_cm": rng.uniform(0, 300, 20)}))
        assert len(tally.fits()[0]) == len(METHODS)
        sizes.append(len(pickle.dumps(tally)))
    assert sizes[1] < 1.01 * sizes[0]
    assert tally.residual()["segments"].sum() == pytest.approx(44_000 * 200 / 300, rel=0.02)


def test_the_principal_axis_is_that_of_the_covariance():
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(50, 3)) * [3, 1, 0.2], rng.uniform(1, 2, 50)
    centre, direction, values = principal_axis(points, weights)
    expected = np.linalg.eigh(np.cov(points.T, aweights=weights, ddof=0))
    assert_allclose(values, expected.eigenvalues[::-1])
    assert_allclose(centre, np.average(points, axis=0, weights=weights))
    assert abs(direction @ expected.eigenvectors[:, 2]) == pytest.approx(1)
