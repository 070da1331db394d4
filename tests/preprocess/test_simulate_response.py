"""The response kernels against closed forms and a slow oracle."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from larstore.errors import ConfigError
from preprocess.simulation import truth_of
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.response import Response
from preprocess.testing import small_detector

QUIET = {"noise": (0.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def tpc(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector")).tpc(1)


def deposits(n, seed=0, margin=40.0):
    rng = np.random.default_rng(seed)
    low, high = [20.0, margin, margin], [780.0, 300 - margin, 240 - margin]
    return np.column_stack([rng.uniform(low, high, (n, 3)), rng.uniform(0, 100, n), rng.uniform(1e3, 1e5, n)])


def drift_us(tpc, x):
    return (x - tpc.frame.anode_x_mm) / 1.565


def test_charge_is_conserved_up_to_attachment(tpc):
    """Every plane sees the electrons times exp(−t/τ), whole within the 4 σ cut."""
    points = deposits(300)
    config = SimulationConfig(**QUIET, lifetime_us=1000.0, gains=(1.0, 0.9, 1.1))
    charge = Response(tpc, config).charge(points)
    arriving = (points[:, 4] * np.exp(-drift_us(tpc, points[:, 0]) / 1000.0)).sum()
    for plane, gain in zip(tpc.planes, config.gains, strict=True):
        assert charge[plane.column].sum(dtype=np.float64) == pytest.approx(gain * arriving, rel=5e-4)


def test_without_lifetime_nothing_is_lost(tpc):
    points = deposits(50)
    charge = Response(tpc, SimulationConfig(**QUIET, lifetime_us=None)).charge(points)
    assert charge[tpc.planes[2].column].sum(dtype=np.float64) == pytest.approx(points[:, 4].sum(), rel=5e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_point_arrives_at_its_truth_tick_and_wire(tpc, seed):
    point = deposits(1, seed)
    charge = Response(tpc, SimulationConfig(**QUIET)).charge(point)
    (truth,) = truth_of(tpc, point)
    exact = 100.0 + (drift_us(tpc, point[0, 0]) + point[0, 3]) / 0.5
    assert truth[0] == math.floor(exact)
    assert tuple(truth[1:3]) == (math.floor(point[0, 1] / 2), math.floor(point[0, 2] / 2))
    assert truth[3] == pytest.approx(point[0, 4])
    for plane in tpc.planes:
        seen = charge[plane.column].astype(np.float64)
        in_tick = seen.sum(axis=0)
        mean_tick = np.average(np.arange(1400) + 0.5, weights=in_tick)
        assert mean_tick == pytest.approx(exact, abs=0.02)
        pitch = point[0, 1] * plane.normal[0] + point[0, 2] * plane.normal[1]
        mean_pitch = np.average(plane.offset_mm, weights=seen.sum(axis=1))
        assert mean_pitch == pytest.approx(pitch, abs=0.5 * plane.pitch_mm)


def test_against_an_oracle(tpc):
    """Products of Gaussian integrals over all ticks and strips, no cut, no loops shared with the kernel."""
    points = deposits(4, 3)
    config = SimulationConfig(**QUIET)
    charge = Response(tpc, config).charge(points)
    expected = np.zeros(charge.shape)
    for x, y, z, t, q in points:
        drift = drift_us(tpc, x)
        q *= math.exp(-drift / 10_400)
        tick = 100 + (drift + t) / 0.5
        long_ticks = math.sqrt(2 * 4.0e-4 * drift) / (1.565 * 0.5)
        trans_mm = math.sqrt(2 * 8.8e-4 * drift)
        for i, plane in enumerate(tpc.planes):
            time = norm(tick, math.hypot(long_ticks, config.smear_ticks[i]))
            place = norm(
                y * plane.normal[0] + z * plane.normal[1],
                math.hypot(trans_mm, config.smear_pitches[i] * plane.pitch_mm),
            )
            edges = np.append(plane.offset_mm - plane.pitch_mm / 2, plane.offset_mm[-1] + plane.pitch_mm / 2)
            expected[plane.column] += q * np.outer(np.diff(place.cdf(edges)), np.diff(time.cdf(np.arange(1401))))
    np.testing.assert_allclose(charge, expected, atol=2e-4 * expected.max())


def test_diffusion_after_a_known_drift(tpc):
    """σ = √(2 D t): 2.29 ms would give 1.35 mm along and 2.01 mm across the drift; here 0.5 ms."""
    point = np.array([[1.565 * 500 + tpc.frame.anode_x_mm, 150.0, 120.0, 0.0, 1e6]])
    config = SimulationConfig(**QUIET, smear_ticks=(0, 0, 0), smear_pitches=(0, 0, 0))
    charge = Response(tpc, config).charge(point)[tpc.planes[2].column].astype(np.float64)
    ticks = np.arange(1400)
    weights = charge.sum(axis=0)
    spread = np.average((ticks - np.average(ticks, weights=weights)) ** 2, weights=weights)
    expected = 1.35 * math.sqrt(0.5 / 2.29) / (1.565 * 0.5)
    assert math.sqrt(spread - 1 / 12) == pytest.approx(expected, rel=0.03)


def test_charge_outside_is_lost_not_moved(tpc):
    points = np.array([[400.0, 150.0, 120.0, -1e6, 1e5], [400.0, 1e4, 1e4, 0.0, 1e5], [400.0, 150.0, 120.0, 1e6, 1e5]])
    assert not Response(tpc, SimulationConfig(**QUIET)).charge(points).any()
    assert len(truth_of(tpc, points)) == 0


def test_read_out_without_noise_keeps_the_charge(tpc):
    """With no noise all thresholds are 0: whatever is above 0 electrons stays, and nothing is lost to gaps."""
    response = Response(tpc, SimulationConfig(**QUIET, gaps=1.0))
    charge = response.charge(deposits(100))
    out = response.read_out(charge.copy(), np.random.default_rng(0), np.array([], int))
    np.testing.assert_array_equal(out.T, charge)


def test_dead_channels_and_threshold(tpc):
    config = SimulationConfig(gaps=0.0)
    response = Response(tpc, config)
    dead = np.array([85, 180])
    out = response.read_out(response.charge(deposits(100)), np.random.default_rng(0), dead)
    assert out.shape == (1400, 210)
    assert not out[:, dead].any()
    assert (out >= 0).all()
    for plane, rms, factor in zip(tpc.planes, config.noise, config.roi_threshold, strict=True):
        waveform = out[:, plane.column]
        assert waveform.any()
        for column in waveform.T:
            # Clipping lowers a region's samples by a factor of its own: a fifth is more than it ever takes here.
            hits = np.flatnonzero(column > 0.8 * rms * factor)
            assert all(np.abs(hits - t).min() <= config.roi_padding for t in np.flatnonzero(column))


def test_unequal_gains(tpc):
    points = deposits(100)
    plain, unequal = (Response(tpc, SimulationConfig(gains=g)).charge(points) for g in ((1, 1, 1), (0.95, 0.93, 1.0)))
    for plane, gain in zip(tpc.planes, (0.95, 0.93, 1.0), strict=True):
        np.testing.assert_allclose(unequal[plane.column], gain * plain[plane.column], rtol=1e-5, atol=1e-3)


def test_a_tpc_without_drift_constants_is_refused(tpc):
    frame = tpc.frame.model_copy(update={"drift_speed_mm_us": None})
    with pytest.raises(ConfigError, match="drift speed None"):
        Response(type(tpc)(**{**vars(tpc), "frame": frame}), SimulationConfig())
