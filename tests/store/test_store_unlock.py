"""larstore unlock: what it shows, what it releases, and what it refuses, by the rules of taking over."""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import locks, maintenance_cli, unlocking
from larstore.errors import LockedError, StoreError
from larstore.lock_files import DamagedLockError
from larstore.locks import Lock, lock_names
from larstore.testing import make_store

app = typer.Typer()
maintenance_cli.register(app)


def run(*arguments):
    return CliRunner().invoke(app, ["unlock", *map(str, arguments)])


@pytest.fixture
def path(tmp_path):
    return make_store(tmp_path / "a.zarr", 1, 1, n_voxels=20)


@pytest.fixture
def owned_by(monkeypatch):
    """Take locks in the name of another process."""

    @contextmanager
    def taken(path, name="images", beat=False, mark=7, **changes):
        me = locks.identity()
        with monkeypatch.context() as patch:
            patch.setattr(locks, "identity", lambda: replace(me, **changes))
            lock = Lock(path, name, beat=beat).acquire()
            lock.raise_high_water(mark)
        yield lock

    return taken


def ended_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_free_locks(path):
    done = run(path)
    assert (done.exit_code, done.stdout) == (0, "images: free\nroot: free\n")


def test_a_lock_of_a_live_process_is_refused(path):
    with larstore.StoreWriter(path) as writer:
        done = run(path, "--break-lock")
        assert done.stdout.splitlines()[0].startswith(f"images: held by process {os.getpid()} on ")
        assert done.stdout.splitlines()[0].endswith("; it runs")
        assert isinstance(done.exception, LockedError)
        assert f"wait for it to end, or stop process {os.getpid()}" in str(done.exception)
        writer._lock.check()
        assert run(path, "--lock", "root").exit_code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": ended_process},
        {"started": "1"},  # the number belongs to a younger process now
        {"boot_id": "an earlier one"},
        {"boot_id": "an earlier one", "namespace": "pid:[1]"},  # no container outlives its machine
    ],
    ids=["ended", "number reused", "rebooted", "rebooted container"],
)
def test_a_lock_of_an_ended_process_is_released(changes, path, owned_by):
    changes = {key: value() if callable(value) else value for key, value in changes.items()}
    with owned_by(path, **changes) as lock:
        pid = lock._state.owner.pid
        done = run(path)
        assert done.exit_code == 0
        assert f"images: held by process {pid} on " in done.stdout
        assert "released, it has ended\n" in done.stdout
        with pytest.raises(LockedError, match="was lost"):
            lock.check()
    assert run(path).stdout == "images: free\nroot: free\n"
    with larstore.StoreWriter(path) as writer:
        assert writer.reserve().first_shard == 7  # the mark of what was handed out is kept


FOREIGN = [{"host": "elsewhere", "machine": "other"}, {"namespace": "pid:[1]"}, {"machine": "other"}]


@pytest.mark.parametrize("changes", FOREIGN, ids=["host", "container", "same name"])
def test_a_foreign_lock_is_watched_and_kept(changes, path, owned_by, monkeypatch):
    monkeypatch.setattr(unlocking, "WATCH_SECONDS", 0.2)
    with owned_by(path, **changes) as lock:
        done = run(path, "--lock", "images")
        assert done.stdout.endswith("; no heartbeat within 0 s\n")
        assert isinstance(done.exception, LockedError)
        assert "--break-lock" in str(done.exception)
        lock.check()


@pytest.mark.parametrize("changes", FOREIGN, ids=["host", "container", "same name"])
def test_a_foreign_lock_that_stands_still_is_broken_on_request(changes, path, owned_by, monkeypatch):
    monkeypatch.setattr(locks, "STILL_SECONDS", 0.3)
    with owned_by(path, "predictions/p", **changes) as lock:
        done = run(path, "--break-lock")
        assert done.exit_code == 0
        assert "predictions/p: held by" in done.stdout
        assert "released, its heartbeat stood still" in done.stdout
        with pytest.raises(LockedError, match="was lost"):
            lock.check()
    assert run(path, "--lock", "predictions/p").stdout == "predictions/p: free\n"


@pytest.mark.parametrize("options", [[], ["--break-lock"]])
def test_a_foreign_lock_that_beats_is_kept(options, path, owned_by, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STILL_SECONDS", 60.0)  # whoever waits for it to end fails by the time limit
    monkeypatch.setattr(unlocking, "WATCH_SECONDS", 60.0)
    with owned_by(path, host="elsewhere", beat=True) as lock:
        done = run(path, *options)
        assert "; its heartbeat goes on\n" in done.stdout
        assert isinstance(done.exception, LockedError)
        lock.release()
    assert run(path).exit_code == 0


def test_all_locks_are_looked_at_though_one_is_held(path, owned_by):
    with owned_by(path, "predictions/p", started="1"), larstore.StoreWriter(path):
        done = run(path)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["images", "predictions/p", "root"]
    assert "predictions/p: held" in done.stdout
    assert "released" in done.stdout
    assert isinstance(done.exception, LockedError)


def test_what_is_no_store_or_no_lock(path, tmp_path):
    assert isinstance(run(tmp_path).exception, StoreError)
    done = run(path, "--lock", "image")
    assert str(done.exception) == f"{path}: no lock image. Fix: one of images, root"


def test_a_torn_lock_file_is_named(path):
    file = path / ".larstore" / "images.00000099"
    torn = (path / ".larstore" / "images.00000000").read_bytes().replace(b'"high_water": 1', b'"high_water": "1"')
    for content in (b"", b"{}", b"[]", b'{"owner": 1}', b"\xff", torn):
        file.write_bytes(content)
        done = run(path)
        assert isinstance(done.exception, StoreError), content
        assert str(done.exception).startswith(f"{file}: not a lock file")


def marked(path, mark, owner):
    """A lock of images with a mark, let go of or of a process that has ended; its file."""
    with owner(path, started="1", mark=mark) if owner else larstore.StoreWriter(path) as holder:
        if owner is None:
            holder.reserve(mark - 1)  # the store has one shard
    (file,) = (path / ".larstore").glob("images.*")
    return file


def flips(path, file, places):
    """First shard that a writer gets, or its error, with each of these bytes flipped in turn."""
    data, directory = file.read_bytes(), file.parent
    for at, mask in places:
        for other in directory.glob("images.*"):
            other.unlink()
        file.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
        try:
            with larstore.StoreWriter(path) as writer:
                yield at, writer.reserve().first_shard
        except DamagedLockError as error:
            line = str(error)
            assert line.startswith(f"{file}: not a lock file, or damaged (")
            assert line.endswith(f"'larstore unlock {path} --lock images --break-lock'")
            assert "\n" not in line
            yield at, None


def expect_no_lower_mark(path, owned_by, step, ended):
    file = marked(path, 88, owned_by if ended else None)
    size = file.stat().st_size
    around = file.read_bytes().index(b'"high_water": 88')
    places = {*range(0, size, step), *range(around, around + 16, max(1, step // 16))}
    found = dict(flips(path, file, [(at, 1 << at % 8) for at in sorted(places)]))
    assert set(found.values()) <= {88, None}
    assert sum(first is None for first in found.values()) > 0.6 * len(places)  # the rest is white space


@pytest.mark.parametrize("ended", [False, True])
def test_no_flip_of_a_lock_file_lowers_its_mark(path, owned_by, ended):
    expect_no_lower_mark(path, owned_by, 31, ended)


@pytest.mark.slow
@pytest.mark.parametrize("ended", [False, True])
def test_no_flip_of_any_byte_of_a_lock_file_lowers_its_mark(path, owned_by, ended):
    expect_no_lower_mark(path, owned_by, 1, ended)


def without_checksum(file):
    content = json.loads(file.read_bytes())
    del content["sha256"]
    file.write_bytes(json.dumps(content, indent=1).encode())


@pytest.mark.parametrize("ended", [False, True])
def test_a_lock_file_of_an_earlier_version_is_read(path, owned_by, ended):
    without_checksum(marked(path, 88, owned_by if ended else None))
    with larstore.StoreWriter(path) as writer:
        assert writer.reserve().first_shard == 88


@pytest.mark.parametrize("damage", [b'"high_water": 80', b'"high_water": 88000000000', b'"high_water": 89', b""])
def test_a_damaged_lock_is_made_anew_on_request(path, monkeypatch, damage):
    """Its mark lies above all shards that are there, and is not below what the file says."""
    monkeypatch.setattr(locks, "STILL_SECONDS", 0.2)
    file = marked(path, 88, None)
    file.write_bytes(file.read_bytes().replace(b'"high_water": 88', damage) if damage else b"")
    left = path / "voxels/charge/c/83"  # of a worker that handed nothing in
    shutil.copytree(path / "voxels/charge/c/0", left)
    done = run(path)
    assert done.stdout == "images: damaged, nobody can tell who holds it\nroot: free\n"
    assert isinstance(done.exception, DamagedLockError)
    done = run(path, "--lock", "images", "--break-lock")
    first = 89 if damage.endswith(b"89") else 84
    assert done.stdout == f"images: was damaged, nothing changed for 180 s; free; blocks begin at shard {first} now\n"
    assert done.exit_code == 0
    with larstore.StoreWriter(path) as writer:
        assert writer.reserve().first_shard == first
    assert larstore.verify(path).ok


def test_a_damaged_lock_whose_holder_lives_is_mended_by_it(path, monkeypatch):
    monkeypatch.setattr(locks, "STILL_SECONDS", 60.0)  # whoever waits for it to end fails by the time limit
    with larstore.StoreWriter(path) as writer:
        writer.reserve(87)
        (file,) = (path / ".larstore").glob("images.*")
        good = file.read_bytes()
        file.write_bytes(good.replace(b'"high_water": 88', b'"high_water": 80'))
        with pytest.raises(DamagedLockError):
            writer._lock.check()
        threading.Timer(0.3, writer._lock.beat).start()
        done = run(path, "--lock", "images", "--break-lock")
        assert done.stdout == "images: damaged, nobody can tell who holds it; its file still changes\n"
        writer._lock.check()
        file.write_bytes(good[:40])
    with larstore.StoreWriter(path) as writer:  # also when it let go
        assert writer.reserve().first_shard == 88


def test_names_of_locks(path):
    (path / ".larstore" / ".images.00000009.0123456789abcdef.tmp").write_bytes(b"")
    (path / ".larstore" / "readme.txt").write_bytes(b"")
    with Lock(path, "predictions/a.1", beat=False):
        assert lock_names(path) == ["images", "predictions/a.1", "root"]
    assert lock_names(path / "nowhere") == []
