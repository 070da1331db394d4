"""The noise: its rms, its colour, and how rarely it makes a region."""

import numpy as np
import pytest

from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.noise import add_noise, amplitude, length, shape
from preprocess.simulation.response import Response
from preprocess.testing import small_detector

TICK = 0.5


def noise(config, induction, rows=300, ticks=3000, rms=100.0, seed=0):
    charge = np.zeros((rows + 1, ticks), np.float32)
    add_noise(np.random.default_rng(seed), shape(config, TICK, ticks, induction), rms, np.arange(1, rows + 1), charge)
    assert not charge[0].any()
    return charge[1:].astype(np.float64)


@pytest.mark.parametrize("induction", [True, False])
@pytest.mark.parametrize("ticks", [3000, 1399])
@pytest.mark.parametrize("changes", [{}, {"noise_ticks": 0.0}, {"noise_low_mhz": 0.0, "induction_us": 0.0}])
def test_rms_is_the_one_asked_for(induction, ticks, changes):
    found = noise(SimulationConfig(**changes), induction, ticks=ticks)
    assert found.std() == pytest.approx(100.0, rel=0.02)
    assert abs(found.mean()) < 2.0
    assert np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1] == pytest.approx(0.0, abs=0.02)  # of neighbours


@pytest.mark.parametrize("induction", [True, False])
def test_the_spectrum_is_the_formula_s(induction):
    """Mean power in bands of frequency against the squared amplitude, both normalised."""
    config = SimulationConfig()
    found = noise(config, induction)
    power = (np.abs(np.fft.rfft(found, axis=1)) ** 2).mean(axis=0)
    expected = amplitude(np.fft.rfftfreq(3000, TICK), config, TICK, induction) ** 2
    bands = np.array_split(np.arange(1, 600), 30)
    ours = np.array([power[band].sum() for band in bands]) / power.sum()
    np.testing.assert_allclose(ours, [expected[band].sum() / expected.sum() for band in bands], rtol=0.06, atol=1e-6)


def test_induction_noise_is_slower_than_collection_noise():
    """The filters' closed forms: white noise behind a Gaussian, correlation exp(−(lag / 2σ)²); slow noise lasts."""
    config = SimulationConfig()
    collection, induction = noise(config, False), noise(config, True)

    def correlation(waveforms, lag):
        return (waveforms[:, lag:] * waveforms[:, :-lag]).mean() / waveforms.var()

    for lag in (2, 5, 10):
        assert correlation(collection, lag) == pytest.approx(np.exp(-((lag / 2 / config.noise_ticks) ** 2)), abs=0.02)
    assert correlation(induction, 10) > 0.3
    assert correlation(induction, 60) < 0.05  # the low-frequency filter lets no long waves through


def test_white_noise_has_no_memory():
    found = noise(SimulationConfig(noise_ticks=0.0), False)
    for lag in (1, 2, 7):
        assert (found[:, lag:] * found[:, :-lag]).mean() / found.var() == pytest.approx(0.0, abs=0.01)


def test_lengths_are_quick_to_transform():
    assert [length(n) for n in (6000, 6400, 5999, 9600)] == [6000, 6400, 6000, 9600]


def test_noise_alone_crosses_the_threshold_as_often_as_rice_says(tmp_path):
    """Upcrossings of k σ a tick: ν exp(−k²/2), ν² = ∫ f² S / ∫ S; nearly each of them starts a region."""
    tpc = small_detector(tmp_path).tpc(1)
    config = SimulationConfig(roi_sure=(0.0, 0.0, 0.0), roi_threshold=(3.0, 3.0, 3.0), roi_padding=0, gaps=0.0)
    response = Response(tpc, config)
    starts = np.zeros(3)
    for seed in range(8):
        charge = np.zeros((210, 1400), np.float32)
        out = response.read_out(charge, np.random.default_rng(seed), np.array([], int))
        for index, plane in enumerate(tpc.planes):
            starts[index] += np.count_nonzero((out[1:, plane.column] > 0) & (out[:-1, plane.column] == 0))
    mhz = np.fft.rfftfreq(1400, TICK)
    for index, plane in enumerate(tpc.planes):
        power = amplitude(mhz, config, TICK, index < 2) ** 2
        rate = np.sqrt((mhz**2 * power).sum() / power.sum()) * TICK * np.exp(-4.5)
        expected = rate * 1399 * len(plane.column) * 8
        assert starts[index] == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_regions_of_noise_are_rare_by_default(tmp_path):
    tpc = small_detector(tmp_path).tpc(1)
    response = Response(tpc, SimulationConfig())
    lit = 0
    for seed in range(4):
        out = response.read_out(np.zeros((210, 1400), np.float32), np.random.default_rng(seed), np.array([], int))
        lit += np.count_nonzero(out)
    assert 0 < lit < 1e-3 * 4 * out.size
