"""Any prefix of a writer's file operations, with any of the unsynced ones lost, leaves the last commit, complete."""

import random

import pytest

from larstore.fs import Operation
from tests.store.crash_model import Disk
from tests.store.crash_replay import Judge, replay, without_debris
from tests.store.crash_scenarios import SCENARIOS, creation, first_images, heartbeat, made, prediction


def left(tmp_path, *operations):
    """All trees that a crash after these operations can leave, with a file ``old`` and a directory ``d`` before."""
    disk = Disk(tmp_path, {"old": b"old", "d": None})
    for kind, path, *more in operations:
        target = tmp_path / more[0] if more and kind in ("link", "rename") else None
        disk.apply(Operation(kind, tmp_path / path, target, more[0] if kind == "write" else None))
    trees = disk.crashes(1000, random.Random(0))
    return {tuple(sorted(tree.items())) for tree in trees}


OLD, D = ("old", b"old"), ("d", None)


def test_an_unsynced_file_holds_anything(tmp_path):
    kept = {(D, ("new", data), OLD) for data in (b"1234", b"12", b"", bytes(4))}
    assert left(tmp_path, ("write", "new", b"1234")) == {(D, OLD), *kept}
    assert left(tmp_path, ("write", "new", b"1234"), ("fsync_dir", "")) == kept
    assert left(tmp_path, ("write", "new", b"1234"), ("fsync", "new")) == {(D, OLD), (D, ("new", b"1234"), OLD)}


def test_a_rename_without_sync_may_destroy(tmp_path):
    steps = [("write", "t", b"12"), ("rename", "t", "old")]
    wrong = left(tmp_path, *steps)
    assert (D, ("old", b"")) in wrong  # the name is kept, the data are lost
    assert (D, OLD, ("t", b"12")) in wrong
    synced = left(tmp_path, steps[0], ("fsync", "t"), steps[1])
    assert synced == {(D, OLD), (D, OLD, ("t", b"12")), (D, ("old", b"12"))}
    assert left(tmp_path, steps[0], ("fsync", "t"), steps[1], ("fsync_dir", "")) == {(D, ("old", b"12"))}


def test_a_lost_directory_takes_all_along(tmp_path):
    steps = [("mkdir", "d/e"), ("write", "d/e/f", b"1"), ("fsync", "d/e/f"), ("fsync_dir", "d/e")]
    whole = (D, ("d/e", None), ("d/e/f", b"1"), OLD)
    assert left(tmp_path, *steps) == {(D, OLD), whole}
    assert left(tmp_path, *steps, ("fsync_dir", "d")) == {whole}


def test_unlinks_are_lost_one_by_one(tmp_path):
    steps = [("link", "old", "d/new"[2:]), ("unlink", "old"), ("unlink", "not there")]
    assert left(tmp_path, *steps) == {(D, OLD), (D, ("new", b"old"), OLD), (D,), (D, ("new", b"old"))}


@pytest.mark.parametrize("scenario", [first_images, heartbeat, prediction, creation], ids=lambda s: s.__name__)
def test_some_crashes(scenario, tmp_path):
    recording = made(scenario, tmp_path)
    judge = Judge(recording, tmp_path / "judge", SCENARIOS[scenario][0])
    uncertain = [k for k, disk in recording.disk() if not disk.is_certain()]
    replay(recording, judge, uncertain[len(uncertain) // 8 :: len(uncertain) // 3], limit=3)
    assert len(judge.judged) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_all_crashes(scenario, tmp_path):
    """After every operation; what the next writer does at length now and then, debris and all."""
    recording = made(scenario, tmp_path)
    whole, short = SCENARIOS[scenario]
    n = len(recording.operations) + 1
    judges = [Judge(recording, tmp_path / f"judge-{i}", after) for i, after in enumerate((short, whole))]
    replay(recording, judges[0], range(n), limit=64, change=without_debris)
    replay(recording, judges[1], range(0, n, n // 6), limit=4)
    assert len(judges[0].judged) >= 3
