"""Ends on a real Slurm: of jobs whose lifetime is over, and of what a killed driver leaves; the driver as a job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocess.cluster import load_cluster, make_cluster, submit_driver
from tests.slurm.small_slurm import SmallSlurm, until

pytestmark = pytest.mark.slow
DRIVER = """
import sys, time
from preprocess.cluster import make_cluster
if __name__ == "__main__":
    with make_cluster(sys.argv[1], int(sys.argv[2])) as client:
        print(client.submit(abs, -7).result(timeout=120), flush=True)
        time.sleep(float(sys.argv[3]))
"""


def mark(path: str, number: int, seconds: float) -> str:
    """A task that says when it begins and ends, and in which job."""
    for word in ("begun", "ended"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{word} {number} {os.environ['SLURM_JOB_ID']}\n")
        if word == "begun":
            time.sleep(seconds)
    return path


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "driver.py"
    path.write_text(DRIVER, encoding="utf-8")
    return path


def test_workers_leave_at_the_end_of_their_lifetime_and_cut_nothing_off(slurm: SmallSlurm, tmp_path: Path):
    marks = tmp_path / "marks"
    with make_cluster(slurm.profile(lifetime="00:00:08"), 1) as client:
        # Two on the worker at a time, as a run has it: one of them waits there when it leaves.
        waiting, numbers = [], iter(range(12))
        while True:
            while len(waiting) < 2 and (number := next(numbers, None)) is not None:
                waiting.append(client.submit(mark, str(marks), number, 2.0, pure=False))
            if not waiting:
                break
            waiting.pop(0).result(timeout=120)
        notes = client.keeper.notes()
    lines = [line.split() for line in marks.read_text(encoding="utf-8").splitlines()]
    for word in ("begun", "ended"):
        assert sorted(int(number) for each, number, _ in lines if each == word) == list(range(12))
    assert len({job for _, _, job in lines}) >= 2, "more than one job took part"
    assert not any("lost" in note for note in notes), notes


def test_jobs_of_a_killed_driver_end_by_themselves(slurm: SmallSlurm, driver: Path):
    """One job runs, another waits for its place and starts when the driver is gone."""
    profile = slurm.profile(queue="single", cores=2)
    process = subprocess.Popen(
        [sys.executable, str(driver), str(profile), "2", "600"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "7\n"
        until(lambda: len(slurm.queue()) == 2, "two jobs")
        assert len(slurm.queue("PENDING")) == 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    until(slurm.is_empty, "an empty queue", 240)
    logs = [path.read_text(encoding="utf-8") for path in (profile.parent / "logs").iterdir()]
    assert any("no scheduler at tls://" in log for log in logs), logs


def test_the_driver_as_a_job_starts_jobs_of_its_own(slurm: SmallSlurm, driver: Path, tmp_path: Path):
    profile = slurm.profile(driver={"cores": 1, "memory": "1 GiB", "walltime": "00:05:00"})
    log = tmp_path / "driver.log"
    command = [sys.executable, str(driver), str(profile), "1", "0"]
    job = submit_driver(load_cluster(profile), command, log)
    assert job in slurm.queue("all")
    until(lambda: log.exists() and log.read_text(encoding="utf-8") == "7\n", "the driver's result")
    until(slurm.is_empty, "an empty queue")
    assert slurm.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %j") == "COMPLETED larstore-driver"
