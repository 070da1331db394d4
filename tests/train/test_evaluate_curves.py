"""Pooled curves against a slow oracle, torchmetrics and results worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

from train.results.baselines import BASELINES, no_cut, plane_agreement, smallest_charge
from train.results.curves import GHOST, TRUE, UNKNOWN, ScoreCounts


def counted(score, true, limit=1 << 21, parts=1):
    counts = ScoreCounts(limit)
    kind = np.asarray(true, np.uint8)
    for s, k in zip(np.array_split(np.asarray(score, np.float32), parts), np.array_split(kind, parts), strict=True):
        counts.add(s, k)
    return counts


def slow_average_precision(score, true):
    """Walk down the distinct scores, one voxel at a time."""
    n_true, before, total = sum(true), 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        kept = [t for s, t in zip(score, true, strict=True) if s >= threshold]
        total += (sum(kept) / n_true - before) * sum(kept) / len(kept)
        before = sum(kept) / n_true
    return total


voxels = st.lists(st.tuples(st.floats(0, 1, width=16), st.booleans()), min_size=1, max_size=60).filter(
    lambda found: any(true for _, true in found)
)


@given(voxels, st.integers(1, 5))
def test_average_precision_is_that_of_the_definition(found, parts):
    score, true = zip(*found, strict=True)
    curve = counted(score, true, limit=8 if parts > 3 else 100, parts=parts).curve()
    if parts <= 3:
        assert curve.average_precision == pytest.approx(slow_average_precision(score, true), abs=1e-12)
        theirs = binary_average_precision(torch.tensor(score), torch.tensor(true).long())
        assert curve.average_precision == pytest.approx(float(theirs), abs=1e-6)
    assert curve.kept[-1] == len(score)
    assert curve.true[-1] == curve.n_true == sum(true)


def test_by_hand():
    # 0.9 true, 0.8 ghost, 0.7 true and 0.7 ghost, 0.1 true
    curve = counted([0.7, 0.9, 0.1, 0.8, 0.7], [1, 1, 1, 0, 0]).curve()
    assert curve.threshold == pytest.approx([0.9, 0.8, 0.7, 0.1])
    assert curve.kept.tolist() == [1, 2, 4, 5]
    assert curve.purity.tolist() == [1.0, 0.5, 0.5, 0.6]
    assert curve.efficiency == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.average_precision == pytest.approx((1.0 + 0.5 + 0.6) / 3)
    assert curve.best() == 3


def test_perfect_constant_and_reversed_scores():
    true = np.arange(10) < 3
    assert counted(true.astype(float), true).curve().average_precision == 1.0
    assert counted(np.full(10, 0.4), true).curve().average_precision == pytest.approx(0.3)
    worst = counted(np.arange(10.0), true).curve().average_precision
    assert worst == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 3)


def test_nothing_true_and_nothing_at_all():
    curve = counted([0.1, 0.2], [0, 0]).curve()
    assert math.isnan(curve.average_precision)
    assert curve.best() is None
    assert np.isnan(curve.efficiency).all()
    empty = ScoreCounts()
    assert math.isnan(empty.curve().average_precision)
    assert empty.range() == (0.0, 1.0)
    assert len(empty.curve().thinned()) == 0
    assert empty.kept(0.5).tolist() == [0, 0, 0]


def test_unknown_voxels_are_counted_and_take_no_part():
    counts = counted([0.9, 0.8, 0.3, 0.95], [TRUE, GHOST, UNKNOWN, UNKNOWN])
    assert counts.n.tolist() == [1, 1, 2]
    assert counts.curve().average_precision == 1.0
    assert counts.curve().kept.tolist() == [1, 2]
    assert counts.kept(0.8).tolist() == [1, 1, 1]
    assert counts.histogram(np.array([0.0, 0.5, 1.0])).tolist() == [[0, 0, 1], [1, 1, 1]]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_bounded_memory_changes_little(seed):
    rng = np.random.default_rng(seed)
    true = rng.random(5000) < 0.1
    score = 1 / (1 + np.exp(-rng.standard_normal(5000) - 2.0 * true))
    exact, bounded = counted(score, true, parts=7), counted(score, true, limit=500, parts=7)
    assert not exact.bits_cut
    assert bounded.bits_cut
    assert len(bounded.curve().threshold) <= 500
    assert bounded.n.tolist() == exact.n.tolist()
    assert bounded.curve().average_precision == pytest.approx(exact.curve().average_precision, abs=0.02)


def test_negative_scores_keep_their_order_when_cut():
    rng = np.random.default_rng(0)
    score = -rng.random(3000)
    counts = counted(score, np.zeros(3000), limit=300, parts=3)
    assert counts.bits_cut
    curve = counts.curve()
    assert (np.diff(curve.threshold) < 0).all()
    assert abs(int(counts.kept(-0.5)[GHOST]) - int((score >= -0.5).sum())) < 60


def test_thinned_points_keep_both_ends():
    rng = np.random.default_rng(0)
    curve = counted(rng.random(5000), rng.random(5000) < 0.2).curve()
    at = curve.thinned(100)
    assert len(at) <= 102
    assert at[0] == 0
    assert at[-1] == len(curve.threshold) - 1
    assert np.abs(np.diff(curve.efficiency[at])).max() < 0.05


ALL, NO_U, ONLY_W, NONE = 0b111, 0b110, 0b100, 0


@pytest.mark.parametrize(
    ("charge", "live", "agreement", "smallest"),
    [
        ([100, 100, 100], ALL, 0.0, 100),
        ([100, 300, 200], ALL, -0.5, 100),
        ([0, 300, 200], ALL, -1.0, 0),
        ([-50, 300, 200], ALL, -1.0, 0),
        ([0, 300, 300], NO_U, 0.0, 300),
        ([0, 0, 300], ONLY_W, -1.0, 300),
        ([0, 0, 0], ALL, -1.0, 0),
        ([5, 5, 5], NONE, -1.0, 0),
    ],
)
def test_baselines_by_hand(charge, live, agreement, smallest):
    charge, live = np.array([charge], np.float32), np.array([live], np.uint8)
    assert plane_agreement(charge, live).tolist() == [agreement]
    assert smallest_charge(charge, live).tolist() == [smallest]
    assert no_cut(charge, live).tolist() == [0]


def test_baselines_take_an_image_without_voxels_and_one_with_two_planes():
    for cut in BASELINES:
        assert cut.score(np.zeros((0, 3), np.float32), np.zeros(0, np.uint8)).shape == (0,)
        score = cut.score(np.array([[2.0, 6.0]], np.float32), np.array([0b11], np.uint8))
        assert score.dtype == np.float32
        assert np.isfinite(score).all()
