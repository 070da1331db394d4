"""`larstore preprocess` killed at random moments, then run to its end: the store equals that of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import larstore
from preprocess.simulation.parallel import simulate_files
from preprocess.testing import SMALL_SIMULATION, write_small_detector

KILLS = {"driver": 10, "group": 20}
FILES, EVENTS_PER_FILE = 24, 3


def start(output: Path, raw: Path, detector: Path) -> subprocess.Popen[bytes]:
    command = ["preprocess", raw, "-o", output, "--detector", detector, "--workers", 2, "--set", "task_bytes=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "larstore.cli", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def images(output: Path) -> int:
    return len(larstore.open(output)) if (output / "zarr.json").is_file() else 0


@pytest.mark.fault(
    "the driver alone, at ten random moments, or all processes of the run, at twenty, are killed (SIGKILL)",
    "no committed image is lost; the store of the run that completes equals that of an undisturbed one",
)
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["driver", "group"])
def test_killed_runs_lose_nothing(tmp_path, victim):
    rng = random.Random(victim)
    detector = write_small_detector(tmp_path)
    raw = tmp_path / "raw"
    simulate_files(raw, str(detector), (1,), FILES * EVENTS_PER_FILE, EVENTS_PER_FILE, 7, SMALL_SIMULATION)
    undisturbed, killed = tmp_path / "undisturbed.zarr", tmp_path / "killed.zarr"
    began = time.monotonic()
    assert start(undisturbed, raw, detector).wait(timeout=250) == 0
    length = time.monotonic() - began
    progress = []
    for _ in range(KILLS[victim]):
        process = start(killed, raw, detector)
        time.sleep(rng.uniform(0.3, 0.9) * length)
        if victim == "driver":
            process.kill()
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        progress.append(images(killed))
        if progress[-1]:
            assert larstore.verify(killed, fast=True).ok
    assert progress == sorted(progress), "an image that was committed is gone"
    assert start(killed, raw, detector).wait(timeout=250) == 0
    assert len(larstore.open(killed)) == FILES * EVENTS_PER_FILE
    assert larstore.diff(undisturbed, killed) == []
    report = larstore.verify(killed)
    assert report.ok, report.problems
