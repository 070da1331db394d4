"""One training at a time in a run's directory: a second one is refused, what a dead one left is taken over."""

import errno
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from larstore import fs
from larstore.errors import ConfigError
from larstore.lock_files import LockState, encode
from larstore.locks import Lock, identity
from tests.train.small_runs import run_values
from train.config import make_config
from train.fitting.fit import fit
from train.records.folder import RunFolder
from train.records.run_lock import alone_in, saved
from train.resuming.checkpoint import load_checkpoint

HOLD = """
import os, sys
from pathlib import Path
from larstore.locks import Lock
Lock(Path(sys.argv[1]), "run").acquire()
os._exit(9)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.mark.usefixtures("point_net")
def test_a_second_training_is_refused_and_changes_nothing(tmp_path, copy_of_store):
    store = copy_of_store(tmp_path / "s.zarr")
    config = make_config(run_values(store, tmp_path / "run", [0, 3], [4, 5], n_epochs=1))
    folder = RunFolder(tmp_path / "run")
    with alone_in(folder, saved(folder)):
        with pytest.raises(ConfigError) as caught:
            fit(config, progress=False)
        assert not list((folder.path / "configs").iterdir())
        assert not folder.log_file.exists()
    who = f"process {os.getpid()} on {os.uname().nodename} trains into it already"
    assert str(caught.value) == f"{folder.path}: {who}. Fix: another output_dir, or wait for that to end"
    result = fit(config, progress=False)
    before = load_checkpoint(result.checkpoint)["global_step"]
    config.train.n_epochs = 2
    with alone_in(folder, saved(folder)), pytest.raises(ConfigError, match="trains into it already"):
        fit(config, resume=True, progress=False)
    assert load_checkpoint(fit(config, resume=True, progress=False).checkpoint)["global_step"] == 2 * before


def test_states_that_are_newer_than_the_decision_are_told(folder):
    before = saved(folder)
    with alone_in(folder, before):
        folder.last.write_bytes(b"state")
    with (
        pytest.raises(ConfigError, match=r"another process has just trained into it\. Fix: "),
        alone_in(folder, before),
    ):
        pass
    with alone_in(folder, saved(folder)):  # the refused one let go of it
        pass


def test_what_a_killed_training_held_is_taken_over(folder):
    folder.make()
    done = subprocess.run([sys.executable, "-c", HOLD, folder.path], check=False, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert Lock(folder.path, "run").state().held
    with alone_in(folder, saved(folder)):
        assert Lock(folder.path, "run").state().owner.pid == os.getpid()
    assert not Lock(folder.path, "run").state().held


def elsewhere(folder, heartbeat=0):
    """The lock as a process of another host holds it."""
    lock = folder.path / ".larstore" / "run.00000000"
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner = replace(identity(), host="node7", machine="another", pid=4711)
    fs.replace(lock, encode(LockState(owner, "a" * 32, "2026-01-01T00:00:00+00:00", heartbeat=heartbeat)))


def test_another_host_is_watched(folder, monkeypatch):
    monkeypatch.setattr("larstore.locks.STILL_SECONDS", 0.6)
    elsewhere(folder)
    ended = threading.Event()

    def beat():
        number = 0
        while not ended.wait(0.02):
            number += 1
            elsewhere(folder, number)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(ConfigError, match="process 4711 on node7 trains into it already"):
            alone_in(folder, saved(folder)).__enter__()
    finally:
        ended.set()
        heart.join()
    with alone_in(folder, saved(folder)):
        assert Lock(folder.path, "run").state().owner == identity()


def test_without_hard_links_there_is_a_warning(folder, caplog):
    def no_links(operation):
        if operation.kind == "link":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with fs.observed(no_links), alone_in(folder, saved(folder)):
        pass
    assert "run: no lock can be held here (Operation not permitted): let one training at a time use it" in caplog.text


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_takes_nothing_is_one_line(folder, caplog, number):
    with alone_in(folder, saved(folder)):
        pass

    def refused(operation):
        if operation.kind in ("write", "unlink", "link"):
            raise OSError(number, os.strerror(number))

    with fs.observed(refused), pytest.raises(ConfigError) as caught:
        alone_in(folder, saved(folder)).__enter__()
    assert str(caught.value) == f"{folder.path}: {os.strerror(number)}. Fix: make it writable, or free space"
    assert not caplog.text


def test_a_damaged_lock_is_one_line(folder):
    elsewhere(folder)
    lock = folder.path / ".larstore" / "run.00000000"
    lock.write_bytes(lock.read_bytes()[:40])
    with pytest.raises(ConfigError) as caught, alone_in(folder, saved(folder)):
        pass
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(f"Fix: make sure that no process trains here, then remove {lock.parent}")


def test_a_lock_that_cannot_be_let_go_of_ends_no_training(folder, caplog):
    with alone_in(folder, saved(folder)):
        for file in (folder.path / ".larstore").iterdir():
            file.unlink()
    assert "lock run was lost to nobody" in caplog.text
