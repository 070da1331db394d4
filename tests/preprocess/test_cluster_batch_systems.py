"""The keeper with every other batch system: their commands are played here; the jobs and their workers are real."""

import os
import time
from pathlib import Path

import pytest
import yaml
from distributed import KilledWorker

from larstore.errors import ClusterError
from preprocess.cluster import load_cluster, make_cluster, submit_driver
from tests.preprocess import fake_batch

pytestmark = pytest.mark.slow
SECONDS = 120.0
KEYS = {
    "pbs": {"walltime": "00:10:00"},
    "sge": {"walltime": "00:10:00"},
    "lsf": {"walltime": "00:10:00", "units": "mb"},
    "htcondor": {"cancel_options": []},
    "oar": {"walltime": "00:10:00"},
}


def until(true, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, f"{what}: not in {SECONDS} s"
        time.sleep(0.1)


@pytest.fixture(params=sorted(KEYS))
def profile(request, tmp_path, monkeypatch) -> Path:
    """A profile of a batch system whose commands are in PATH; its folder holds their state."""
    programs = fake_batch.install(tmp_path / "batch", request.param)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("preprocess.cluster.jobs.YOUNG_SECONDS", 1.0)
    values = {
        "kind": request.param,
        "cores": 1,
        "memory": "1 GiB",
        "query_seconds": 1,
        "log_directory": str(tmp_path / "batch" / "logs"),
        "keys_directory": str(tmp_path / "keys"),
        "dashboard": False,
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(values | KEYS[request.param]), encoding="utf-8")
    return path


def test_jobs_are_started_watched_and_ended(profile: Path):
    folder = profile.parent / "batch"
    with make_cluster(profile, 1) as client:
        until(lambda: client.keeper.state().workers == 1, "a worker")
        assert client.scheduler.address.startswith("tls://")
        assert client.submit(abs, -3).result(timeout=SECONDS) == 3
        (job,) = fake_batch.alive(folder)
        future = client.submit(time.sleep, 300, pure=False)
        time.sleep(1)
        fake_batch.delete(folder, job)
        error = future.exception(timeout=SECONDS)
        assert isinstance(error, KilledWorker)
        assert client.keeper.ended_from_outside(str(error.last_worker.name)).result(SECONDS)
        until(lambda: fake_batch.alive(folder) not in ([], [job]), "another job")
        until(lambda: client.keeper.state().workers == 1, "its worker")
        notes = client.keeper.notes()
        assert any("lost" in note and job in note and "; log " in note for note in notes), notes
    until(lambda: not fake_batch.alive(folder), "no job")


@pytest.mark.parametrize("profile", ["pbs"], indirect=True)
def test_a_pbs_without_a_history_of_jobs(profile: Path, monkeypatch):
    """As its default is: `qstat -x` is refused, and jobs that have ended are unknown."""
    monkeypatch.setenv("FAKE_PBS_HISTORY", "no")
    folder = profile.parent / "batch"
    with make_cluster(profile, 1) as client:
        until(lambda: client.keeper.state().workers == 1, "a worker")
        (job,) = fake_batch.alive(folder)
        future = client.submit(time.sleep, 300, pure=False)
        time.sleep(1)
        fake_batch.delete(folder, job)
        error = future.exception(timeout=SECONDS)
        assert client.keeper.ended_from_outside(str(error.last_worker.name)).result(SECONDS)
        until(lambda: fake_batch.alive(folder) not in ([], [job]), "another job")
        notes = client.keeper.notes()
        assert not any("does not answer" in note for note in notes), notes
        assert any(f"job {job} no longer in the queue" in note for note in notes), notes


def test_the_driver_is_a_job_too(profile: Path, tmp_path: Path):
    log = tmp_path / "driver.log"
    job = submit_driver(load_cluster(profile), ["echo", "two words", "$HOME"], log)
    assert job.partition(".")[0] in fake_batch.jobs(profile.parent / "batch")
    until(lambda: log.exists() and log.read_text(encoding="utf-8") == "two words $HOME\n", "its output")


def test_a_missing_command_is_said_at_once(profile: Path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(ClusterError, match=r"not a command of this machine\..*Fix:"), make_cluster(profile, 1):
        raise AssertionError("it must not get here")
