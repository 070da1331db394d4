"""larstore unlock: what it shows, what it releases, and what it refuses, by the rules of taking over."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import locks, maintenance_cli, unlocking
from larstore.errors import LockedError, StoreError
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


def test_names_of_locks(path):
    (path / ".larstore" / ".images.00000009.0123456789abcdef.tmp").write_bytes(b"")
    (path / ".larstore" / "readme.txt").write_bytes(b"")
    with Lock(path, "predictions/a.1", beat=False):
        assert lock_names(path) == ["images", "predictions/a.1", "root"]
    assert lock_names(path / "nowhere") == []
