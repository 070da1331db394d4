"""The 2021 measure against a twin that walks through its definition voxel by voxel, and results worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.results.sp_area import THRESHOLDS, SpCurve

voxel = st.tuples(
    st.one_of(
        st.floats(0, 1, width=32), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]).map(lambda s: float(np.float32(s)))
    ),
    st.sampled_from([0.0, 1200.0, 4999.0, 5000.0, 20_000.0, math.nan]),
)
events = st.lists(st.lists(voxel, max_size=25), min_size=1, max_size=4)


def slow_area(found, least):
    """One event, one threshold, one voxel at a time."""
    efficiencies, purities = [], []
    for t in (k * 0.02 for k in range(50)):
        efficiency, purity = [], []
        for image in found:
            image = [(s, y) for s, y in image if not math.isnan(y)]
            n_true = sum(y >= least for _, y in image)
            kept = [y >= least for s, y in image if s > t]
            efficiency.append(sum(kept) / n_true if n_true else 1.0)
            purity.append(sum(kept) / len(kept) if kept else 1.0)
        efficiencies.append(sum(efficiency) / len(found))
        purities.append(sum(purity) / len(found))
    total = 0.0
    for k in range(50):
        after = efficiencies[k + 1] if k < 49 else 0.0
        total += (efficiencies[k] - after) * purities[k]
    return total


@given(events, st.sampled_from([1000.0, 5000.0]))
def test_is_that_of_the_definition(found, least):
    curve = SpCurve(least)
    for image in found:
        score, truth = (np.array(column, np.float32) for column in zip(*image, strict=True)) if image else (
            np.zeros(0, np.float32), np.zeros(0, np.float32))  # fmt: skip
        alone = curve.add(score, truth)
        assert alone == pytest.approx(slow_area([image], least), abs=1e-9)
    assert curve.area == pytest.approx(slow_area(found, least), abs=1e-9)


def test_by_hand():
    curve = SpCurve()
    # One true voxel at 0.9, one at 0.5, a ghost at 0.7: below 0.5 all three are kept, then one of each, then the best.
    area = curve.add(np.array([0.9, 0.5, 0.7], np.float32), np.array([6e3, 5e3, 4e3], np.float32))
    assert area == pytest.approx(0.5 * 2 / 3 + 0.5 * 1.0)
    assert curve.efficiency[[0, 24, 25, 44, 45]] == pytest.approx([1, 1, 0.5, 0.5, 0])
    assert curve.purity[[0, 24, 25, 35, 45]] == pytest.approx([2 / 3, 2 / 3, 0.5, 1, 1])


def test_no_cut_has_the_purity_of_the_event_and_perfect_scores_have_1():
    truth = np.array([6e3, 0, 0, 0], np.float32)
    assert SpCurve().add(np.ones(4, np.float32), truth) == pytest.approx(0.25)
    assert SpCurve().add((truth > 0).astype(np.float32), truth) == 1.0


def test_every_event_weighs_the_same():
    # Pooled voxels would give the large event nine tenths of the weight.
    curve = SpCurve()
    curve.add(np.ones(10, np.float32), np.full(10, 6e3, np.float32))
    curve.add(np.ones(2, np.float32), np.array([6e3, 0], np.float32))
    assert curve.area == pytest.approx((1.0 + 0.5) / 2)
    assert len(THRESHOLDS) == 50
    assert math.isnan(SpCurve().area)
