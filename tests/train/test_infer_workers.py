"""Inference by several processes: the same scores, whoever predicts and whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import larstore
from larstore.errors import StoreError
from tests.train.small_networks import inference_values, run_of
from train.inference import workers
from train.inference.infer import InferenceError, infer

SIZE = {"n_files": 5, "n_voxels": 300, "shard_rows": 512, "chunk_rows": 64, "blocks": True}  # a piece a file


@pytest.fixture
def store(tmp_path, copy_of_store):
    return copy_of_store(tmp_path / "s.zarr", **SIZE)


def kill_when(monkeypatch, wanted):
    """Kill the worker that is given a piece for which ``wanted(number)`` holds, before it can do any of it."""
    give = workers._Worker.give

    def give_and_kill(self, piece):
        dies = wanted(piece.number)
        if dies:
            os.kill(self.process.pid, signal.SIGSTOP)
        give(self, piece)
        if dies:
            os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(workers._Worker, "give", give_and_kill)


def same_scores(store, one, other):
    for image in larstore.open(store).select():
        assert np.isfinite(image.score(one)).all()
        np.testing.assert_array_equal(image.score(one), image.score(other))


def test_a_killed_worker_loses_nothing_and_changes_nothing(store, tmp_path, monkeypatch, caplog):
    config = run_of(store, tmp_path / "run")
    infer(config, None, store, "alone")
    todo = [2]
    kill_when(monkeypatch, lambda number: number in todo and todo.pop() == number)
    result = infer(config, None, store, "together", workers=2)
    assert (result.images, result.done_before, todo) == (10, 0, [])
    assert "died by signal 9 at" in caplog.text
    assert "to be tried again" in caplog.text
    same_scores(store, "alone", "together")
    assert larstore.verify(store).ok


@pytest.mark.slow
def test_images_at_which_workers_die_are_named_and_the_rest_is_done(store, tmp_path, monkeypatch):
    config = run_of(store, tmp_path / "run")
    with monkeypatch.context() as patch:
        kill_when(patch, lambda number: number == 1)
        with pytest.raises(InferenceError, match=r"images \(file, event, tpc\) \(1, 0, 1\), \(1, 1, 1\): not .*Fix: "):
            infer(config, None, store, "net", workers=2)
    done = {image.key[0]: np.isfinite(image.score("net")).all() for image in larstore.open(store).select()}
    assert done == {0: True, 1: False, 2: True, 3: True, 4: True}
    result = infer(config, None, store, "net", workers=2)
    assert (result.images, result.done_before) == (2, 8)
    infer(config, None, store, "alone")
    same_scores(store, "alone", "net")


@pytest.mark.slow
def test_workers_that_cannot_begin_and_errors_of_workers(store, tmp_path, monkeypatch):
    config = run_of(store, tmp_path / "run")
    start = workers._Pool._start

    def start_and_kill(self, place):
        worker = start(self, place)
        worker.process.kill()
        return worker

    with monkeypatch.context() as patch:
        patch.setattr(workers._Pool, "_start", start_and_kill)
        with pytest.raises(InferenceError, match=r"workers die before they are ready, the last one by signal 9.*Fix: "):
            infer(config, None, store, "net", workers=2)
    shard = next(iter(sorted((store / "voxels" / "charge" / "c").iterdir()))) / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"voxels/charge.*images \(file, event, tpc\) \(0, 0, 1\)"):
        infer(config, None, store, "net", workers=2)


def children(pid):
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_coordinator_takes_its_workers_along_and_can_be_continued(tmp_path, copy_of_store, end):
    store = copy_of_store(tmp_path / "s.zarr", **SIZE | {"n_files": 30})
    config = run_of(store, tmp_path / "run")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(inference_values(store, tmp_path / "run")))
    command = [sys.executable, "-m", "larstore.cli", "infer", str(file), "--store", str(store), "--name", "net"]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    workers = []
    while process.poll() is None and "net" not in larstore.open(store).predictions:
        workers = children(process.pid) or workers
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    if end == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, end)
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert errors.endswith(f"{store}: stopped. What is done is kept, the same command does the rest\n")
    assert len(workers) >= 2
    deadline = time.monotonic() + 60
    while any(running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if running(pid)]
    assert larstore.verify(store).ok
    result = infer(config, None, store, "net", workers=2)
    assert result.done_before > 0
    assert result.images + result.done_before == 60
    infer(config, None, store, "alone")
    same_scores(store, "alone", "net")
