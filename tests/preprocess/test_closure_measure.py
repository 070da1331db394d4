"""The closure test's measures against plain Python, its angles against golden values, its pooling and its words."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.closure.angles import isotropic, theta_xz, theta_yz, track_angles
from preprocess.closure.events import EVENTS, TRACKS, entry
from preprocess.closure.measure import Measured, Truth, measure, truth_on_voxels
from preprocess.closure.responses import RESPONSES, response
from preprocess.closure.rows import Row
from preprocess.closure.show import cells, number, percent, signed, title, where
from preprocess.closure.table import ALL, FLAT, LARGEST_XZ, events_table, is_flat, pooled, verdict
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import Box
from preprocess.testing import small_detector
from preprocess.voxels import Voxels

PLANES = ("u", "v", "w")


def plane(degrees):
    """A plane whose wires' normal stands at ``degrees`` from z towards y."""
    angle = np.radians(degrees)
    return SimpleNamespace(normal=(np.sin(angle), np.cos(angle)))


@pytest.mark.parametrize(
    ("direction", "degrees", "xz", "yz"),
    [
        ((1, 0, 0), 0, 90, 0),  # along the drift
        ((0, 1, 0), 0, 0, 0),  # along vertical wires
        ((0, 0, 1), 0, 0, 90),  # across vertical wires
        ((1, 0, 1), 0, 45, 90),
        ((1, 5, 1), 0, 45, np.degrees(np.arctan(1 / 5))),
        ((-1, -5, 1), 0, 45, np.degrees(np.arctan(1 / 5))),
        ((0, 1, 1), 45, 0, 90),
        ((0, -1, 1), 45, 0, 0),
        ((np.sqrt(3), 0, 1), 0, 60, 90),
        ((1, 0, 1), 60, np.degrees(np.arctan(2)), 30),
    ],
)
def test_angles(direction, degrees, xz, yz):
    direction = np.array(direction, float)
    assert theta_xz(direction, plane(degrees)) == pytest.approx(xz, abs=1e-6)
    if abs(direction[1:]).any():
        assert theta_yz(direction, plane(degrees)) == pytest.approx(yz, abs=1e-6)


def test_angles_of_a_track_are_by_plane(tmp_path):
    tpc = small_detector(tmp_path).tpc(1)
    xz, yz = track_angles(np.array([0.0, 0.0, 1.0]), tpc)
    np.testing.assert_allclose(xz, 0.0)
    np.testing.assert_allclose(yz, [54.3, 54.3, 90.0])
    assert np.isnan(track_angles(None, tpc)).all()


def test_isotropic_directions_have_the_moments_of_a_sphere():
    rng = np.random.default_rng(0)
    found = np.array([isotropic(rng) for _ in range(20_000)])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(3) / 3.0, atol=0.01)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), axis=st.sampled_from([None, 0, 1, 2]))
def test_a_track_enters_through_a_face(seed, axis):
    rng = np.random.default_rng(seed)
    box = Box(np.array([-50.0, 0.0, 10.0]), np.array([30.0, 100.0, 40.0]))
    direction = isotropic(rng) if axis is None else np.eye(3)[axis] * rng.choice([-1.0, 1.0])
    point = box.low + rng.random(3) * box.size
    start = entry(box, point, direction)
    assert box.contains(start[None])[0]
    assert min(np.abs(start - box.low).min(), np.abs(start - box.high).min()) <= 1e-2
    away = point - start
    assert away @ direction >= -1e-2
    assert np.linalg.norm(away - (away @ direction) * direction) <= 1e-2


def voxels_of(rng, n_planes):
    places = [(x, y, z) for x in range(3) for y in range(3) for z in range(2)]
    kept = [place for place in places if rng.random() < 0.5]
    charge = rng.uniform(-100.0, 9000.0, (len(kept), n_planes)).astype(np.float32)
    live = rng.integers(0, 1 << n_planes, len(kept)).astype(np.uint8)
    return Voxels(np.array(kept, np.uint16).reshape(-1, 3), charge, live, 0)


def truth_of_voxels(rng):
    places = [(x, y, z) for x in range(3) for y in range(3) for z in range(2)]
    kept = [place for place in places if rng.random() < 0.5]
    value = rng.uniform(1.0, 10_000.0, len(kept))
    return Truth(np.array(kept, np.uint16).reshape(-1, 3), value, value * rng.uniform(0.5, 1.0, len(kept)), 123.0)


def slow_measure(voxels, truth):
    tiled = {tuple(c): i for i, c in enumerate(voxels.coords.tolist())}
    out = dict.fromkeys(("both", "strong", "strong_found", "charge", "charge_found", "collected"), 0.0)
    ratios = []
    for place, value, collected in zip(truth.coords.tolist(), truth.value, truth.collected, strict=True):
        at = tiled.get(tuple(place))
        out["charge"] += value
        out["collected"] += collected
        out["strong"] += value > 5000
        if at is not None:
            out["both"] += 1
            out["charge_found"] += value
            out["strong_found"] += value > 5000
            if value > 5000:
                row = voxels.charge[at].tolist()
                live = int(voxels.live[at])
                ratios.append([q / collected if live & (1 << p) else None for p, q in enumerate(row)])
    planes = [sum(row[p] for row in voxels.charge.tolist()) for p in range(voxels.charge.shape[1])]
    return out, planes, ratios


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 100_000), n_planes=st.sampled_from([2, 3]))
def test_measure_equals_plain_python(seed, n_planes):
    rng = np.random.default_rng(seed)
    voxels, truth = voxels_of(rng, n_planes), truth_of_voxels(rng)
    found = measure(voxels, truth)
    expected, planes, ratios = slow_measure(voxels, truth)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    assert (found.tiled, found.true, found.charge_outside) == (len(voxels), len(truth.coords), 123.0)
    np.testing.assert_allclose(found.plane_charge, planes, rtol=1e-6, atol=1e-2)
    assert found.voxel_ratio.shape == (len(ratios), n_planes)
    wanted = np.array(ratios, float).reshape(-1, n_planes)  # None becomes NaN
    np.testing.assert_allclose(found.voxel_ratio, wanted, rtol=1e-5)


def test_truth_counts_what_is_collected_and_what_is_outside(tmp_path):
    tpc = small_detector(tmp_path).tpc(1)
    x = tpc.frame.anode_x_mm + tpc.frame.drift_sign * np.array([156.5, 156.5, 313.0, 313.0])
    deposits = np.column_stack([x, np.full(4, 101.0), np.full(4, 51.0), [0, 0, 0, 1e6], [100.0, 200.0, 400.0, 7.0]])
    truth = truth_on_voxels(tpc, deposits, SimulationConfig(lifetime_us=1000.0))
    # t0 is −50 µs and a tick 0.5 µs: 100 µs of drift arrive at tick 300, 200 µs at 500; the last comes too late.
    np.testing.assert_array_equal(truth.coords, [[37, 12, 6], [62, 12, 6]])
    np.testing.assert_allclose(truth.value, [300.0, 400.0])
    np.testing.assert_allclose(truth.collected, [300.0 * np.exp(-0.1), 400.0 * np.exp(-0.2)], rtol=1e-6)
    assert truth.outside == pytest.approx(7.0)
    np.testing.assert_allclose(
        truth_on_voxels(tpc, deposits, SimulationConfig(lifetime_us=None)).collected, truth.value
    )


def row(theta, measured, sample=TRACKS, foreign=0.0, **changes):
    about = {"response": "default", "threshold": 1.0, "dead": 0.0} | changes
    angles = np.full(3, np.nan) if theta is None else np.array(theta, float)
    place = {"tpc": 1, "sample": sample, "number": 0, "theta_xz": angles, "theta_yz": 90.0 - angles}
    return Row(**place, foreign=np.array([foreign, 0.0, 0.0]), measured=measured, **about)


def measured(found=9, true=10, tiled=40, planes=(900.0, 1000.0, 1100.0)):
    ratios = np.full((found, 3), 0.5, np.float32)
    ratios[:, 2] = np.nan
    return Measured(
        tiled, true, found, true, found, 100.0 * true, 100.0 * found, 50.0, 1000.0, np.array(planes), ratios
    )


def test_pooling_adds_counts_not_ratios():
    rows = [row((10, 20, 30), measured()), row((10, 20, 30), measured(found=90, true=90, tiled=10_000))]
    rows += [row((10, 80, 30), measured(found=0)), row(None, measured(), EVENTS)]
    table = pooled(rows, PLANES)
    flat = table[table.apply(is_flat, axis=1)].iloc[0]
    assert flat["events"] == 2
    assert flat["charge"] == pytest.approx(99 / 100)
    assert flat["strong"] == pytest.approx(99 / 100)
    assert flat["purity"] == pytest.approx(99 / 10_040)
    assert flat["purity_median"] == pytest.approx((9 / 40 + 90 / 10_000) / 2)
    assert flat["per_true"] == pytest.approx(10_040 / 100)
    assert flat["outside"] == pytest.approx(100 / (100 + 10_000))
    assert flat["bias_u"] == pytest.approx(-0.1)
    assert flat["spread_u"] == pytest.approx(0.0, abs=1e-12)
    assert flat["voxel_u"] == pytest.approx(0.5)
    assert np.isnan(flat["voxel_w"])
    everything = table[(table["sample"] == TRACKS) & (table["angle"] == ALL)].iloc[0]
    assert everything["events"] == 3
    assert everything["charge"] == pytest.approx(99 / 110)
    events = table[table["sample"] == EVENTS]
    assert list(events["angle"]) == [ALL]
    steep = table[(table["angle"] == "θ_xz of v") & (table["low"] == 75)]
    assert list(steep["events"]) == [1]
    one_by_one = events_table(rows, PLANES)
    assert len(one_by_one) == 4
    assert one_by_one["charge_w"].tolist() == [1100.0] * 4


@settings(max_examples=50, deadline=None)
@given(theta=st.lists(st.tuples(*[st.floats(0, 90)] * 3), min_size=1, max_size=12))
def test_every_track_is_in_one_bin_of_each_angle(theta):
    table = pooled([row(angles, measured()) for angles in theta], PLANES)
    narrow = table[table["high"] - table["low"] == 15.0]
    for angle, lines in narrow.groupby("angle"):
        assert lines["events"].sum() == len(theta), angle
    wide = table[(table["angle"] == LARGEST_XZ) & (table["high"] - table["low"] > 15.0)]
    assert dict(zip(wide["low"], wide["events"], strict=True)).get(0.0, 0) == sum(max(t) < FLAT for t in theta)
    assert wide["events"].sum() == len(theta)


def test_the_verdict_names_what_is_missed():
    def judge(sample=TRACKS, angle=LARGEST_XZ, **changes):
        table = pooled([row((10, 20, 30), measured(found=10), sample, **changes)], PLANES)
        return verdict(table[table["angle"] == angle].iloc[0], PLANES)

    assert judge() == "met"
    assert judge(angle=ALL) == ""
    assert judge(dead=0.05) == ""
    assert judge(angle=ALL, response="smear") == "missed: plane u, plane w"
    assert judge(angle=ALL, response="smear", foreign=50.0) == "missed: plane w"
    assert judge(angle=ALL, response="smear", threshold=100.0) == ""
    short = pooled([row((10, 20, 30), measured(found=9, tiled=1000))], PLANES)
    assert verdict(short[short.apply(is_flat, axis=1)].iloc[0], PLANES) == "missed: charge, strong, purity"


def test_nothing_tiled_and_nothing_true_are_shown_as_unknown():
    empty = Measured(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, np.zeros(3), np.empty((0, 3), np.float32))
    line = pooled([row(None, empty)], PLANES).iloc[0]
    shown = cells(line, PLANES)
    assert shown[:3] == ["all", "1", "–"]
    assert not any("nan" in cell for cell in shown)


def test_numbers_as_they_are_shown():
    assert percent(0.999999, 2) == "99.99 %"
    assert percent(1.0, 2) == "100.00 %"
    assert percent(0.03149, 2) == "3.15 %"
    assert signed(-0.0123) == "−1.23"
    assert signed(-0.00001) == "0.00"
    assert number(np.nan, 1) == "–"
    assert title((TRACKS, "default", 100.0, 0.05)).endswith("threshold 100 e a tick, 5 % of the channels dead")
    flat = pooled([row((10, 20, 30), measured())], PLANES)
    assert where(flat[flat.apply(is_flat, axis=1)].iloc[0]) == "θ_xz < 60° in all planes"


def test_responses_go_from_nothing_to_the_settings():
    config = SimulationConfig(dead_channels=0.1)
    assert response("default", config) == config
    for name in RESPONSES[:-1]:
        made = response(name, config)
        assert SimulationConfig.model_validate(made.model_dump()) == made
        assert made.noise == (0.0, 0.0, 0.0)
        assert made.dead_channels == 0.0
    assert response("smear", config).smear_ticks == config.smear_ticks
    assert response("diffusion", config).smear_ticks == (0.0, 0.0, 0.0)
    assert response("diffusion", config).diffusion_l_cm2_s == config.diffusion_l_cm2_s
    assert response("none", config).diffusion_l_cm2_s == 0.0
