"""Every fsync that is left out is found by the replay of crashes, or there is a reason why none is needed there."""

import json
import random

import pytest

from tests.store.crash_replay import Judge, without_debris
from tests.store.crash_scenarios import (
    SCENARIOS,
    creation,
    first_images,
    heartbeat,
    made,
    prediction,
    redo_and_delete,
    take_over,
)


def syncs(recording):
    return [i for i, o in enumerate(recording.operations) if o.kind.startswith("fsync")]


def site(recording, i):
    """Which line of ``fs.py`` made this sync, told by the operation before it; None for one of ``sync_tree``."""
    operation, before = recording.operations[i], recording.operations[i - 1]
    if operation.kind == "fsync":
        return "the data of a file"
    if (before.target or before.path).parent != operation.path:
        return None
    if before.kind == "rename":
        return "a directory that was moved" if before.target == recording.store else "a file that was replaced"
    return {"mkdir": "a new directory", "unlink": "a new file"}.get(before.kind)


def deadlines(recording):
    """Operations before which all must be certain: what is promised next, and the root of a commit."""
    return sorted({*(p.at for p in recording.promises), *recording.roots(), len(recording.operations)})


def missed(recording, judge, skip):
    """What goes wrong if these syncs are left out; None if nothing does.

    Crashes are tried at the deadlines and around them, and just after a sync that is left out alone.
    """
    lost = set().union(*(recording.loses(i) for i in skip))
    ends = deadlines(recording)
    chosen = {*ends, *(k + 1 for k in ends), *(k + 2 for k in ends)}
    if len(skip) == 1:
        chosen |= {i + n for i in skip for n in (1, 2, 3)}
    for k, disk in recording.disk(skip):
        if k in chosen and k > min(skip):
            for tree in disk.crashes(16 if len(skip) == 1 else 3, random.Random(1), only=lost):
                wrong = judge(k, without_debris(tree))
                if wrong is not None:
                    return f"crash after operation {recording.where(k)}: {wrong}"
    return None


def excuse(recording, i):
    """Why a commit does without sync ``i``, of which ``fs`` is more careful than need be; None: it does not."""
    operation, before = recording.operations[i], recording.operations[i - 1]
    if operation.kind == "fsync":
        return None
    named = recording.operations[i - 2 if before.kind == "unlink" else i - 1].target
    old, new = recording.contents(named, i - 1)
    if old == new and old is not None:
        return "the file says the same"
    if operation.path.name == ".larstore" and mark(new) == mark(old):
        return "the mark stays"
    if before.kind == "rename" and named.name == "zarr.json" and named.parent != recording.store and old is not None:
        return "children may lag"
    later = min((k for k in make_up(recording, i) if k > i), default=i)
    gone = [o.path for o in recording.operations[i:later] if o.kind == "unlink" and o.path.suffix != ".tmp"]
    older = [path for path in gone if path.parent == operation.path]  # older locks go once the new one is certain
    return "made up for" if later > i and not older else None


def mark(lock):
    """The high-water mark in a lock's file."""
    return 0 if lock is None else json.loads(lock)["high_water"]


def make_up(recording, i):
    """Syncs of the same directory from one deadline to the next: of these the last is enough."""
    path, ends = recording.operations[i].path, deadlines(recording)
    start, stop = max((k for k in ends if k <= i), default=0), min(k for k in ends if k > i)
    operations = enumerate(recording.operations[start:stop], start)
    return {k for k, o in operations if o.kind == "fsync_dir" and o.path == path}


SITES = ("the data of a file", "a new directory", "a new file", "a file that was replaced")


@pytest.mark.parametrize(
    ("where", "scenario"),
    [*((where, first_images) for where in SITES), *((where, creation) for where in ("a directory that was moved",))],
)
def test_each_kind_of_sync_is_needed(where, scenario, tmp_path):
    """The replay finds it if a line of ``fs.py`` that syncs is removed."""
    recording = made(scenario, tmp_path)
    judge = Judge(recording, tmp_path / "judge", SCENARIOS[scenario][1])
    skip = {i for i in syncs(recording) if site(recording, i) == where}
    assert skip
    assert missed(recording, judge, skip) is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "scenario", [redo_and_delete, take_over, heartbeat, prediction, creation], ids=lambda s: s.__name__
)
def test_each_sync_is_needed_or_excused(scenario, tmp_path):
    """One by one; of those that make up for each other, at least one."""
    recording = made(scenario, tmp_path)
    judge = Judge(recording, tmp_path / "judge", SCENARIOS[scenario][1])
    chosen = [i for i in syncs(recording) if site(recording, i) is not None]
    excuses = {i: why for i in chosen if (why := excuse(recording, i)) is not None}
    needless = {i for i in chosen if missed(recording, judge, {i}) is None}
    unexplained = [recording.where(i + 1) for i in sorted(needless - excuses.keys())]
    assert unexplained == []
    assert [(recording.where(i + 1), excuses[i]) for i in sorted(excuses.keys() - needless)] == []
    for i, why in excuses.items():
        if why == "made up for":
            assert missed(recording, judge, make_up(recording, i)) is not None, recording.where(i + 1)
