"""A commit killed at any operation leaves the last or the new commit, complete; the next writer goes on. Locks."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import larstore
from larstore import fs, locks
from larstore.errors import DamageError, LockedError, StoreError
from larstore.locks import Lock
from larstore.records import InputFile
from larstore.root import read_root
from larstore.testing import add_images, make_geometry, make_image


class Killed(BaseException):
    """Nothing of the writer runs on."""


class KillSwitch:
    """Counts file operations, and lets none through from the k-th on."""

    def __init__(self, k=None):
        self.k = k
        self.operations = []

    def __call__(self, operation):
        if self.k is not None and len(self.operations) >= self.k:
            raise Killed
        self.operations.append(operation.kind)


def ended_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def as_other_process(monkeypatch):
    """Lets a writer take its lock in the name of a process that has ended."""
    me = locks.identity()
    other = replace(me, pid=ended_process(), started="1")

    def switch(on):
        monkeypatch.setattr(locks, "identity", lambda: other if on else me)

    yield switch
    switch(False)


def small_store(path):
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8)
    add_images(path, [make_image(0, 0, 1, 20, input="a")], [InputFile("a", 0, 1, "0" * 64)])
    return path


NEW = [make_image(1, 0, 1, 20, input="b"), make_image(1, 1, 1, 30, input="b")]


def append(path):
    add_images(path, NEW, [InputFile("b", 1, 1, "1" * 64)])


def killed_runs(before, after, tmp_path, as_other_process, step, offset):
    """Kill ``append`` after k operations for k = offset, offset + step, …; returns the outcomes seen."""
    recorder = KillSwitch()
    with fs.observed(recorder):
        append(shutil.copytree(before, tmp_path / "recorded.zarr"))
    outcomes = set()
    for k in range(offset, len(recorder.operations), step):
        path = shutil.copytree(before, tmp_path / f"killed-{k}.zarr")
        as_other_process(True)
        with fs.observed(KillSwitch(k)), pytest.raises(Killed):
            append(path)
        as_other_process(False)
        report = larstore.verify(path)
        assert report.ok, (k, recorder.operations[k], report.problems)
        is_new = len(larstore.open(path)) == 3
        outcomes.add(is_new)
        assert larstore.diff(path, after if is_new else before) == [], (k, recorder.operations[k])
        with larstore.StoreWriter(path) as writer:
            assert ((1, 0, 1) in writer.keys) == is_new
        append(path)
        assert larstore.diff(path, after) == []
        assert all("no commit holds" in note for note in larstore.verify(path).notes)
        shutil.rmtree(path)
    return outcomes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("commit") / "a.zarr")


@pytest.fixture
def before(made, tmp_path):
    return shutil.copytree(made, tmp_path / "before.zarr")


@pytest.fixture
def after(before, tmp_path):
    path = shutil.copytree(before, tmp_path / "after.zarr")
    append(path)
    return path


def test_a_commit_killed_at_any_operation(before, after, tmp_path, as_other_process):
    assert killed_runs(before, after, tmp_path, as_other_process, step=41, offset=5) == {False, True}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_commit_killed_at_every_operation(before, after, tmp_path, as_other_process):
    assert killed_runs(before, after, tmp_path, as_other_process, step=1, offset=0) == {False, True}


def test_every_rename_comes_after_its_sync(before):
    """The order on which durability rests: data written, synced, then named; the directory synced before the root."""
    seen = []
    with fs.observed(seen.append):
        append(before)
    synced, unsynced_names = set(), set()
    for operation in seen:
        if operation.kind == "fsync":
            synced.add(operation.path)
        if operation.kind in ("link", "rename"):
            assert operation.path in synced, operation
            if operation.target == before / "zarr.json":
                assert not unsynced_names
            unsynced_names.add(operation.target.parent)
        if operation.kind == "fsync_dir":
            unsynced_names.discard(operation.path)
    assert not unsynced_names


def test_commit_order(before):
    named = []
    with fs.observed(lambda o: named.append(o.target.relative_to(before)) if o.target else None):
        append(before)
    steps = [str(p) for p in named if p.parts[0] != ".larstore"]
    root = steps.index("zarr.json")
    shards = [i for i, p in enumerate(steps) if p.startswith(("voxels", "truth")) and "/c/" in p]
    chunks = [i for i, p in enumerate(steps) if p.startswith(("index", "inputs")) and "/c/" in p]
    arrays = [i for i, p in enumerate(steps) if p.startswith(("voxels", "truth")) and p.endswith("zarr.json")]
    tables = [i for i, p in enumerate(steps) if p.startswith(("index", "inputs")) and p.endswith("zarr.json")]
    assert all((shards, chunks, arrays, tables))
    assert max(shards) < min(chunks)
    assert max(chunks) < min(arrays)
    assert max(arrays) < root < min(tables)


def test_blocks_are_never_handed_out_twice(before, as_other_process):
    seen = []
    for dead in (True, True, False):
        as_other_process(dead)
        writer = larstore.StoreWriter(before).__enter__()
        seen += [writer.reserve().first_shard, writer.reserve(2).first_shard]
        if dead:  # leaves without letting go of the lock
            writer._lock._stop.set()
        else:
            writer.__exit__(None, None, None)
    with larstore.StoreWriter(before) as writer:
        seen.append(writer.reserve().first_shard)
    assert seen == [1, 2, 4, 5, 7, 8, 10]


def test_a_worker_that_outlives_its_coordinator_touches_nothing(before, as_other_process):
    as_other_process(True)
    old = larstore.StoreWriter(before).__enter__()
    spec = old.reserve()
    old._lock._stop.set()
    as_other_process(False)
    with larstore.StoreWriter(before) as writer:
        receipt = larstore.write_block(before, writer.reserve(), [NEW[0]])
        late = larstore.write_block(before, spec, [NEW[1]])
        writer.commit([receipt])
        with pytest.raises(LockedError, match="another run"):
            writer.commit([late])
        with pytest.raises(LockedError, match="was lost"):
            old.commit([late])
        with pytest.raises(LockedError, match="was lost"):
            old.reserve()
    assert len(larstore.open(before)) == 2
    assert larstore.verify(before).ok


def test_a_task_that_runs_twice_does_not_overwrite(before):
    with larstore.StoreWriter(before) as writer:
        spec = writer.reserve()
        receipt = larstore.write_block(before, spec, [NEW[0]])
        assert larstore.write_block(before, spec, [NEW[0]]) == receipt  # a scheduler tried again
        with pytest.raises(fs.ExistsError, match="exists already"):
            larstore.write_block(before, spec, [NEW[1]])
        writer.commit([receipt])
    assert larstore.verify(before).ok


def test_receipts_are_checked_against_the_files(before):
    name = "voxels/live/c/1"
    with larstore.StoreWriter(before) as writer:
        receipt = larstore.write_block(before, writer.reserve(), [NEW[0]])
        data = (before / name).read_bytes()
        (before / name).write_bytes(data[:-1] + b"x")
        with pytest.raises(DamageError, match=f"{name}.*differ from what was written"):
            writer.commit([receipt])
        (before / name).unlink()
        with pytest.raises(DamageError, match=f"{name}.*not there"):
            writer.commit([receipt])
        for wrong in (
            replace(receipt, files={k: v for k, v in receipt.files.items() if k != name}),
            replace(receipt, files=receipt.files | {"../zarr.json": (1, "x")}),
            replace(receipt, images=(replace(receipt.images[0], voxel_start=0),)),
            replace(receipt, images=(replace(receipt.images[0], voxel_count=70),)),
        ):
            with pytest.raises(DamageError, match="receipt"):
                writer.commit([wrong])
        (before / name).write_bytes(data)
        writer.commit([receipt])
    assert len(larstore.open(before)) == 2


def test_readers_keep_their_commit_while_others_are_made(before):
    old = larstore.open(before)
    append(before)
    assert len(old) == 1
    assert old.image(0, 0, 1).coords.shape == (20, 3)
    assert len(larstore.open(before)) == 3


def test_a_failing_disk_is_one_line_and_leaves_the_store(before, monkeypatch):
    reference = shutil.copytree(before, before.with_name("reference.zarr"))
    real = os.write

    def full(descriptor, data):
        if len(data) > 3000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"zarr.json: cannot write \(No space left on device\)\. Fix:") as error:
        append(before)
    assert len(str(error.value).splitlines()) == 1
    monkeypatch.undo()
    assert larstore.diff(before, reference) == []
    append(before)
    assert len(larstore.open(before)) == 3
    assert not list(before.rglob("*.tmp"))


def test_two_writers(before):
    with larstore.StoreWriter(before), pytest.raises(LockedError, match=rf"held by process {os.getpid()} on .*Fix:"):
        larstore.StoreWriter(before).__enter__()
    with larstore.StoreWriter(before):
        pass


def hold(path, ready, leave):
    with larstore.StoreWriter(path) as writer:
        writer.reserve()
        ready.set()
        leave.wait(60)
        os._exit(9)  # as if killed


def test_a_lock_of_a_live_and_then_of_a_dead_process(before, caplog):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    child = context.Process(target=hold, args=(before, ready, leave))
    child.start()
    assert ready.wait(60)
    with pytest.raises(LockedError, match=f"held by process {child.pid}"):
        larstore.StoreWriter(before, break_lock=True).__enter__()
    leave.set()
    child.join(60)
    with larstore.StoreWriter(before) as writer:
        assert writer.reserve().first_shard == 2  # 0 is committed, 1 was handed out by the dead
    assert "taken over" in caplog.text


def foreign_lock(path, monkeypatch, name="images"):
    me = locks.identity()
    monkeypatch.setattr(locks, "identity", lambda: replace(me, host="elsewhere", machine="other", pid=1))
    lock = Lock(path, name, beat=False).acquire()
    monkeypatch.setattr(locks, "identity", lambda: me)
    return lock


def test_a_foreign_lock_needs_break_lock_and_a_heartbeat_that_stands_still(before, monkeypatch):
    monkeypatch.setattr(locks, "STILL_SECONDS", 0.3)
    lock = foreign_lock(before, monkeypatch)
    with pytest.raises(LockedError, match=r"on elsewhere since .*--break-lock"):
        larstore.StoreWriter(before).__enter__()
    with larstore.StoreWriter(before, break_lock=True):
        with pytest.raises(LockedError, match="was lost"):
            lock.check()
        with pytest.raises(LockedError, match="was lost"):
            lock.raise_high_water(5)


def test_a_foreign_lock_that_beats_is_not_broken(before, monkeypatch):
    monkeypatch.setattr(locks, "STILL_SECONDS", 2.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    me = locks.identity()
    monkeypatch.setattr(locks, "identity", lambda: replace(me, host="elsewhere", machine="other", pid=1))
    lock = Lock(before, "images").acquire()
    monkeypatch.setattr(locks, "identity", lambda: me)
    with pytest.raises(LockedError, match="on elsewhere"):
        larstore.StoreWriter(before, break_lock=True).__enter__()
    lock.check()
    lock.release()


def test_a_rebooted_machine_has_no_process_of_before(before, monkeypatch):
    me = locks.identity()
    monkeypatch.setattr(locks, "identity", lambda: replace(me, boot_id="earlier"))
    Lock(before, "images", beat=False).acquire()
    monkeypatch.setattr(locks, "identity", lambda: me)
    with larstore.StoreWriter(before):
        pass


def test_another_container_of_this_machine_counts_as_foreign(before, monkeypatch):
    me = locks.identity()
    monkeypatch.setattr(locks, "identity", lambda: replace(me, namespace="pid:[1]", pid=1))
    Lock(before, "images", beat=False).acquire()
    monkeypatch.setattr(locks, "identity", lambda: me)
    with pytest.raises(LockedError, match="--break-lock"):
        larstore.StoreWriter(before).__enter__()


def test_the_root_lock_is_waited_for(before, monkeypatch):
    monkeypatch.setattr("larstore.commit.WAIT_SECONDS", 0.2)
    with Lock(before, "root", beat=False), pytest.raises(LockedError, match="lock root is held"):
        append(before)
    append(before)
    assert len(larstore.open(before)) == 3


def test_a_root_lock_left_by_another_host_is_broken_with_the_branch_lock(before, monkeypatch):
    monkeypatch.setattr("larstore.commit.WAIT_SECONDS", 0.2)
    monkeypatch.setattr(locks, "STILL_SECONDS", 0.3)
    foreign_lock(before, monkeypatch, "root")
    with pytest.raises(LockedError, match="lock root is held by process 1 on elsewhere"):
        append(before)
    with larstore.StoreWriter(before, break_lock=True) as writer:
        writer.commit([larstore.write_block(before, writer.reserve(), [NEW[0]])])
    assert len(larstore.open(before)) == 2


def test_a_commit_by_somebody_else_stops_a_writer(before):
    with larstore.StoreWriter(before) as writer:
        receipt = larstore.write_block(before, writer.reserve(), [NEW[0]])
        root = read_root(before)
        root.attributes["commit"] += 1
        root.attributes["images_commit"] = root.attributes["commit"]
        (before / "zarr.json").write_bytes(root.sealed())
        with pytest.raises(LockedError, match="made by somebody else"):
            writer.commit([receipt])


def test_many_takers_of_one_lock(tmp_path):
    """Each adds one to a number under the lock: none gets lost."""
    path = tmp_path
    (path / "count").write_text("0")
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=count_up, args=(path, 10)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
        assert child.exitcode == 0
    assert (path / "count").read_text() == "30"


def count_up(path, times):
    for _ in range(times):
        with Lock(path, "root", wait=90, beat=False):
            number = int((path / "count").read_text())
            (path / "count").write_text(str(number + 1))
