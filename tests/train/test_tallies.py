"""Sums over events with their bootstrap: weights, parts that add up, intervals that hold what they should."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore.errors import ConfigError
from train.results.score_bins import AGREEMENT, CHARGE, ONE, SCORE, SCORE_FEW
from train.results.score_tally import CHARGE as PLANES
from train.results.score_tally import COUNT, TRUTH, ScoreTally
from train.results.score_tally import SCORE as SCORES
from train.results.tallies import EventWeights, Tally, interval

FIRST_WEIGHTS = [1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 2.0, 3.0]


def test_weights_belong_to_seed_file_and_event_alone():
    a, b = EventWeights(50, seed=3), EventWeights(50, seed=3)
    b.of((9, 9))
    keys = [(1, 0), (0, 1), (1, 1), (2**40, 5), (-1, 0)]
    assert (a(keys) == b(list(reversed(keys)))[:, ::-1]).all()
    assert (a(keys)[0] == 1).all()
    different = [a.of(key) for key in keys] + [EventWeights(50, seed=4).of((1, 0))]
    assert len({tuple(each) for each in different}) == len(different)
    assert (EventWeights(20, seed=3).of((1, 0)) == a.of((1, 0))[:21]).all(), "fewer replicas are the first ones"


def test_weights_stay_what_they_were():
    # Intervals of a published table must come out again with any version of numpy.
    assert EventWeights(12, seed=7).of((701, 3)).tolist() == FIRST_WEIGHTS


def test_weights_are_poisson_with_mean_1_and_independent():
    weights = EventWeights(400, seed=0)([(file, event) for file in range(20) for event in range(10)])[1:]
    n = weights.size
    for k in range(5):
        expected = math.exp(-1) / math.factorial(k)
        assert abs((weights == k).mean() - expected) < 5 * math.sqrt(expected / n)
    assert abs(weights.mean() - 1) < 5 / math.sqrt(n)
    centred = weights - 1
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 5 / math.sqrt(n)


def test_a_seed_or_a_number_below_0_is_refused():
    with pytest.raises(ConfigError, match=r"bootstrap = -1\. Fix: 0 or more"):
        EventWeights(-1)
    with pytest.raises(ConfigError, match=r"seed = -2"):
        EventWeights(1, -2)


events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.lists(st.integers(0, 9), min_size=3, max_size=3)),
    min_size=1,
    max_size=150,
)


@settings(max_examples=25, deadline=None)
@given(events, st.integers(0, 150))
def test_sums_are_those_of_the_weighted_events_in_any_parts(found, cut):
    weights = EventWeights(10, seed=1)
    whole, first, second = (Tally((3,), weights) for _ in range(3))
    slow = np.zeros((11, 3))
    for i, (file, event, values) in enumerate(found):
        whole.add((file, event), values)
        (first if i < cut else second).add((file, event), values)
        slow += np.outer(weights.of((file, event)), values)
    assert whole.sums == pytest.approx(slow)
    first.merge(second)
    assert first.sums == pytest.approx(slow)


def test_tallies_that_do_not_belong_together_are_not_merged():
    mine = Tally((3,), EventWeights(10, 1))
    for other in (Tally((4,), EventWeights(10, 1)), Tally((3,), EventWeights(10, 2)), Tally((3,), EventWeights(9, 1))):
        with pytest.raises(ConfigError, match="Fix: the same for both"):
            mine.merge(other)


def test_interval_is_that_of_a_bootstrap_with_replacement():
    rng = np.random.default_rng(0)
    n, k = 150, rng.poisson(30, 150).astype(float)
    kept = rng.binomial(k.astype(int), rng.beta(8, 2, 150)).astype(float)
    tally = Tally((2,), EventWeights(2000, seed=5))
    for event in range(n):
        tally.add((0, event), [kept[event], k[event]])
    low, high = interval(tally.sums[:, 0] / tally.sums[:, 1])
    drawn = rng.integers(n, size=(2000, n))
    ratios = kept[drawn].sum(1) / k[drawn].sum(1)
    expected = np.quantile(ratios, [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0]))
    assert low < kept.sum() / k.sum() < high


def test_paired_differences_are_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 100)  # what all methods share
    a, b = (Tally((1,), EventWeights(500, seed=0)) for _ in range(2))
    for event in range(100):
        a.add((event, 0), [10 + hard[event] + 0.01 * rng.normal()])
        b.add((event, 0), [9.9 + hard[event] + 0.01 * rng.normal()])
    n = Tally((1,), EventWeights(500, seed=0))
    for event in range(100):
        n.add((event, 0), [1])
    mean_a, mean_b = a.sums[:, 0] / n.sums[:, 0], b.sums[:, 0] / n.sums[:, 0]
    low, high = interval(mean_a - mean_b)
    assert 0.09 < low < high < 0.11
    assert interval(mean_a)[1] - interval(mean_a)[0] > 0.2


def test_interval_without_replicas_or_value():
    assert all(map(math.isnan, interval(np.array([0.5]))))
    assert all(map(math.isnan, interval(np.array([np.nan, 0.1, 0.2]))))
    assert all(map(math.isnan, interval(np.array([0.5, np.nan, np.nan, 0.2]))))
    assert interval(np.array([0.5, 0.4, 0.5, np.nan])) == pytest.approx((0.4025, 0.4975))


def test_one_event_has_no_interval():
    tally = Tally((2,), EventWeights(50))
    tally.add((1, 2), [3.0, 7.0])
    counted = tally.sums[:, 1] > 0
    ratios = np.divide(tally.sums[:, 0], tally.sums[:, 1], out=np.full(51, np.nan), where=counted)
    assert all(map(math.isnan, interval(ratios)))
    assert interval(np.ones(20)) == (1.0, 1.0), "all kept in any choice of events"
    assert interval(np.zeros(20)) == (0.0, 0.0)


@pytest.mark.parametrize("bins", [SCORE, CHARGE, AGREEMENT, ONE])
def test_bins_keep_the_order_of_scores(bins):
    assert (np.diff(bins.edges.astype(float)) > 0).all()
    scores = np.sort(np.concatenate([np.random.default_rng(0).normal(0, 2, 500), bins.edges]).astype(np.float32))
    at = bins.index(scores)
    assert (np.diff(at) >= 0).all()
    assert at.min() >= 0
    assert at.max() < bins.n
    assert (bins.thresholds[at] <= scores).all()


def test_usual_cuts_are_exact_and_voxels_without_charge_apart():
    score = np.random.default_rng(0).random(2000).astype(np.float32)
    score[:9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for cut in score[:9]:
        assert ((SCORE.index(score) >= SCORE.at(float(cut))) == (score >= cut)).all()
    assert CHARGE.index(np.array([-5, 0, 1e-30, 9, 10.1, 1e9], np.float32)).tolist() == [0, 0, 1, 1, 2, CHARGE.n - 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_cells_are_those_of_a_loop(seed, n):
    rng = np.random.default_rng(seed)
    strata = {"tpc": ["1", "5"], "particle": ["mu", "e", "p"]}
    tally = ScoreTally(SCORE_FEW, 4, EventWeights(3), strata)
    score, kind = rng.random(n).astype(np.float32), rng.integers(0, 4, n)
    truth = np.where(rng.random(n) < 0.2, np.nan, rng.gamma(1, 5000, n))
    charge = rng.normal(100, 200, n)
    codes = {"particle": rng.integers(-1, 3, n).astype(np.int16), "tpc": rng.integers(-1, 2, n).astype(np.int16)}
    tally.add_event((4, 2), score, kind, truth, charge, codes)
    slow = np.zeros((6, 4, SCORE_FEW.n, 4))
    for i in range(n):
        values = np.zeros(4)
        values[[COUNT, SCORES, TRUTH, PLANES]] = [1, score[i], np.nan_to_num(truth[i]), max(charge[i], 0)]
        rows = [0]
        rows += [1 + codes["tpc"][i]] if codes["tpc"][i] >= 0 else []
        rows += [3 + codes["particle"][i]] if codes["particle"][i] >= 0 else []
        slow[rows, kind[i], int((SCORE_FEW.edges <= score[i]).sum())] += values
    assert tally.sums[0] == pytest.approx(slow)
    assert tally.labels == [("", "all"), ("tpc", "1"), ("tpc", "5"), *(("particle", p) for p in ("mu", "e", "p"))]
    with pytest.raises(ConfigError, match=r"strata \['tpc'\].*Fix: codes of these kinds"):
        tally.cells(score, kind, truth, charge, {"tpc": codes["tpc"]})


def test_memory_does_not_grow_with_the_events():
    tally = ScoreTally(SCORE_FEW, 5, EventWeights(50))
    rng = np.random.default_rng(0)
    score, kind, truth = rng.random(50).astype(np.float32), rng.integers(0, 5, 50), rng.gamma(1, 5000, 50)

    def run(first, last):
        for event in range(first, last):
            tally.add_event((0, event), score, kind, truth, truth)

    run(0, 100)
    tracemalloc.start()
    run(100, 130)
    before = tracemalloc.get_traced_memory()[0]
    run(130, 1200)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert tally.sums[0, 0, ..., COUNT].sum() == 1200 * 50
    assert grown < 2_000_000  # the weights of 1,024 events
