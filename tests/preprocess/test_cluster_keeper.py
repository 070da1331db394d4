"""What the keeper does, step by step: jobs and clock are played, so that nothing here waits or depends on luck."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from larstore.errors import ClusterError
from preprocess.cluster.config import SlurmConfig
from preprocess.cluster.job_keeper import JobKeeper
from preprocess.cluster.queues import Entry, State

CONFIG = SlurmConfig(kind="slurm", cores=1, memory="1 GiB", max_failed_starts=3)


class Launcher:
    """Jobs that do what a test says; ``refuse``: why the next ones are not taken."""

    slots = 2

    def __init__(self) -> None:
        self.queue: dict[str, Entry] = {}
        self.names: dict[str, str] = {}
        self.ended: list[str] = []
        self.refuse = ""
        self.is_deaf = self.keeps_jobs = False

    async def start(self, name: str) -> str:
        if self.refuse:
            raise ClusterError(self.refuse)
        job = str(len(self.names) + 1)
        self.queue[job], self.names[job] = Entry(State.PENDING), name
        return job

    async def query(self, ids: list[str]) -> dict[str, Entry] | None:
        return None if self.is_deaf else {job: self.queue[job] for job in ids if job in self.queue}

    async def cancel(self, ids: list[str]) -> str:
        return self.cancel_now(ids)

    def cancel_now(self, ids: list[str]) -> str:
        if self.keeps_jobs:
            return "scancel: Socket timed out"
        self.ended += ids
        for job in ids:
            self.queue[job] = Entry(State.CANCELLED)
        return ""

    def log(self, job_id: str) -> None:
        return None


class Keeper(JobKeeper):
    """Takes its steps only when it is told to."""

    async def _watch(self) -> None:
        return

    def _cancel_rest(self) -> None:
        return


class Site:
    """A keeper, its jobs, and a clock."""

    def __init__(self, least: int, most: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.workers: dict[str, Any] = {}
        self.removed: list[str] = []
        scheduler = SimpleNamespace(workers=self.workers, running=set(), remove_worker=self._remove)
        cluster: Any = SimpleNamespace(scheduler=scheduler, loop=SimpleNamespace(asyncio_loop=self.loop))
        self.jobs = Launcher()
        self.keeper = Keeper(cluster, self.jobs, CONFIG, least, most, None)
        self.now = 1000.0
        self.notes: list[str] = []

    async def _remove(self, address: str, stimulus_id: str) -> None:
        self.removed.append(address)
        self.workers.pop(address, None)

    def run(self, job: str) -> None:
        """A job starts, and its worker connects."""
        self.jobs.queue[job] = Entry(State.RUNNING)
        name = self.jobs.names[job]
        self.workers[f"address-{job}"] = SimpleNamespace(
            name=name, nthreads=2, address=f"address-{job}", processing={}, has_what={}
        )

    def end(self, job: str, state: State, reason: str = "", with_worker: bool = True) -> None:
        self.jobs.queue[job] = Entry(state, reason)
        if with_worker:
            self.workers.pop(f"address-{job}", None)

    def pass_time(self, seconds: float) -> None:
        """Steps of a second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.loop.run_until_complete(self._step())
        self.notes += self.keeper.notes()

    async def _step(self) -> None:
        self.keeper._see_workers(self.now)
        await self.keeper._ask_queue(self.now)
        await self.keeper._settle(self.now)
        await self.keeper._start_some(self.now)
        await self.keeper._end_some(self.now)
        self.keeper._publish()

    @property
    def live(self) -> list[str]:
        return [job.id for job in self.keeper._jobs]


@pytest.fixture
def site(request):
    sites: list[Site] = []

    def make(least: int, most: int) -> Site:
        sites.append(Site(least, most))
        return sites[-1]

    yield make
    for each in sites:
        each.loop.run_until_complete(asyncio.sleep(0))
        each.loop.close()


def test_jobs_follow_what_is_wanted_within_bounds(site):
    here = site(1, 3)
    here.pass_time(1)
    assert here.live == ["1"]
    here.keeper.wanted(4)
    here.pass_time(1)
    assert here.live == ["1", "2"]
    here.keeper.wanted(100)
    here.pass_time(1)
    assert here.live == ["1", "2", "3"]
    assert here.keeper.state().wanted == 6
    here.run("1")
    here.keeper.wanted(0)
    here.pass_time(29)
    assert len(here.live) == 3, "it may be wanted again soon"
    here.pass_time(5)
    assert here.live == ["1"], "those that wait go first, and one stays"
    assert sorted(here.jobs.ended) == ["2", "3"]


def test_a_lost_job_is_replaced_and_told_with_its_reason(site):
    here = site(2, 2)
    here.pass_time(1)
    here.run("1")
    here.run("2")
    here.pass_time(2)
    assert here.keeper.state().slots == 4
    here.end("1", State.TIMEOUT, "TimeLimit")
    here.pass_time(3)
    assert here.live == ["2", "3"]
    assert "worker larstore-0 lost: job 1 out of walltime (TimeLimit); no log" in here.notes


def test_a_burst_of_failures_is_one_and_then_one_job_at_a_time_is_tried(site):
    """A node that eats jobs must not end a run whose other jobs would do."""
    here = site(20, 20)
    here.pass_time(4)
    assert len(here.live) == 20
    for job in here.live[:14]:
        here.end(job, State.FAILED, "NonZeroExitCode")
    here.pass_time(2)
    assert len(here.live) == 6
    here.keeper.check()
    here.pass_time(60)
    assert len(here.live) == 6 + 1, "a single new one"
    here.run(here.live[-1])
    here.pass_time(60)
    assert len(here.live) == 20, "it came: all are replaced"


def test_failed_starts_in_a_row_are_the_end_with_the_reason(site):
    here = site(1, 1)
    starts = []
    for _ in range(3):
        while not here.live:
            here.pass_time(1)
        starts.append(here.now)
        here.end(here.live[0], State.FAILED, "NonZeroExitCode")
        here.pass_time(1)
    assert starts[1] - starts[0] >= 5
    assert starts[2] - starts[1] >= 15
    with pytest.raises(ClusterError, match=r"3 job starts in a row.*job 3 failed \(NonZeroExitCode\).*Fix:"):
        here.keeper.check()
    here.pass_time(1000)
    assert not here.live


def test_a_limit_of_jobs_that_refuses_more_does_not_end_the_run(site):
    here = site(1, 4)
    here.pass_time(1)
    here.run("1")
    here.jobs.refuse = "sbatch refused a job: QOSMaxSubmitJobPerUserLimit"
    here.keeper.wanted(8)
    here.pass_time(300)
    here.keeper.check()
    assert here.notes.count(here.jobs.refuse) == 1
    here.jobs.refuse = ""
    here.pass_time(70)
    assert len(here.live) == 4


def test_the_very_first_refusal_is_the_end(site):
    here = site(1, 4)
    here.jobs.refuse = "sbatch refused a job: Invalid account"
    here.pass_time(1)
    with pytest.raises(ClusterError, match="Invalid account"):
        here.keeper.check()


def test_a_queue_that_does_not_answer_changes_nothing(site):
    here = site(1, 1)
    here.pass_time(1)
    here.run("1")
    here.pass_time(1)
    here.jobs.is_deaf = True
    here.pass_time(100)
    assert here.live == ["1"]
    assert sum("does not answer" in note for note in here.notes) == 1


def test_a_job_that_the_queue_forgot_is_replaced(site):
    here = site(1, 1)
    here.pass_time(1)
    here.run("1")
    here.pass_time(1)
    del here.jobs.queue["1"]
    here.workers.clear()
    here.pass_time(4)
    assert here.live == ["2"]


def test_a_worker_of_a_job_that_ended_is_not_waited_for(site):
    """Its host failed: Dask's connection hangs for minutes, and its tasks with it."""
    here = site(1, 1)
    here.pass_time(1)
    here.run("1")
    here.pass_time(1)
    here.end("1", State.NODE_FAIL, with_worker=False)
    here.pass_time(5)
    assert here.removed == []
    here.pass_time(10)
    assert here.removed == ["address-1"]
    assert here.live == ["2"]


def test_a_job_that_was_taken_back_is_replaced(site):
    """HTCondor evicts jobs, and holds them; Slurm and others may queue them again."""
    here = site(1, 1)
    for number, (state, reason) in enumerate(((State.PENDING, ""), (State.HELD, "over its disk")), 1):
        here.pass_time(15)
        here.run(str(number))
        here.pass_time(15)
        here.end(str(number), state, reason)
        here.pass_time(15)
        assert here.jobs.ended[-1] == str(number)
        assert here.live == [str(number + 1)]
        assert here.keeper._failures == 0
    assert "worker larstore-1 lost, its job cancelled: job 2 held (over its disk); no log" in here.notes


def test_a_job_that_never_ends_is_replaced(site):
    """Its node is dead, and the batch system waits for it."""
    here = site(1, 1)
    here.pass_time(1)
    here.run("1")
    here.pass_time(20)
    here.end("1", State.ENDING)
    here.pass_time(40)
    assert here.live == ["1"]
    here.pass_time(40)
    assert here.live == ["2"]


def test_a_job_that_cannot_be_cancelled_is_cancelled_again(site):
    here = site(0, 2)
    here.keeper.wanted(4)
    here.pass_time(1)
    here.jobs.keeps_jobs = True
    here.keeper.wanted(0)
    here.pass_time(100)
    assert here.live == []
    assert sorted(here.keeper._ending.ids) == ["1", "2"]
    assert here.keeper._ending.refused == {"1", "2"}, "they are cancelled at the end of the run, too"
    (note,) = (note for note in here.notes if "not cancelled" in note)
    assert note.endswith("scancel: Socket timed out")
    here.jobs.keeps_jobs = False
    here.pass_time(30)
    assert here.keeper._ending.ids == []
    assert not here.keeper._ending.refused
    assert set(here.jobs.ended) == {"1", "2"}


def test_a_queue_that_never_answers_ends_a_run_without_workers(site):
    here = site(1, 1)
    here.pass_time(1)
    here.jobs.is_deaf = True
    here.pass_time(890)
    here.keeper.check()
    here.pass_time(40)
    with pytest.raises(ClusterError, match=r"has not answered for 900 s.*Fix:"):
        here.keeper.check()


def test_a_job_without_its_worker_for_long_is_cancelled(site):
    here = site(1, 1)
    here.pass_time(1)
    here.jobs.queue["1"] = Entry(State.RUNNING)
    here.pass_time(590)
    assert here.live == ["1"]
    here.pass_time(20)
    assert here.jobs.ended == ["1"]
    assert any("never connected in 600 s" in note for note in here.notes)


@pytest.mark.parametrize(
    ("state", "reason", "outside"),
    [
        (State.CANCELLED, "", True),
        (State.TIMEOUT, "", True),
        (State.PREEMPTED, "", True),
        (State.NODE_FAIL, "", True),
        (State.OUT_OF_MEMORY, "", False),
        (State.FAILED, "", False),
        (State.PENDING, "", True),
        (State.HELD, "The job ran longer than allowed", True),
        (State.HELD, "Job has gone over memory limit of 8192 megabytes", False),
    ],
)
def test_who_is_to_blame_for_a_lost_worker(site, state, reason, outside):
    here = site(1, 1)
    here.pass_time(1)
    here.run("1")
    here.pass_time(1)
    here.end("1", state, reason)
    here.pass_time(12)
    assert here.loop.run_until_complete(here.keeper._verdict("larstore-0")) is outside
    assert here.loop.run_until_complete(here.keeper._verdict("unknown")) is False


def test_all_tasks_of_a_lost_worker_wait_for_one_verdict(site):
    here = site(1, 1)
    asked = []

    async def verdict(name: str) -> bool:
        asked.append(name)
        await asyncio.sleep(0)
        return True

    here.keeper._verdict = verdict

    async def ask() -> list[bool]:
        addresses = ["tls://a:1", "tls://a:1", "tls://a:2", "tls://a:1"]
        return await asyncio.gather(*(here.keeper._verdict_once("larstore-0", each) for each in addresses))

    assert here.loop.run_until_complete(ask()) == [True] * 4
    assert here.loop.run_until_complete(ask()) == [True] * 4
    assert len(asked) == 2
