"""Metrics of results against slow twins, torchmetrics and results worked out by hand; their states add."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import classification
from torchmetrics.functional.classification import binary_average_precision

from larstore.errors import ConfigError
from train.objective.metrics import Metrics
from train.results.metrics.calibration import CalibrationError
from train.results.metrics.charge import ChargeBias, ChargeHalfWidth, ChargeResolution
from train.results.metrics.curves_of_bins import (
    BestCut,
    EventAveragePrecision,
    PooledAveragePrecision,
    PurityEfficiencyCurve,
    average_precision,
    best_cut,
    mixed_average_precision,
)
from train.results.metrics.cuts import Efficiency, IntersectionOverUnion, Purity
from train.results.score_bins import SCORE, SCORE_FEW
from train.schema import NamedSection

voxel = st.tuples(st.integers(0, 100).map(lambda k: k / 100), st.booleans(), st.floats(0.0, 10.0, width=32))
voxels = st.lists(voxel, min_size=1, max_size=50)


def columns(found):
    score, true, weight = zip(*found, strict=True)
    return torch.tensor(score), torch.tensor(true).long(), torch.tensor(weight)


def taken_in(metric, *arrays, parts=1, **more):
    for part in zip(*(torch.tensor_split(array, parts) for array in arrays), strict=True):
        metric.update(*part, **more)
    return metric


def slow_curve(found):
    """(threshold, purity, efficiency) of the distinct scores, weighted, highest first."""
    whole = sum(w for _, true, w in found if true)
    points = []
    for threshold in sorted({s for s, _, _ in found}, reverse=True):
        kept = [(t, w) for s, t, w in found if s >= threshold]
        true, everything = sum(w for t, w in kept if t), sum(w for _, w in kept)
        points.append((threshold, true / everything if everything else 0.0, true / whole if whole else math.nan))
    return points


@settings(max_examples=25, deadline=None)
@given(voxels, st.integers(1, 4))
def test_pooled_average_precision(found, parts):
    score, true, weight = columns(found)
    value = float(taken_in(PooledAveragePrecision(), score, true, parts=parts).compute())
    weighted = float(taken_in(PooledAveragePrecision(), score, true, weight, parts=parts).compute())
    for got, each in ((value, [(s, t, 1.0) for s, t, _ in found]), (weighted, found)):
        if not sum(w for _, t, w in each if t):
            assert math.isnan(got)
            continue
        before, expected = 0.0, 0.0
        for _, purity, efficiency in slow_curve(each):
            expected, before = expected + (efficiency - before) * purity, efficiency
        assert got == pytest.approx(expected, abs=1e-9)
    if true.any():
        assert value == pytest.approx(float(binary_average_precision(score, true)), abs=1e-6)
        edges = torch.from_numpy(SCORE.edges[(SCORE.edges >= 0) & (SCORE.edges <= 1)])
        theirs = classification.BinaryAveragePrecision(thresholds=edges)
        assert value == pytest.approx(float(theirs(score, true)), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(voxels)
def test_curve_and_best_cut(found):
    score, true, _ = columns(found)
    thresholds, purity, efficiency = taken_in(PurityEfficiencyCurve(), score, true).compute()
    points = slow_curve([(s, t, 1.0) for s, t, _ in found])
    for threshold, p, e in points:
        at = int(np.searchsorted(thresholds.numpy().astype(np.float32), np.float32(threshold), side="right")) - 1
        assert float(purity[at]) == pytest.approx(p)
        assert float(efficiency[at]) == pytest.approx(e, nan_ok=True)
    threshold, p, e = taken_in(BestCut(), score, true).compute()
    if true.any():
        assert float(p + e) == pytest.approx(max(p + e for _, p, e in points))
        kept = [t for s, t, _ in found if np.float32(s) >= np.float32(threshold)]
        assert float(p) == pytest.approx(sum(kept) / len(kept))


@settings(max_examples=25, deadline=None)
@given(st.lists(voxels, min_size=1, max_size=5))
def test_event_average_precision(events):
    metric = EventAveragePrecision()
    expected = []
    for found in events:
        score, true, _ = columns(found)
        metric.update(score, true)
        if true.any():
            expected.append(float(binary_average_precision(score, true)))
    assert float(metric.compute()) == pytest.approx(np.mean(expected) if expected else math.nan, abs=1e-6, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(voxels, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 5), st.integers(1, 3))
def test_purity_efficiency_and_iou(found, cut, missed, parts):
    score, true, weight = columns(found)
    kept = [(t, w) for s, t, w in found if s >= cut]

    def expect(metric, part, whole, *arrays, **more):
        value = float(taken_in(metric, score, true, *arrays, parts=parts, **more).compute())
        assert value == pytest.approx(part / whole if whole else math.nan, nan_ok=True)

    n_true, n_kept = sum(t for _, t, _ in found), sum(t for t, _ in kept)
    expect(Purity(cut), n_kept, len(kept))
    expect(Efficiency(cut), n_kept, n_true)
    expect(Efficiency(cut, "all"), n_kept, n_true + parts * missed, missed=missed)
    expect(IntersectionOverUnion(cut), n_kept, len(kept) + n_true - n_kept)
    charge, held = sum(w for _, t, w in found if t), sum(w for t, w in kept if t)
    expect(Purity(cut), held, sum(w for _, w in kept), weight)
    expect(Efficiency(cut), held, charge, weight)


def test_cuts_are_those_of_torchmetrics_where_it_has_them():
    torch.manual_seed(0)
    score, true = torch.rand(500), (torch.rand(500) < 0.3).long()
    pairs = [
        (Purity(0.4), classification.BinaryPrecision(threshold=0.4)),
        (Efficiency(0.4), classification.BinaryRecall(threshold=0.4)),
        (IntersectionOverUnion(0.4), classification.BinaryJaccardIndex(threshold=0.4)),
        (CalibrationError(15), classification.BinaryCalibrationError(n_bins=15, norm="l1")),
    ]
    for ours, theirs in pairs:
        assert float(taken_in(ours, score, true, parts=3).compute()) == pytest.approx(
            float(theirs(score, true)), abs=1e-5
        )


def test_a_wrong_denominator_and_no_bin():
    with pytest.raises(ConfigError, match=r"denominator 'none'\. Fix: one of tiled, all"):
        Efficiency(0.5, "none")
    with pytest.raises(ConfigError, match="n_bins = 0"):
        CalibrationError(0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60), st.integers(1, 9))
def test_calibration_error(found, n_bins):
    score, true = (torch.tensor(column) for column in zip(*found, strict=True))
    metric = taken_in(CalibrationError(n_bins), score, true.long(), parts=2)
    expected = 0.0
    for i in range(n_bins):
        inside = [(s, t) for s, t in found if min(int(s * n_bins), n_bins - 1) == i]
        expected += abs(sum(s for s, _ in inside) - sum(t for _, t in inside)) / len(found)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)
    mean, fraction, count = metric.curve()
    assert int(count.sum()) == len(found)
    some = count > 0
    assert float((mean[some] * count[some]).sum()) == pytest.approx(sum(s for s, _ in found))
    assert float((fraction[some] * count[some]).sum()) == pytest.approx(sum(t for _, t in found))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_charge_bias_and_resolution(seed, parts):
    rng = np.random.default_rng(seed)
    reference = rng.gamma(2, 4000, 4000)
    reference[:100] = 0.0  # ghosts
    ratio = rng.normal(0.8, 0.2, 4000) if seed % 2 else rng.lognormal(0.5, 0.6, 4000)
    estimate = torch.from_numpy(ratio * reference)
    some = np.clip(ratio[reference > 0], 0, 100)
    low, middle, high = np.quantile(some, [0.16, 0.5, 0.84])
    arrays = (estimate, torch.from_numpy(reference))
    tolerance = 0.012 if high < 3 else 0.3
    assert float(taken_in(ChargeBias(), *arrays, parts=parts).compute()) == pytest.approx(middle - 1, abs=0.012)
    assert float(taken_in(ChargeHalfWidth(), *arrays).compute()) == pytest.approx((high - low) / 2, abs=tolerance)
    assert float(taken_in(ChargeResolution(), *arrays).compute()) == pytest.approx(
        (high - low) / 2 / middle, abs=tolerance / middle
    )


def test_charge_ends():
    metric = ChargeBias(least=5000.0)
    metric.update(torch.tensor([8000.0, 1.0]), torch.tensor([10_000.0, 5000.0]))
    assert float(metric.compute()) == pytest.approx(-0.2, abs=0.01)
    below = ChargeBias()
    below.update(torch.tensor([-5.0, -1.0]), torch.tensor([1.0, 1.0]))
    assert float(below.compute()) == -1.0
    above = ChargeBias()
    above.update(torch.tensor([1e9]), torch.tensor([1.0]))
    assert float(above.compute()) == 99.0


def test_functions_take_leading_axes():
    true, ghost = torch.rand(3, 2, 7).double(), torch.rand(3, 2, 7).double()
    whole = average_precision(true, ghost)
    assert whole.shape == (3, 2)
    assert float(whole[2, 1]) == pytest.approx(float(average_precision(true[2, 1], ghost[2, 1])))
    assert best_cut(true, ghost)[1, 0] == best_cut(true[1, 0], ghost[1, 0])


def test_histograms_tell_the_average_precision_of_a_continuous_score():
    rng = np.random.default_rng(0)
    true = rng.random(60_000) < 0.05
    score = (1 / (1 + np.exp(3 - 3 * true - rng.standard_normal(60_000)))).astype(np.float32)
    score[rng.random(60_000) < 0.2] = 0.0  # as a network that is sure, and in both classes
    exact = float(binary_average_precision(torch.from_numpy(score), torch.from_numpy(true).long()))
    for bins, tolerance in ((SCORE, 2e-4), (SCORE_FEW, 4e-3)):
        counts = [np.bincount(bins.index(score[chosen]), minlength=bins.n).astype(float) for chosen in (true, ~true)]
        arrays = [torch.from_numpy(each) for each in counts]
        mixed = float(mixed_average_precision(*arrays, torch.from_numpy(bins.tied)))
        assert mixed == pytest.approx(exact, abs=tolerance)
        assert abs(mixed - exact) < abs(float(average_precision(*arrays)) - exact)


def test_evenly_mixed_by_hand():
    # 2 of 4 at the top; then 1 true and 1 ghost: purity from 1/2 over 2 of 4 … to 3/6, so 1/2 all the way.
    true, ghost, untied = torch.tensor([1.0, 2]), torch.tensor([1.0, 2]), torch.zeros(2, dtype=torch.bool)
    assert float(mixed_average_precision(true, ghost, untied)) == pytest.approx(0.5)
    # One true voxel, then one ghost per further one: the mean of (1 + x) / (1 + 2 x) is 1/2 + ln 3 / 4.
    true, ghost = torch.tensor([1.0, 1]), torch.tensor([1.0, 0])
    assert float(mixed_average_precision(true, ghost, untied)) == pytest.approx((1 + 0.5 + math.log(3) / 4) / 2)
    assert float(mixed_average_precision(true, ghost, ~untied)) == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(float(mixed_average_precision(torch.zeros(2), ghost, untied)))


def test_best_cut_by_hand():
    # ghost, true, both, true: from the second bin on purity 3/4, efficiency 1; from the last 1 and 1/3.
    true, ghost = torch.tensor([0.0, 1, 1, 1]), torch.tensor([1.0, 0, 1, 0])
    assert int(best_cut(true, ghost)) == 1
    assert int(best_cut(torch.tensor([1.0, 1]), torch.tensor([0.0, 0]))) == 0
    assert int(best_cut(torch.zeros(3), torch.ones(3))) == 2


def test_in_the_metrics_of_a_training():
    def make(name, **arguments):
        return Metrics({"x": NamedSection.model_validate({"name": name} | arguments)})

    torch.manual_seed(0)
    truth = torch.where(torch.rand(400, 1) < 0.3, 1 + torch.rand(400, 1), 0.0)
    charge, weight = 0.8 * truth * (1 + 0.1 * torch.randn(400, 1)), (torch.rand(400, 1) < 0.9).float()
    charge[weight == 0] = 99.0
    for name, expected in (("ChargeBias", -0.2), ("ChargeHalfWidth", 0.08), ("ChargeResolution", 0.1)):
        metrics = make(name)
        for part in (slice(0, 100), slice(100, 400)):
            metrics.update(charge[part], truth[part], weight[part])
        assert metrics.compute()["x"] == pytest.approx(expected, abs=0.02)
        assert math.isnan(metrics.compute()["x"]), "starts afresh"
    score = torch.rand(400, 1)
    ours, theirs = make("PooledAveragePrecision"), make("AveragePrecision")
    for metrics in (ours, theirs):
        metrics.update(score, truth, weight)
    assert ours.compute()["x"] == pytest.approx(theirs.compute()["x"], abs=0.01)
    section = {"x": NamedSection.model_validate({"name": "PooledAveragePrecision"})}
    assert Metrics(section, constant_memory=True).metrics, "computed for training, too"
    with pytest.raises(ConfigError, match=r"bins is no argument of PooledAveragePrecision"):
        make("PooledAveragePrecision", bins=3)
    with pytest.raises(ConfigError, match=r"'ChargeBais' is unknown. Fix: .*ChargeBias"):
        make("ChargeBais")


def following(states, tensor, group):
    """Instead of what other processes would send."""
    return next(states)


def test_states_of_several_processes_add_up():
    torch.manual_seed(0)
    score, true = torch.rand(300), (torch.rand(300) < 0.4).long()
    for make in (PooledAveragePrecision, Purity, Efficiency, IntersectionOverUnion, CalibrationError, BestCut):
        whole, *parts = (make(sync_on_compute=False) for _ in range(3))
        whole.update(score, true)
        for part, chosen in zip(parts, (slice(0, 70), slice(70, 300)), strict=True):
            part.update(score[chosen], true[chosen])
        gathered = iter([[part.metric_state[name] for part in parts] for name in parts[0].metric_state])
        parts[0].sync(dist_sync_fn=partial(following, gathered), distributed_available=lambda: True)
        assert torch.equal(torch.as_tensor(parts[0].compute()), torch.as_tensor(whole.compute()))
