"""Runs on a real Slurm, disturbed as centres do: each store equals that of a quiet local run, and no job is left."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import larstore
from larstore.errors import ClusterError
from larstore.status import run_status
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.runner import run
from tests.preprocess.small_runs import DETECTOR, fault, make_config
from tests.slurm.small_slurm import SmallSlurm, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FILES = 10


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The configuration of a run on this machine that nothing disturbed."""
    config = make_config(tmp_path_factory.mktemp("quiet"), FILES)
    with make_cluster("local", 1) as client:
        assert run(config, client).units_done == FILES
    return config


@pytest.fixture
def config(quiet: RunConfig, tmp_path: Path) -> Iterator[RunConfig]:
    """The same into another store, which must be equal in the end."""
    other = quiet.model_copy(update={"output": tmp_path / "run.zarr", "retry_seconds": 0.1})
    yield other
    assert larstore.diff(quiet.output, other.output) == []
    report = larstore.verify(other.output)
    assert report.ok, report.problems
    assert larstore.open(other.output).failures.empty


def command(config: RunConfig, profile: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "larstore.cli", "preprocess", *config.inputs, "-o", str(config.output), "--detector",
        DETECTOR, "--truth", "none", "--set", "task_bytes=1", "--set", "min_live_planes=1", "--cluster", str(profile),
        *more,
    ]  # fmt: skip


def call(config: RunConfig, profile: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, profile, *more), capture_output=True, text=True, timeout=500, check=False)


def disturbed(config: RunConfig, profile: Path, workers, seconds: float, disturb, images: int = 1):
    """Run with units of so many seconds, and do something else when there are some images."""
    seen = threading.Event()

    def show(state):
        if state.summary.images >= images:
            seen.set()

    def wait():
        assert seen.wait(400)
        disturb()

    thread = threading.Thread(target=wait)
    thread.start()
    with make_cluster(profile, workers) as client:
        client.register_worker_callbacks(fault("a_", str(seconds)))
        summary = run(config, client, show)
    thread.join()
    assert (summary.units_done, summary.units_failed) == (FILES, 0)


def test_a_run_by_the_command_line(slurm: SmallSlurm, config: RunConfig):
    done = call(config, slurm.profile(), "--workers", "0:2")
    assert done.returncode == 0, done.stderr
    assert f"{FILES}, 0, 0" in done.stdout
    assert "started job" in done.stderr
    assert "started job" in config.output.with_suffix(".log").read_text(encoding="utf-8")


@pytest.mark.fault(
    "all running jobs are cancelled (`scancel`)",
    "other jobs take their place; what they held is done again in new blocks, and counts as no failure",
)
def test_cancelled_workers(slurm: SmallSlurm, config: RunConfig):
    disturbed(config, slurm.profile(), 2, 2, lambda: slurm.ask("scancel", *slurm.queue("RUNNING")))


@pytest.mark.fault(
    "the walltime is shorter than the work",
    "a job's end cuts off what it works on, which the next job does again; what is done stays done",
)
def test_a_walltime_shorter_than_the_work(slurm: SmallSlurm, config: RunConfig):
    """Jobs of 60 s, which Slurm ends within 30 s after that: 120 s of work outlast one; what is done is kept."""
    ended = slurm.ask("squeue", "--noheader", "--states=TIMEOUT", "--format=%i").split()
    disturbed(config, slurm.profile(walltime="00:01:00"), 1, 12, lambda: None)
    now = slurm.ask("squeue", "--noheader", "--states=TIMEOUT", "--format=%i").split()
    assert set(now) > set(ended)


@pytest.mark.fault(
    "a node is drained",
    "the run comes to its end with what is left; no unit fails",
)
def test_a_node_that_is_drained(slurm: SmallSlurm, config: RunConfig):
    def drain():
        slurm.ask("scontrol", "update", "NodeName=nid0002", "State=DRAIN", "Reason=test")

    try:
        disturbed(config, slurm.profile(cores=2, tasks=1), 2, 1, drain)
    finally:
        slurm.ask("scontrol", "update", "NodeName=nid0002", "State=RESUME", check=False)


@pytest.mark.fault(
    "three jobs are wanted where one can run",
    "the run works with one; the others wait, and are cancelled at its end",
)
def test_a_job_limit_of_one(slurm: SmallSlurm, config: RunConfig):
    disturbed(config, slurm.profile(queue="single", cores=2, tasks=1), 3, 0.5, lambda: None)


@pytest.mark.fault(
    "a job waits, and is cancelled before it starts",
    "it is told with the queue's reason, another one is submitted, and the run completes once that may start",
)
def test_a_job_that_never_starts(slurm: SmallSlurm, config: RunConfig):
    slurm.ask("scontrol", "update", "PartitionName=single", "State=DOWN")
    news: list[str] = []

    def cancel() -> None:
        try:
            waiting = until(lambda: slurm.queue("PENDING"), "a waiting job")
            until(lambda: any("PartitionDown" in line for line in news), "word of it")
            slurm.ask("scancel", *waiting)
            until(lambda: slurm.queue("PENDING") not in ([], waiting), "another job")
        finally:
            slurm.ask("scontrol", "update", "PartitionName=single", "State=UP")

    thread = threading.Thread(target=cancel)
    with make_cluster(slurm.profile(queue="single"), 1) as client:
        thread.start()
        summary = run(config, client, lambda state: news.extend(state.news))
    thread.join()
    assert (summary.units_done, summary.units_failed) == (FILES, 0)
    assert any("ended before its worker was there" in line and "cancelled" in line for line in news), news
    until(slurm.is_empty, "an empty queue")


@pytest.mark.fault(
    "jobs end before their worker is there (a failing prologue)",
    "after `max_failed_starts` of them the run ends in one line that holds the job's last words, and `larstore "
    "status` says that it failed; with a mended profile the same command completes",
)
def test_a_failing_prologue(slurm: SmallSlurm, config: RunConfig):
    broken = slurm.profile(prologue=["echo 'module: no such thing' >&2; exit 3"], max_failed_starts=2)
    done = call(config, broken, "--workers", "1")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("larstore: "))
    assert "module: no such thing" in line
    assert "Traceback" not in done.stderr
    assert run_status(config.output).verdict == "the last run failed, see its log"
    until(slurm.is_empty, "an empty queue")
    assert call(config, slurm.profile(), "--workers", "1").returncode == 0


@pytest.mark.fault(
    "the driver is killed (SIGKILL), and its scheduler with it",
    "its jobs end by themselves; the same command, given at once, completes",
)
def test_a_driver_that_is_killed_and_run_again(slurm: SmallSlurm, config: RunConfig):
    """Its scheduler dies with it, and its jobs by themselves; nobody waits for them."""
    profile = slurm.profile(connect_timeout="00:00:20")
    process = subprocess.Popen(
        command(config, profile, "--workers", "2"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until(lambda: config.output.exists() and len(larstore.open(config.output)), "images")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = call(config, slurm.profile(), "--workers", "2")
    assert again.returncode == 0, again.stderr
    until(slurm.is_empty, "an empty queue", 240)


@pytest.mark.fault(
    "Ctrl-C while jobs work",
    "exit code 130, all jobs are cancelled; the same command completes",
)
def test_ctrl_c_on_a_cluster(slurm: SmallSlurm, config: RunConfig):
    profile = slurm.profile()
    process = subprocess.Popen(
        command(config, profile, "--workers", "1"),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: config.output.exists() and run_status(config.output).run.get("phase") == "working", "work")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    until(slurm.is_empty, "an empty queue")
    assert call(config, profile, "--workers", "1").returncode == 0


def test_the_driver_as_a_job(slurm: SmallSlurm, config: RunConfig):
    profile = slurm.profile(driver={"cores": 1, "memory": "1 GiB", "walltime": "00:05:00"})
    done = call(config, profile, "--workers", "1", "--driver-job")
    assert done.returncode == 0, done.stderr
    assert "runs it" in done.stdout
    until(
        lambda: config.output.exists() and run_status(config.output).verdict == "the last run is done", "its end", 300
    )
    until(slurm.is_empty, "an empty queue")


@pytest.mark.fault(
    "a scheduler that you started yourself, without Slurm, is killed",
    "the run ends in a line that says so; with another scheduler it completes",
)
def test_a_scheduler_that_is_killed_and_run_again(config: RunConfig, tmp_path: Path):
    """A scheduler and a worker of the user's own, without Slurm."""

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
        )

    def cluster(name: str) -> tuple[Path, list[subprocess.Popen[bytes]]]:
        file = tmp_path / name
        scheduler = begin(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        until(file.exists, "a scheduler")
        worker = begin(
            "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard",
            "--host", "127.0.0.1", "--death-timeout", "20",
        )  # fmt: skip
        return file, [scheduler, worker]

    file, processes = cluster("first.json")
    try:
        with make_cluster(str(file)) as client:
            client.register_worker_callbacks(fault("a_", "0.5"))
            with pytest.raises(ClusterError, match="scheduler is gone"):
                run(config, client, lambda state: processes[0].kill() if state.summary.images else None)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    file, processes = cluster("second.json")
    try:
        with make_cluster(str(file)) as client:
            run(config, client)
    finally:
        for process in processes:
            process.kill()
            process.wait()
