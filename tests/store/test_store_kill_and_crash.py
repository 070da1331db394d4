"""A writer is killed, the next one goes on from what it sees, then the machine crashes: what was seen stays."""

from contextlib import nullcontext, suppress

import pytest

import larstore
from larstore import fs
from larstore.records import InputFile
from larstore.root import read_root
from larstore.testing import make_image
from tests.store.crash_replay import STORE, Judge, booted, recorded, replay, without_debris
from tests.store.crash_scenarios import CHECKPOINT, new_store, predict, predict_and_go_on, reserve


class Killed(BaseException):
    """Nothing of the writer runs on."""


class KillSwitch:
    """Lets ``k`` operations through; until it is unset, no other."""

    def __init__(self, k):
        self.left = k

    def __call__(self, operation):
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1


def append(recording, file):
    """A commit; promises what the writer sees when it has opened the store, and what it has done."""
    store = recording.store
    with larstore.StoreWriter(store) as writer:
        recording.promise(writer.attributes["commit"])
        spec = writer.reserve()
        recording.promise(writer.attributes["commit"], handed=spec.first_shard + 1)
        image = make_image(file, 0, 1, 20, input="a")
        writer.commit([larstore.write_block(store, spec, [image], [InputFile("a", 0, 1, "0" * 64)])])
        recording.promise(writer.attributes["commit"])


def append_prediction(recording, file):
    with larstore.PredictionWriter(recording.store, "p", CHECKPOINT):
        recording.promise(commit_of(recording.store))
    predict(recording.store)
    recording.promise(commit_of(recording.store))


def commit_of(store):
    return read_root(store).attributes["commit"]


def interrupted(top, k, action):
    """The recording of an action that is killed after ``k`` operations, and of the same by the next process."""
    top.mkdir(parents=True)
    new_store(top / STORE)
    if action is append_prediction:
        with larstore.StoreWriter(top / STORE) as writer:
            writer.commit([larstore.write_block(top / STORE, writer.reserve(), [make_image(0, 0, 1, 20)])])
    switch = KillSwitch(k)
    with fs.observed(switch), recorded(top, commit_of(top / STORE)) as recording:
        with booted("long before"), pytest.raises(Killed) if k is not None else nullcontext():
            action(recording, 0)
        if k is not None:
            switch.left = None
            action(recording, 1)
    return recording


CASES = {"images": (append, reserve), "prediction": (append_prediction, predict_and_go_on)}


def replay_kills(name, tmp_path, only=None, step=1):
    """Kill before every ``step``-th sync of a directory (``only`` those called so), crash, judge; the directories."""
    action, go_on = CASES[name]
    whole = interrupted(tmp_path / "whole" / "top", None, action)
    idle = whole.idle()
    kills = {k: o.path.name for k, o in enumerate(whole.operations) if o.kind == "fsync_dir" and k not in idle}
    kills = dict([(k, at) for k, at in kills.items() if only in (None, at)][::step])
    for k in kills:
        recording = interrupted(tmp_path / str(k) / "top", k, action)
        moments = {p.at for p in recording.promises} | {i + 1 for i in recording.roots()}
        judge = Judge(recording, tmp_path / str(k) / "judge", go_on)
        replay(recording, judge, moments, 3, without_debris)
    return list(kills.values())


def test_a_crash_after_a_kill_at_the_root(tmp_path):
    """Before the first lock's directory is certain, and before a commit is."""
    assert replay_kills("images", tmp_path, only=STORE) == [STORE, STORE]


def test_a_crash_after_a_task_was_killed_again_and_again(tmp_path):
    """A worker is killed one operation later each time, until it comes through; its coordinator lives, and commits."""
    top = tmp_path / "top"
    top.mkdir()
    new_store(top / STORE)
    switch = KillSwitch(None)
    with fs.observed(switch), recorded(top, 0) as recording, larstore.StoreWriter(top / STORE) as writer:
        spec = writer.reserve()
        recording.promise(0, handed=1)
        receipt = None
        for k in range(100):
            switch.left = k
            with suppress(Killed):
                receipt = larstore.write_block(top / STORE, spec, [make_image(0, 0, 1, 20)])
            switch.left = None
            if receipt is not None:
                break
        writer.commit([receipt])
        recording.promise(1)
    assert k > 20
    judge = Judge(recording, tmp_path / "judge", reserve)
    replay(recording, judge, [recording.roots()[0] + 1, recording.promises[-1].at], 8, without_debris)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "step"), [("images", 7), ("prediction", 2)])
def test_a_crash_after_a_kill(name, step, tmp_path):
    assert len(replay_kills(name, tmp_path, step=step)) > 8
