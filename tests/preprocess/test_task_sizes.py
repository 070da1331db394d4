"""How a run is cut into tasks, in simulated time: few files with many workers, and nobody waits long for the last."""

import heapq
from collections import deque

import numpy as np
import pytest

from preprocess.plan import Unit, next_batch
from preprocess.task_sizes import FILLED, FIRST_BYTES, IN_FLIGHT, TASK_SECONDS, Done, TaskSizes

SHARD_ROWS = 2_097_152
ARRAYS = 6
METADATA = 90  # files of a store that are no shards


def run(sizes, slots, voxels_of_byte, seconds_of_byte):
    """Shards of all tasks, voxels, and the time it took over the least that it could take."""
    todo, left = deque(Unit(f"{i}", i, 1, size) for i, size in enumerate(sizes)), sum(sizes)
    plan, done = TaskSizes(sum(sizes), SHARD_ROWS), Done(0, 0, 0.0)
    running, waiting, shards, now = [], deque(), 0, 0.0
    while todo or waiting or running:
        while todo and len(running) + len(waiting) < plan.at_once(slots, done):
            batch = next_batch(todo, plan.fitting(left, slots, done))
            plan.handed += 1
            n_bytes = sum(unit.size for unit in batch)
            left -= n_bytes
            waiting.append(n_bytes)
        while waiting and len(running) < slots:
            n_bytes = waiting.popleft()
            heapq.heappush(running, (now + n_bytes * seconds_of_byte, n_bytes))
        now, n_bytes = heapq.heappop(running)
        voxels = int(n_bytes * voxels_of_byte)
        shards += max(1, -(-voxels // SHARD_ROWS))
        done.n_bytes, done.voxels = done.n_bytes + n_bytes, done.voxels + voxels
        done.seconds += n_bytes * seconds_of_byte
    least = max(max(sizes), sum(sizes) / slots) * seconds_of_byte
    return shards, done.voxels, now / least


def most_files(voxels, slots, filled=1.0):
    return ARRAYS * (voxels / (filled * SHARD_ROWS) + IN_FLIGHT * slots) + 150


@pytest.mark.parametrize("slots", [1, 2, 8, 100, 400])
@pytest.mark.parametrize("count", [50, 1000, 5000])
@pytest.mark.parametrize("voxels_of_byte", [1e-4, 0.01, 0.1])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_files_keep_to_the_formula_and_workers_are_busy(slots, count, voxels_of_byte, spread):
    sizes = (2e6 * np.random.default_rng(count).lognormal(0, spread, count)).astype(int).tolist()
    shards, voxels, longer = run(sizes, slots, voxels_of_byte, seconds_of_byte=1e-9)
    of_a_unit = 1.3 * voxels / count / SHARD_ROWS  # a task has whole units, so that some of its shard stays empty
    assert ARRAYS * shards + METADATA <= most_files(voxels, slots, FILLED - of_a_unit)
    assert longer < 2.0
    if count >= 20 * slots:  # more than that only where the first tasks are small as nothing is known of them
        assert longer < (1.35 if sum(sizes) < FIRST_BYTES * slots else 1.75)


def test_many_workers_and_little_data():
    """A thousand small units on a hundred workers: they were 500 blocks of hardly any voxels."""
    shards, voxels, longer = run([1_000_000] * 1000, 100, 1e-4, 1e-9)
    assert voxels < SHARD_ROWS
    assert ARRAYS * shards + METADATA <= most_files(voxels, 100)
    assert longer < 1.3


def test_a_task_takes_no_longer_than_it_may():
    """Slow inputs with few voxels: what a killed worker loses counts for more than files do."""
    plan = TaskSizes(10**9, SHARD_ROWS, handed=200, slots=100)
    assert plan.fitting(10**9, 100, Done(1000, 10, 60.0)) <= 1000 * TASK_SECONDS / 60.0


def test_what_the_user_asked_for():
    assert TaskSizes(10**9, SHARD_ROWS, most=5000.0).fitting(10**9, 2, Done(0, 0, 0.0)) == 5000.0
