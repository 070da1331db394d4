"""The keeper on a real Slurm: jobs come, are replaced, are told of with the queue's reason, and none is left."""

import os
import signal
import stat
import time
from pathlib import Path

import pytest
from distributed import KilledWorker

from larstore.errors import ClusterError
from preprocess.cluster import make_cluster
from tests.slurm.small_slurm import SECONDS, SmallSlurm, until

pytestmark = pytest.mark.slow


def pid_of_worker() -> int:
    return os.getpid()


def note_and_sleep(path: str, seconds: float) -> str:
    """A task that leaves a line for each time that it is begun and ended."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"begun {os.getpid()}\n")
    time.sleep(seconds)
    with open(path, "a", encoding="utf-8") as file:
        file.write("ended\n")
    return path


def there(client, number: int):
    """Wait for workers, as a run does."""

    def are() -> bool:
        client.keeper.check()
        return client.keeper.state().workers >= number

    until(are, f"{number} workers")


def test_workers_come_by_tls_and_nothing_is_left(slurm: SmallSlurm):
    profile = slurm.profile(cores=2, tasks=2)
    with make_cluster(profile, 2) as client:
        assert client.keeper.state().wanted == 4
        there(client, 2)
        state = client.keeper.state()
        assert (state.workers, state.slots, state.pending_jobs) == (2, 4, 0)
        assert client.scheduler.address.startswith("tls://")
        assert sum(client.gather(client.map(abs, range(-10, 0)))) == 55
        jobs = slurm.queue()
        assert len(jobs) == 2
        assert any(set(jobs) <= set(note.replace(",", "").split()) for note in client.keeper.notes())
        folders = list((profile.parent / "keys").iterdir())
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700]
        assert client.cluster.scheduler.http_server.address == "127.0.0.1"
        files = list(folders[0].iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert len(files) == 2
    assert not list((profile.parent / "keys").iterdir())
    until(slurm.is_empty, "an empty queue")


def test_a_cancelled_job_is_replaced_and_its_task_is_not_to_blame(slurm: SmallSlurm, tmp_path: Path):
    marks = tmp_path / "marks"
    with make_cluster(slurm.profile(), 1) as client:
        there(client, 1)
        future = client.submit(note_and_sleep, str(marks), 300, pure=False)
        until(marks.exists, "the task's beginning")
        (job,) = slurm.queue()
        slurm.ask("scancel", job)
        error = future.exception(timeout=120)
        assert isinstance(error, KilledWorker)
        assert client.keeper.ended_from_outside(str(error.last_worker.name)).result(SECONDS)
        there(client, 1)
        assert slurm.queue() != [job]
        notes = client.keeper.notes()
        assert any("lost" in note and f"job {job} cancelled" in note for note in notes), notes
        # Dask has not begun it again by itself: its block is used up.
        assert marks.read_text(encoding="utf-8").count("begun") == 1


def test_a_process_that_dies_by_itself_is_started_again_in_its_job(slurm: SmallSlurm):
    with make_cluster(slurm.profile(), 1) as client:
        there(client, 1)
        jobs = slurm.queue()
        pid = client.submit(pid_of_worker, pure=False).result(timeout=120)
        future = client.submit(time.sleep, 300, pure=False)
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
        error = future.exception(timeout=120)
        assert isinstance(error, KilledWorker)
        assert not client.keeper.ended_from_outside(str(error.last_worker.name)).result(SECONDS)
        assert client.submit(pid_of_worker, pure=False).result(timeout=120) != pid
        assert slurm.queue() == jobs


def test_a_failed_node_is_not_the_tasks_fault(slurm: SmallSlurm):
    with make_cluster(slurm.profile(directives=["--nodelist=nid0002"]), 1) as client:
        there(client, 1)
        future = client.submit(time.sleep, 300, pure=False)
        time.sleep(1)
        slurm.ask("scontrol", "update", "NodeName=nid0002", "State=DOWN", "Reason=test")
        try:
            error = future.exception(timeout=120)
            assert isinstance(error, KilledWorker)
            assert client.keeper.ended_from_outside(str(error.last_worker.name)).result(SECONDS)
        finally:
            # A node may come back by itself, which this refuses then.
            slurm.ask("scontrol", "update", "NodeName=nid0002", "State=RESUME", check=False)
    until(lambda: slurm.ask("sinfo", "-h", "-N", "-n", "nid0002", "-p", "debug", "-o", "%t") == "idle", "an idle node")


def test_a_failing_prologue_ends_the_run_with_the_log(slurm: SmallSlurm):
    profile = slurm.profile(prologue=["echo 'module: no such thing' >&2; exit 3"], max_failed_starts=2)
    with make_cluster(profile, 2) as client:
        with pytest.raises(ClusterError, match=r"no worker came of \d job starts") as caught:
            there(client, 1)
        notes = client.keeper.notes()
    assert "module: no such thing" in str(caught.value)
    assert str(profile.parent / "logs") in str(caught.value)
    assert "Fix:" in str(caught.value)
    assert sum("ended before its worker was there" in note for note in notes) >= 2


def test_a_job_whose_worker_never_connects_is_cancelled(slurm: SmallSlurm):
    profile = slurm.profile(prologue=["sleep 600"], connect_timeout="00:00:03", max_failed_starts=1)
    with make_cluster(profile, 1) as client:
        with pytest.raises(ClusterError, match="never connected in 3 s"):
            there(client, 1)
        until(slurm.is_empty, "an empty queue")


def test_a_refused_job_is_an_error_at_once(slurm: SmallSlurm):
    wrong = slurm.profile(queue="nowhere")
    with pytest.raises(ClusterError, match=r"sbatch refuses the job: .*partition.*Fix:"), make_cluster(wrong, 1):
        raise AssertionError("it must not get here")
    assert not (wrong.parent / "logs").exists()
    with (
        pytest.raises(ClusterError, match="sbatch refuses the job"),
        make_cluster(slurm.profile(cores=64), 1),
    ):
        raise AssertionError("it must not get here")


def test_a_job_that_must_wait_is_told_of_and_is_no_failure(slurm: SmallSlurm):
    slurm.ask("scontrol", "update", "PartitionName=single", "State=DOWN")
    try:
        with make_cluster(slurm.profile(queue="single", max_failed_starts=1), 1) as client:
            notes: list[str] = []
            until(lambda: notes.extend(client.keeper.notes()) or any("PartitionDown" in n for n in notes), "a note")
            client.keeper.check()
            assert client.keeper.state().pending_jobs == 1
            slurm.ask("scontrol", "update", "PartitionName=single", "State=UP")
            there(client, 1)
    finally:
        slurm.ask("scontrol", "update", "PartitionName=single", "State=UP")


def test_one_job_at_a_time_is_enough(slurm: SmallSlurm):
    """Three jobs wanted where one fits: the others wait, and are cancelled at the end."""
    with make_cluster(slurm.profile(queue="single", cores=2, tasks=1), 3) as client:
        there(client, 1)
        until(lambda: client.keeper.state().pending_jobs == 2, "two waiting jobs")
        assert client.gather(client.map(abs, range(-3, 0))) == [3, 2, 1]
        client.keeper.check()
        assert len(slurm.queue()) == 3
        (running,) = slurm.queue("RUNNING")
        slurm.ask("scancel", running)
        until(lambda: slurm.queue("RUNNING") not in ([], [running]), "the next job")
        there(client, 1)
        client.keeper.check()


def test_jobs_come_and_go_with_what_is_wanted(slurm: SmallSlurm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("preprocess.cluster.job_keeper.SURPLUS_SECONDS", 1.0)
    with make_cluster(slurm.profile(cores=2), (0, 2)) as client:
        keeper = client.keeper
        assert keeper.state().workers == 0
        keeper.wanted(3)  # two tasks fit into a job
        there(client, 2)
        busy = client.submit(time.sleep, 8, pure=False)
        keeper.wanted(1)
        until(lambda: keeper.state().workers == 1, "one worker less")
        assert busy.result(timeout=120) is None
        keeper.wanted(0)
        time.sleep(3)
        assert keeper.state().workers == 1, "a result that somebody waits for is only there"
        busy.release()
        until(lambda: keeper.state().workers == 0 and slurm.is_empty(), "no worker")
        assert not [note for note in keeper.notes() if not note.startswith("started job")]
