"""The batches of an epoch, computed from voxel counts alone: nothing lost, nothing twice, the same for all."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from larstore.errors import ConfigError
from train.streaming.batches import (
    assigned,
    cut_batches,
    epoch_order,
    fingerprint,
    image_runs,
    local_batches,
    within_budget,
)

counts = st.lists(st.integers(0, 5000), min_size=1, max_size=60).map(lambda values: np.array(values, np.int64))
budgets = st.tuples(st.none() | st.integers(1, 9), st.none() | st.integers(5000, 20_000))


def plan_of(voxels, seed, epoch, budget, window=3):
    order = epoch_order(voxels, seed=seed, epoch=epoch, window=window, run_voxels=4000)
    return cut_batches(order, voxels, batch_size=budget[0], max_voxels=budget[1])


@given(counts, st.integers(0, 9), st.integers(0, 9), budgets)
def test_every_image_once_and_within_the_budget(voxels, seed, epoch, budget):
    plan = plan_of(voxels, seed, epoch, budget)
    assert sorted(np.concatenate([plan[b] for b in range(len(plan))]).tolist()) == list(range(len(voxels)))
    for b in range(len(plan)):
        assert len(plan[b]) >= 1
        assert budget[0] is None or len(plan[b]) <= budget[0]
        assert budget[1] is None or voxels[plan[b]].sum() <= budget[1]


@given(counts, budgets)
def test_batches_are_as_large_as_the_budget_allows(voxels, budget):
    plan = cut_batches(np.arange(len(voxels)), voxels, batch_size=budget[0], max_voxels=budget[1])
    for b in range(len(plan) - 1):
        first_of_next = plan[b + 1][0]
        too_many = budget[0] is not None and len(plan[b]) == budget[0]
        too_large = budget[1] is not None and voxels[plan[b]].sum() + voxels[first_of_next] > budget[1]
        assert too_many or too_large


@given(counts, st.integers(1, 3000))
def test_images_over_the_budget_fail_or_are_left_out_or_planned_smaller(voxels, max_voxels):
    over = int((voxels > max_voxels).sum())
    kept, planned = within_budget(voxels, max_voxels, "skip", "s.zarr")
    assert kept.tolist() == [i for i, n in enumerate(voxels.tolist()) if n <= max_voxels]
    assert planned[kept].tolist() == voxels[kept].tolist()
    kept, planned = within_budget(voxels, max_voxels, "crop", "s.zarr")
    assert kept.tolist() == list(range(len(voxels)))
    assert planned.tolist() == [min(n, max_voxels) for n in voxels.tolist()]
    if over:
        with pytest.raises(ConfigError, match=f"s.zarr: {over} of {len(voxels)} images exceed.*skip or crop"):
            within_budget(voxels, max_voxels, "fail", "s.zarr")
    else:
        assert len(within_budget(voxels, max_voxels, "fail", "s.zarr")[0]) == len(voxels)


@given(counts, st.integers(1, 8000))
def test_runs_span_a_chunk_and_no_more_images_than_needed(voxels, run_voxels):
    starts = image_runs(voxels, run_voxels)
    assert starts[0] == 0
    assert starts[-1] == len(voxels)
    for a, b in itertools.pairwise(starts.tolist()):
        assert b > a
        assert voxels[a : b - 1].sum() < run_voxels
        assert b == len(voxels) or voxels[a:b].sum() >= run_voxels


@given(counts, st.integers(0, 5), st.integers(1, 4))
def test_a_run_stays_together_and_windows_hold_what_they_say(voxels, seed, window):
    order = epoch_order(voxels, seed=seed, epoch=0, window=window, run_voxels=4000)
    starts = image_runs(voxels, 4000)
    run_of = np.searchsorted(starts, order, side="right") - 1
    changes = np.flatnonzero(np.diff(run_of) != 0)
    assert len(changes) + 1 == len(starts) - 1
    windows = run_of // window
    assert len(np.flatnonzero(np.diff(windows) != 0)) + 1 == len(np.unique(windows))


def test_orders_differ_between_epochs_and_seeds_and_repeat():
    voxels = np.full(200, 5000)
    orders = {(s, e): tuple(epoch_order(voxels, seed=s, epoch=e).tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(set(orders.values())) == 4
    assert orders[1, 1] == tuple(epoch_order(voxels, seed=1, epoch=1).tolist())


def rows_of(n_batches, start, n_ranks, n_workers, last):
    """What the ranks get at each step, as their loaders take it from their workers: [[(batch, padding), …], …]."""
    of_rank = []
    for rank in range(n_ranks):
        lists = [
            assigned(n_batches, start=start, rank=rank, n_ranks=n_ranks, worker=w, n_workers=n_workers, last=last)
            for w in range(n_workers)
        ]
        # The loader takes one batch from each worker in turn.
        of_rank.append([lists[i % n_workers][i // n_workers] for i in range(sum(map(len, lists)))])
        assert len(of_rank[-1]) == local_batches(n_batches, n_ranks, start, last)
    return [list(row) for row in zip(*of_rank, strict=True)]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.sampled_from(["pad", "drop"]), st.data())
def test_ranks_and_workers_share_one_order(n_batches, n_ranks, n_workers, last, data):
    start = data.draw(st.integers(0, n_batches - 1))
    rows = rows_of(n_batches, start, n_ranks, n_workers, last)
    for k, row in enumerate(rows):
        numbers = [b + n_batches * padding for b, padding in row]
        assert [number % n_ranks for number in numbers if number < n_batches] == [
            rank for rank, number in enumerate(numbers) if number < n_batches
        ]
        wanted = range(start + k * n_ranks, start + (k + 1) * n_ranks)
        assert sorted(numbers) == sorted(b if b < n_batches else b % n_batches + n_batches for b in wanted)
    together = [b for row in rows for b, padding in sorted(row) if not padding]
    lost = n_batches - start - len(together)
    assert sorted(together) == list(range(start, start + len(together)))
    assert 0 <= lost < n_ranks if last == "drop" else lost == 0


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6)), max_size=6),
    st.sampled_from(["pad", "drop"]),
)
def test_nothing_is_lost_or_twice_for_any_sequence_of_ranks_and_workers(n_batches, starts, last):
    """Each start: (ranks, workers, steps until it is killed); the last one runs to the end of the epoch."""
    seen, position = [], 0
    for n_ranks, n_workers, steps in [*starts, (2, 3, n_batches)]:
        rows = rows_of(n_batches, position, n_ranks, n_workers, last)[:steps] if position < n_batches else []
        seen += [b for row in rows for b, padding in row if not padding]
        position += n_ranks * len(rows)
    assert len(set(seen)) == len(seen)
    missing = set(range(n_batches)) - set(seen)
    assert not missing if last == "pad" else missing <= {n_batches - 1}


@given(counts, budgets, st.integers(1, 4), st.integers(1, 4), st.data())
def test_a_change_of_ranks_in_mid_epoch_loses_nothing(voxels, budget, ranks_before, ranks_after, data):
    plan = plan_of(voxels, 0, 0, budget)
    stop = min(len(plan), ranks_before * data.draw(st.integers(0, len(plan) // ranks_before)))
    before = list(range(stop))
    if stop == len(plan):
        return
    after = [
        b
        for rank in range(ranks_after)
        for b, padding in assigned(len(plan), start=stop, rank=rank, n_ranks=ranks_after)
        if not padding
    ]
    assert sorted(before + after) == list(range(len(plan)))


def test_fingerprint_tells_images_and_settings_apart():
    voxels = np.array([1, 2, 3])
    assert fingerprint([voxels], 4, None) == fingerprint([voxels.copy()], 4, None)
    assert len({fingerprint([v], s) for v in (voxels, voxels[::-1], voxels[:2]) for s in (1, 2)}) == 6
    assert fingerprint([voxels, voxels[:0]]) != fingerprint([voxels[:2], voxels[2:]])
