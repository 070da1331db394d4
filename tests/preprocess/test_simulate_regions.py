"""Regions of interest against slow oracles, and what gaps take."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import MUON, MUON_MEV, Particle, box_of, propagate
from preprocess.simulation.regions import copy_regions, find_regions, keep_connected, lose_prolonged, room_for
from preprocess.simulation.response import Response
from preprocess.testing import small_detector

PLANE_OF = np.array([0, 0, 1, 1, 1, 2, -1])
LIMITS = np.array([1.0, 2.0, 2.5])


def found(charge, limits=LIMITS, padding=3):
    room = room_for(*charge.shape, padding)
    return room[: find_regions(charge, PLANE_OF, limits, padding, room)]


def wave(seed, ticks=120):
    return np.random.default_rng(seed).normal(0.2, 1.3, (7, ticks)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_regions_are_what_lies_near_high_samples(seed, padding):
    charge = wave(seed)
    marked = np.zeros(charge.shape, int)
    last = (-1, -1)
    for row, first, end in found(charge, padding=padding).tolist():
        assert (row, first) > last  # sorted, and not one over another
        last = (row, end - 1)
        marked[row, first:end] += 1
    for row in range(7):
        for t in range(charge.shape[1]):
            near = charge[row, max(0, t - padding) : t + padding + 1].max()
            assert marked[row, t] == (PLANE_OF[row] >= 0 and near > LIMITS[PLANE_OF[row]])


def test_room_is_enough_for_the_worst_case():
    """Every region as short as it can be: above the limit on one tick in 2 × padding + 2."""
    for padding in (0, 1, 4):
        charge = np.zeros((7, 99), np.float32)
        charge[:, :: 2 * padding + 2] = 9.0
        regions = found(charge, padding=padding)
        assert len(regions) <= len(room_for(7, 99, padding))
        assert len(regions) == 6 * len(range(0, 99, 2 * padding + 2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_copied_regions_keep_their_charge_without_negative_samples(seed):
    charge = wave(seed)
    regions = found(charge)
    out = np.zeros(charge.shape[::-1], np.float32)
    copy_regions(charge, regions, out)
    assert (out >= 0).all()
    rest = out.copy()
    for row, first, end in regions:
        expected = max(float(charge[row, first:end].sum(dtype=np.float64)), 0.0)
        assert out[first:end, row].sum(dtype=np.float64) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert not out[first:end, row][charge[row, first:end] < 0].any()
        rest[first:end, row] = 0
    assert not rest.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_lonely_regions_are_left_out(seed):
    charge = wave(seed, 60)
    regions = found(charge, padding=1)
    sure = np.array([2.5, 3.0, 3.5])
    kept = np.zeros(len(regions), bool)
    keep_connected(charge, PLANE_OF, sure, regions, kept)
    for i, (row, first, end) in enumerate(regions):
        expected = charge[row, first:end].max() >= sure[PLANE_OF[row]]
        for other, begin, stop in regions:
            together = set(range(first, end)) & set(range(begin, stop))
            expected |= abs(row - other) == 1 and PLANE_OF[row] == PLANE_OF[other] and bool(together)
        assert kept[i] == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.4, 1.0]))
def test_only_low_pieces_of_long_regions_are_lost(seed, probability):
    charge = wave(seed)
    limit, longest, piece = np.array([2.0, 3.0, 0.0]), 12, 5
    regions = found(charge)
    uniforms = np.random.default_rng(seed).random((7, 120 // piece + 1), dtype=np.float32)
    after = charge.copy()
    lose_prolonged(after, regions, PLANE_OF, limit, longest, piece, probability, uniforms)
    expected = charge.copy()
    for row, first, end in regions.tolist():
        for start in range(first, end, piece):
            stop = min(end, start + piece)
            if (
                limit[PLANE_OF[row]] > 0
                and end - first > longest
                and charge[row, start:stop].max() < limit[PLANE_OF[row]]
                and uniforms[row, start // piece] < probability
            ):
                expected[row, start:stop] = 0
    np.testing.assert_array_equal(after, expected)
    if probability == 0:
        np.testing.assert_array_equal(after, charge)


@pytest.fixture(scope="module")
def tpc(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector")).tpc(1)


@pytest.mark.parametrize("slope", [0.2, 8.0])
def test_gaps_hit_prolonged_tracks_on_induction_planes(tpc, slope):
    """A track along the drift loses some of u and v and nothing of w; one across the wires loses nothing."""
    box = box_of(tpc)
    config = SimulationConfig(step_mm=1.0)
    direction = np.array([slope, 0.0, 1.0]) / np.hypot(slope, 1.0)
    share = np.zeros((2, 3))
    for seed in range(3):
        muon = Particle(np.array([30.0, 150.0, 100.0]), direction, 5000.0, MUON_MEV, 0.0, MUON)
        made = propagate(np.random.default_rng(seed), muon, box, config)
        points = made.points[box.contains(made.points[:, :3])]
        for index, gaps in enumerate((0.0, 1.0)):
            response = Response(tpc, config.model_copy(update={"gaps": gaps}))
            charge = response.charge(points)
            total = [charge[plane.column].sum(dtype=np.float64) for plane in tpc.planes]
            out = response.read_out(charge, np.random.default_rng(seed), np.array([], int))
            left = [out[:, plane.column].sum(dtype=np.float64) for plane in tpc.planes]
            share[index] += np.divide(left, total) / 3
    lost = share[0] - share[1]
    assert lost[2] == 0.0
    if slope < 1:
        np.testing.assert_allclose(lost, 0.0, atol=0.005)
    else:
        assert (lost[:2] > 0.05).all()
        assert (share[1] > 0.3).all()


def test_planes_agree_with_the_charge_within_the_noise(tpc):
    """No bias of clipping: over many tracks across the wires each plane's sum is that of the charge within 1.5 %."""
    config, box = SimulationConfig(), box_of(tpc)
    response = Response(tpc, config)
    total, left = np.zeros(3), np.zeros(3)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        muon = Particle(
            np.array([rng.uniform(50, 700), rng.uniform(120, 180), 1.0]), np.array([0.3, 0.1, 0.95]), 5000.0,
            MUON_MEV, 0.0, MUON,
        )  # fmt: skip
        made = propagate(rng, muon, box, config)
        charge = response.charge(made.points[box.contains(made.points[:, :3])])
        total += [charge[plane.column].sum(dtype=np.float64) for plane in tpc.planes]
        out = response.read_out(charge, rng, np.array([], int))
        left += [out[:, plane.column].sum(dtype=np.float64) for plane in tpc.planes]
    np.testing.assert_allclose(left / total, 1.0, atol=0.015)
