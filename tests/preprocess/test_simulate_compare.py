"""The summary of frames, by hand and on simulated events."""

import numpy as np
import pytest

from preprocess.simulation import SimulationConfig, responses_of, simulate_event
from preprocess.simulation.compare import BRIDGE, QUANTILES, regions_of, summarise, table
from preprocess.testing import SMALL_SIMULATION, small_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def test_regions_by_hand():
    traces = np.zeros((3, 60), np.float32)
    traces[0, [2, 3]] = 5, 7
    traces[0, 3 + BRIDGE + 1] = 1  # BRIDGE zeros between: still one region
    traces[2, [0, 59]] = 4, 9
    expected = [[0, BRIDGE + 3, 7, 13], [2, 1, 4, 4], [2, 1, 9, 9]]
    np.testing.assert_array_equal(regions_of(traces), expected)
    assert len(regions_of(traces, 0)) == 4
    assert regions_of(np.zeros((2, 9), np.float32)).shape == (0, 4)


def test_summary_against_a_slow_count(detector):
    tpc = detector.tpc(1)
    frames = [np.zeros((200, 210), np.float32) for _ in range(2)]
    column = {plane.name: int(plane.column[3]) for plane in tpc.planes}
    frames[0][10:20, column["u"]] = 100
    frames[1][50:54, column["u"]] = 300
    frames[1][50:60, column["w"]] = 200
    found = summarise(tpc, frames)
    u, v, w = (found.planes[name] for name in "uvw")
    assert u.lit == pytest.approx(14 / (2 * 200 * 80))
    assert u.regions == pytest.approx(2 / (2 * 80))
    assert u.length[QUANTILES.index(0.5)] == 7.0
    assert u.peak[-1] == pytest.approx(298, abs=0.1)
    assert (u.total, w.total) == (1100.0, 1000.0)
    assert found.ratio == {"u": 1.1, "v": 0.0, "w": 1.0}
    assert v.regions == 0
    assert np.isnan(v.length).all()
    text = table({"ours": found})
    assert len(text.splitlines()) == 5
    assert "| ours | u | 0.04 |" in text


def test_planes_of_simulated_events_have_equal_sums(detector):
    """Default noise and gaps; few tracks on a small detector, so a few per cent."""
    (response,) = responses_of(detector, (1,), SMALL_SIMULATION)
    found = summarise(
        detector.tpc(1), (simulate_event([response], response, 0, 1, event).waveform for event in range(8))
    )
    assert found.ratio["u"] == pytest.approx(1.0, abs=0.04)
    assert found.ratio["v"] == pytest.approx(1.0, abs=0.04)


def test_gains_show_in_the_ratios(detector):
    config = SimulationConfig(**{**SMALL_SIMULATION.model_dump(), "gains": (0.9, 0.95, 1.0), "noise": (0, 0, 0)})
    (response,) = responses_of(detector, (1,), config)
    found = summarise(
        detector.tpc(1), (simulate_event([response], response, 0, 1, event).waveform for event in range(3))
    )
    assert found.ratio["u"] == pytest.approx(0.9, abs=0.01)
    assert found.ratio["v"] == pytest.approx(0.95, abs=0.01)
