"""Ctrl-C once: what is in flight is finished; twice: stopped now; `larstore status` tells all the while."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import larstore
from larstore.errors import StoreError
from larstore.status import run_status, status_file
from preprocess.cluster import make_cluster
from preprocess.interrupts import Stop, held_back, listening, terminable
from preprocess.runner import run
from tests.preprocess.commands import larstore_command
from tests.preprocess.small_runs import DETECTOR, make_config


def start(config, *more):
    command = [
        sys.executable, "-m", "larstore.cli", "preprocess", *config.inputs, "-o", str(config.output), "--detector",
        DETECTOR, "--workers", "1", "--set", "task_bytes=1", "--set", "min_live_planes=1", *more,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def phase(config):
    data = status_file(config.output)
    return json.loads(data.read_text())["phase"] if data.is_file() else ""


@pytest.fixture
def terminal():
    """Tests may run under nohup themselves, where SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_the_presses_of_ctrl_c(terminal):
    asked = []
    before = signal.getsignal(signal.SIGINT)
    with listening(asked.append):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [Stop.FINISH, Stop.NOW]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with listening(asked.append):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
    assert asked[2:] == [Stop.NOW, Stop.NOW]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_workers_start_waits_for_them():
    """What is half started cannot be ended in order; a second one does not wait."""

    def start(presses: int) -> None:
        with held_back():
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
            reached.append(presses)

    reached: list[int] = []
    start(0)
    for presses in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            start(presses)
    assert reached == [0, 1]


def test_ctrl_c_without_workers_waits_for_nothing(tmp_path):
    config = make_config(tmp_path, 3)
    with make_cluster("local", 1) as client:
        client.keeper.wanted = lambda n_tasks: None
        client.cluster.scale(0)
        while client.keeper.state().workers:
            time.sleep(0.05)
        presses = []

        def press(state):
            if state.in_flight and not presses:
                presses.append(1)
                os.kill(os.getpid(), signal.SIGINT)

        summary = run(config, client, press)
    assert presses
    assert (summary.units_done, summary.units_left) == (0, 3)


def test_a_run_under_nohup_outlives_its_terminal():
    asked = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(asked.append), terminable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not asked


@pytest.mark.fault(
    "Ctrl-C, once or twice",
    "once: what is in flight is finished and committed; twice: the run stops now, what came back is committed. "
    "Exit code 130, `larstore status` says so; the same command does the rest",
)
@pytest.mark.parametrize("presses", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c(tmp_path, presses):
    config = make_config(tmp_path, 12, events=4)
    process = start(config)
    wait_for(process, lambda: phase(config) == "working")
    assert run_status(config.output).holder is not None
    os.killpg(process.pid, signal.SIGINT)
    if presses == 2:
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "stopped" in errors
    assert presses == 2 or "Ctrl-C again stops now" in errors
    assert "units left" in out
    status = run_status(config.output)
    assert status.verdict == "the last run is stopped"
    assert status.run["units_done"] + status.run["units_failed"] < 12
    assert len(larstore.open(config.output)) == 4 * status.run["units_done"]
    if presses == 1:
        assert status.run["units_done"] > 0  # what was in flight
    assert larstore.verify(config.output).ok
    assert larstore_command("status", config.output).returncode == 0
    again = start(config)
    assert again.communicate(timeout=200)[1] is not None
    assert again.returncode == 0
    assert len(larstore.open(config.output)) == 48
    status = run_status(config.output)
    assert (status.verdict, status.holder, status.lost) == ("the last run is done", None, False)
    log = config.output.with_suffix(".log").read_text()
    assert "stopped: " in log
    assert "done: " in log


@pytest.mark.fault(
    "the run is killed, and you ask `larstore status`",
    "it says that the run was killed, and its exit code is 1",
)
def test_status_of_a_run_that_was_killed(tmp_path):
    config = make_config(tmp_path, 8, events=4)
    process = start(config)
    wait_for(process, lambda: phase(config) == "working")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = larstore_command("status", config.output)
    assert done.returncode == 1
    assert "the last run was killed; run it again for the rest" in done.stdout
    assert json.loads(larstore_command("status", config.output, "--json").stdout)["alive"] is False


def test_status_of_what_no_run_wrote(tmp_path):
    path = larstore.testing.make_store(tmp_path / "a.zarr", n_files=1, n_events=1)
    assert run_status(path).verdict == "no run has told anything"
    status_file(path).write_text("[1]")
    with pytest.raises(StoreError, match=r"images\.run: not written by a run"):
        run_status(path)
    status_file(path).unlink()
    with pytest.raises(StoreError, match="not a larstore store"):
        run_status(tmp_path / "none.zarr")
