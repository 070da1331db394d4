"""Any file operation fails, with any error: one line that names file, reason and fix; the store as before; it goes on.

Errors come from the operation itself (the disk is full, broken, read-only, not ours), at each one in turn, once or from
then on.
"""

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress

import pytest

import larstore
from larstore import fs, locks
from larstore.errors import DamageError, LarstoreError, LockedError, StoreError, UnreadableError
from larstore.locks import Lock
from larstore.maintenance import copy_images
from larstore.records import Failure, InputFile
from larstore.repairing import repair
from larstore.testing import add_images, make_image
from larstore.unlocking import unlock
from tests.store.crash_scenarios import CHECKPOINT, new_store, predict

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.ENOENT]
NEW = [make_image(1, 0, 1, 20, input="b"), make_image(0, 0, 1, 30, input="b")]


def unlocked(path):
    return list(unlock(path))


class Fault:
    """Fails the k-th operation, and with ``lasting`` all later ones, but removals on a disk that is full."""

    def __init__(self, k=None, code=errno.EIO, lasting=False):
        self.k, self.code, self.lasting = k, code, lasting
        self.operations = []
        self.failed = None

    def __call__(self, operation):
        self.operations.append(operation)
        at = len(self.operations) - 1
        if at == self.k or (self.k is not None and at > self.k and self.lasting):
            if self.code == errno.ENOSPC and operation.kind == "unlink":
                return
            self.failed = self.failed or operation
            raise OSError(self.code, os.strerror(self.code))


def append(path):
    with larstore.StoreWriter(path) as writer:
        spec = writer.reserve(2)
        receipt = larstore.write_block(path, spec, NEW, [InputFile("b", 1, 1, "1" * 64)])
        writer.commit([receipt], [Failure(3, 1, "c", "no wires")])


def delete(path):
    with larstore.StoreWriter(path) as writer:
        writer.delete({(0, 1, 1)} & set(writer.keys))


def copy(path):
    copy_images(larstore.open(path).select(), path.with_name("copy.zarr"))


def create(path):
    new_store(path.with_name("new.zarr"))


def made_again(path):
    """The store that ``copy`` or ``create`` makes."""
    return next((path.with_name(n) for n in ("copy.zarr", "new.zarr") if path.with_name(n).exists()), None)


ACTIONS = [append, delete, predict, copy, create]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "a.zarr"
    new_store(path)
    add_images(path, [make_image(0, e, 1, 20, input="a") for e in (0, 1)], [InputFile("a", 0, 1, "0" * 64)])
    return path


def temporary_files(top):
    return [file for file in top.rglob("*.tmp") if file.is_file()]


def same(one, other):
    """Whether two stores hold the same images, tables and scores."""
    stores = [larstore.open(path) for path in (one, other)]
    if larstore.diff(*stores) or not stores[0].failures[["file", "error"]].equals(
        stores[1].failures[["file", "error"]]
    ):
        return False
    names = [sorted(store.predictions) for store in stores]
    rows = stores[0].root.rows("voxels/coords")
    return names[0] == names[1] and all(
        stores[0].read_scores(n, 0, rows).tobytes() == stores[1].read_scores(n, 0, rows).tobytes() for n in names[0]
    )


def fail_everywhere(action, made, tmp_path, step, offset):
    """Let ``action`` fail at every ``step``-th operation; the kinds of operations that failed."""
    whole = Fault()
    after = shutil.copytree(made, tmp_path / "after" / "a.zarr")
    with fs.observed(whole):
        action(after)
    kinds = set()
    for n, k in enumerate(range(offset, len(whole.operations), step)):
        top = tmp_path / str(k)
        path = shutil.copytree(made, top / "a.zarr")
        fault = Fault(k, ERRORS[n % len(ERRORS)], lasting=n % 2 == 1)
        where = whole.operations[k], os.strerror(fault.code)
        kinds.add(fail(action, path, fault, where))
        report = larstore.verify(path)
        assert report.ok, (where, report.problems)
        assert same(path, made) or same(path, after), where
        if not fault.lasting or fault.code == errno.ENOSPC:
            assert fault.failed is None or fault.failed.kind == "unlink" or not temporary_files(top / "a.zarr"), where
        new = made_again(path)
        if new is None:
            action(path)  # in the same process: no lock is left behind
        else:
            assert larstore.verify(new).ok, where
        assert same(path, after), where
        shutil.rmtree(top)
    return kinds - {None}


def fail(action, path, fault, where):
    """Let an action fail, and check what it says; the kind of operation that failed."""
    line = None
    with fs.observed(fault):
        try:
            action(path)
        except LarstoreError as error:
            line = str(error)
    if line is None:  # what cannot be removed may stay, where it is told of
        assert fault.failed is None or fault.failed.kind == "unlink", where
        return None
    assert line.startswith(str(path.parent)), (where, line)
    assert f"({os.strerror(fault.code)}). Fix: " in line, (where, line)
    assert "\n" not in line, (where, line)
    return fault.failed.kind


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.__name__)
def test_some_operation_fails(action, made, tmp_path):
    assert len(fail_everywhere(action, made, tmp_path, step=47, offset=3)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("action", "step"), [(append, 1), (delete, 3), (predict, 1), (copy, 17), (create, 17)])
def test_every_operation_fails(action, step, made, tmp_path):
    kinds = fail_everywhere(action, made, tmp_path, step=step, offset=0)
    assert kinds >= {"write", "fsync", "fsync_dir"}


def test_a_lock_that_cannot_be_taken_is_not_held(made, tmp_path):
    """After a failure at any operation of taking it, others take it; marks are kept."""
    path = shutil.copytree(made, tmp_path / "a.zarr")
    with Lock(path, "images", beat=False) as lock:
        lock.raise_high_water(9)
    whole = Fault()
    with fs.observed(whole):
        Lock(path, "images", beat=False).acquire().release()
    for k in range(len(whole.operations)):
        for lasting in (False, True):
            with fs.observed(Fault(k, errno.ENOSPC, lasting)), suppress(StoreError):
                Lock(path, "images", beat=False).acquire().release()
            with Lock(path, "images", beat=False) as lock:
                assert lock.high_water == 9, (whole.operations[k], lasting)
            assert not temporary_files(path) or whole.operations[k].kind == "unlink"


def test_a_heartbeat_that_fails_is_told_and_goes_on(made, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    path = shutil.copytree(made, tmp_path / "a.zarr")
    with Lock(path, "images") as lock:
        lock.raise_high_water(5)
        fault = Fault(0, errno.EIO, lasting=True)
        with fs.observed(fault):
            while len(fault.operations) < 6:
                lock._stop.wait(0.01)
        seen = lock.state().heartbeat
        while lock.state().heartbeat < seen + 2:
            lock._stop.wait(0.01)
        lock.check()
    assert "heartbeat of lock images" in caplog.text
    assert Lock(path, "images").state().high_water == 5


def test_a_lost_answer_of_a_network_file_system(tmp_path, monkeypatch):
    """The link is made, the answer is lost, the client asks again and hears that the name exists: it is ours."""
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    fs.write_new(tmp_path / "a", b"1")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    monkeypatch.setattr(os, "link", real)
    with pytest.raises(fs.ExistsError):
        fs.write_new(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch, code):
    def link(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match=r"a: the file system makes no hard links \(.*\); .*Fix: write to one that"):
        fs.write_new(tmp_path / "a", b"1")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def images_to_commit(path):
    """Blocks are written; what commits them."""
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(2), NEW)
        yield lambda: writer.commit([receipt])


@contextmanager
def scores_to_commit(path):
    """Scores are written; what commits them."""
    with larstore.PredictionWriter(path, "p", CHECKPOINT) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, image.charge[:, 0]) for image in images])
        yield writer.commit


@pytest.mark.parametrize(
    ("prepared", "name"),
    [
        *((images_to_commit, name) for name in (".larstore", "voxels", "voxels/coords", "index", "zarr.json", ".")),
        *((scores_to_commit, name) for name in (".larstore", "predictions", "predictions/p/score", "zarr.json", ".")),
        (scores_to_commit, "predictions/p/score/c/0"),
    ],
)
def test_a_directory_deleted_under_a_writer(prepared, name, made, tmp_path):
    path = shutil.copytree(made, tmp_path / "a.zarr")
    outcome = None
    try:
        with prepared(path) as commit:
            gone = path / name
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            commit()
    except StoreError as error:
        outcome = str(error)
    assert outcome is not None
    assert re.search(r"^/[^\n]*\. Fix: [^\n]*$", outcome), outcome
    assert str(path) in outcome
    if name.startswith("predictions"):
        assert same(path, made)


def test_scores_that_changed_are_not_committed(made, tmp_path):
    path = shutil.copytree(made, tmp_path / "a.zarr")
    with scores_to_commit(path) as commit:
        shard = path / "predictions/p/score/c/0"
        data = shard.read_bytes()
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(DamageError, match=r"score/c/0: .*differ from what was written"):
            commit()
        shard.write_bytes(data)
        commit()
    assert larstore.verify(path).ok


def unread(path):
    """What verify says of a store of which some files cannot be read, and repair: nothing is taken for damage."""
    try:
        report = larstore.verify(path)
    except UnreadableError as error:
        return [str(error)]
    assert report.unreadable == report.problems
    if report.problems:
        with pytest.raises(UnreadableError, match=r"cannot be repaired: .*Fix: make it readable") as error:
            repair(path, path.with_name("mended.zarr"))
        assert "\n" not in str(error.value)
    return [*map(str, report.problems), *report.notes]


def test_a_directory_that_cannot_be_read(made, tmp_path):
    """As another user: neither a traceback nor an empty store."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    path = shutil.copytree(made, tmp_path / "a.zarr")
    writers = [append, predict]
    cases = {path: [*writers, unlocked], path / ".larstore": [*writers, unlocked]}
    cases |= {path / "voxels": writers, path / "index" / "file": writers}
    cases |= {path / "voxels" / "charge" / "c": [], path / "zarr.json": writers}
    for closed, actions in cases.items():
        mode = closed.stat().st_mode
        closed.chmod(0o700)
        os.seteuid(65534)
        try:
            for action in actions:
                with pytest.raises(StoreError, match=r"^/\S+: .*Permission denied\)?\. Fix: ") as error:
                    action(path)
                assert "\n" not in str(error.value)
            said = unread(path)
            assert any("Permission denied" in line for line in said), (closed, said)
        finally:
            os.seteuid(0)
            closed.chmod(mode)
    assert larstore.verify(path).ok


def test_a_refused_lock_is_one_line(made, tmp_path):
    path = shutil.copytree(made, tmp_path / "a.zarr")
    with larstore.StoreWriter(path), pytest.raises(LockedError, match="held by process") as error:
        append(path)
    assert "\n" not in str(error.value)
