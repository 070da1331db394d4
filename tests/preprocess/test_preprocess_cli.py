"""`larstore preprocess` where the inputs are wrong or the user stops it: one line, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import larstore

DETECTOR = "protodune-sp-2021"


def write_npz(path: Path, events: int = 1) -> Path:
    rng = np.random.default_rng(0)
    waveform = np.zeros((64, 2560), np.float32)
    waveform[rng.integers(0, 64, 400), rng.integers(0, 2560, 400)] = rng.uniform(0.1, 5, 400)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, *[waveform] * events)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "larstore.cli", "preprocess", *map(str, arguments), "--detector", DETECTOR]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.npz"], "nothing.npz: no such file"),
        (["one", "two"], "both are file 1, TPC 1"),
        (["one", "--tpcs", "77"], "77 is not a TPC"),
        (["one", "--tpcs", "5"], "nothing is left by tpcs 5"),
        (["one", "--files", "7:9"], "nothing is left by files 7:9"),
        (["one", "--file-pattern", "a_("], "file pattern 'a_('"),
    ],
    ids=["missing", "duplicate", "tpc", "other tpc", "other files", "pattern"],
)
def test_wrong_inputs_leave_no_store(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        write_npz(tmp_path / folder / "a_1_wire-TPC1.npz")
    done = call(*arguments, "-o", "run.zarr", "--workers", 1)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run.zarr").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path):
    raw = write_npz(tmp_path / "raw" / "a_1_wire-TPC1.npz").parent
    output = tmp_path / "run.zarr"
    assert call(raw, "-o", output, "--workers", 1).returncode == 0
    before = (output / "zarr.json").read_bytes()
    same = call(raw, "-o", output, "--dry-run")
    assert same.returncode == 0
    assert "0 to do" in " ".join(same.stdout.split())
    other = call(raw, "-o", output, "--threshold", 7, "--dry-run")
    assert other.returncode == 1
    assert "threshold = 1.0, this run has 7.0" in other.stderr
    assert (output / "zarr.json").read_bytes() == before


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "sigterm", "closed terminal"],
)
def test_a_stopped_run_says_so_and_leaves_no_process(tmp_path, number):
    """The whole group gets the signal, as from a terminal or a batch system."""
    raw = tmp_path / "raw"
    for file in range(8):
        write_npz(raw / f"a_{file}_wire-TPC1.npz", events=6)
    output = tmp_path / "run.zarr"
    arguments = [raw, "-o", output, "--workers", 1, "--set", "task_bytes=1"]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which tests under nohup would hand on
    )  # fmt: skip
    while not (output / "voxels" / "coords" / "c").is_dir() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    if number != signal.SIGHUP:  # multiprocessing's own tracker dies of that; nobody is there any more to read it
        assert "Traceback" not in errors
    assert "keeps what is committed; run it again for the rest" in errors
    wait_for_group(process.pid)
    assert larstore.verify(output).ok
    assert call(*arguments).returncode == 0
    assert len(larstore.open(output)) == 48


def test_workers_end_soon_after_a_killed_driver(tmp_path):
    raw = write_npz(tmp_path / "raw" / "a_1_wire-TPC1.npz", events=40).parent
    output = tmp_path / "run.zarr"
    process = subprocess.Popen(
        command(raw, "-o", output, "--workers", 2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not output.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    wait_for_group(process.pid)


def wait_for_group(group: int, seconds: float = 60) -> None:
    """Until no process of the group is left; TimeoutError if there still is one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise TimeoutError(f"process group {group} is still there")
