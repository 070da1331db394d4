"""Wrapped wires: a channel carries what drifts to either face of its anode."""

import os

import numpy as np
import pytest

from preprocess.detector import load_detector
from preprocess.simulation import Deposits, SimulationConfig, read_out_event, responses_of
from preprocess.simulation.event import event_deposits
from preprocess.simulation.particles import MUON, box_of

pytestmark = pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")
QUIET = SimulationConfig(noise=(0, 0, 0), roi_padding=0)


def middle(tpc, electrons, n=20):
    """Deposits around the middle of a drift volume, a row along z."""
    box = box_of(tpc)
    points = np.empty((n, 5))
    points[:, :3] = 0.5 * (box.low + box.high)
    points[:, 2] += np.linspace(-100, 100, n)
    points[:, 3:] = 0.0, electrons
    return Deposits(points, np.full(n, MUON, np.int32), np.ones(n, np.int32))


def both(a, b):
    return Deposits(*(np.concatenate([getattr(a, k), getattr(b, k)]) for k in ("points", "pdg", "track")))


@pytest.mark.parametrize(("name", "number"), [("dune10kt-1x2x6", 0), ("dune10kt-1x2x6", 1), ("protodune-vd", 0)])
def test_shared_channels_sum_both_faces(name, number):
    """u and v carry the charge of both faces, the collecting plane and the truth that of its own."""
    detector = load_detector(name)
    tpc = detector.tpc(number)
    (partner,) = detector.partners(tpc)
    (response,) = responses_of(detector, (number,), QUIET)
    own, other = middle(tpc, 1e5), middle(partner, 3e5)
    separate = [response.charge(made.points) for made in (own, other)]
    made = read_out_event(response, both(own, other), 0, 1, 0)
    shared = np.isin(tpc.channels, np.concatenate([plane.channel for plane in partner.planes]))
    for index, plane in enumerate(tpc.planes):
        columns = np.unique(plane.column)
        seen = made.waveform[:, columns]
        np.testing.assert_allclose(seen.T, separate[0][columns] + separate[1][columns], rtol=1e-4, atol=1e-2)
        # Of the partner's charge, what arrives on channels that this plane shares with it.
        foreign = separate[1][columns].sum(dtype=np.float64)
        if index < 2 and name == "dune10kt-1x2x6":
            assert foreign == pytest.approx(20 * 3e5 * np.exp(-drift(partner) / 10_400), rel=2e-3)
        if not shared[columns].any():
            assert foreign == 0.0
    np.testing.assert_array_equal(made.truth[:, 3], np.full(20, 1e5, np.float32))
    assert made.outside == 20


def drift(tpc):
    return 0.5 * tpc.frame.drift_length_mm / tpc.frame.drift_speed_mm_us


def test_particles_cross_the_partner_s_volume_even_if_only_one_tpc_is_read_out():
    detector = load_detector("dune10kt-1x2x6")
    (alone,) = responses_of(detector, (0,), SimulationConfig(muons=4))
    made = event_deposits([alone], 0, 1, 0)
    for number in (0, 1):
        assert box_of(detector.tpc(number)).contains(made.points[:, :3]).sum() > 500
    both_read = responses_of(detector, (0, 1), SimulationConfig(muons=4))
    np.testing.assert_array_equal(event_deposits(both_read, 0, 1, 0).points, made.points)


@pytest.mark.parametrize(("name", "number"), [("protodune-sp", 1), ("protodune-hd", 2), ("microboone", 0)])
def test_detectors_whose_faces_share_nothing_have_no_partners(name, number):
    (response,) = responses_of(load_detector(name), (number,), QUIET)
    assert response.boxes == []


def test_muons_of_protodune_vd_come_along_the_drift():
    detector = load_detector("protodune-vd")
    (response,) = responses_of(detector, (0,), SimulationConfig(muons=30, beam_tracks=0, showers=0))
    made = event_deposits([response], 0, 1, 0)
    down = []
    for track in np.unique(made.track[np.abs(made.pdg) == MUON]):
        points = made.points[made.track == track]
        if len(points) > 20:
            way = points[-1, :3] - points[0, :3]
            down.append(-way[0] / np.linalg.norm(way))
    assert len(down) > 15
    assert min(down) > -0.05  # an almost horizontal one may scatter upwards
    assert np.mean(down) > 0.5
