"""Keeps as many jobs as a run wants: starts, watches and replaces them, and tells the reason of what goes wrong."""

import asyncio
import atexit
import logging
import random
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any

from larstore.errors import ClusterError
from preprocess.cluster.config import BatchConfig, RemoteConfig
from preprocess.cluster.ending_jobs import EndingJobs
from preprocess.cluster.jobs import Job, Launcher, waiting_reasons
from preprocess.cluster.keeper import ClusterState, Keeper
from preprocess.cluster.leaving import is_at_rest, send_away, take_no_more, wall_clock
from preprocess.cluster.queues import State
from preprocess.cluster.values import seconds

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
REST_SECONDS = 2.0  # after the end of a lifetime, before a worker's word that it rests is believed
DEAF_SECONDS = 900.0  # without any word of the queue, nor any worker, before the run ends
AT_ONCE = 8  # submissions
SURPLUS_SECONDS = 30.0  # before jobs that are too many are ended
FIRST_PAUSE = 5.0  # after a failed start; each further one in a row makes it three times as long
LONGEST_PAUSE = 600.0
GHOST_SECONDS = 10.0  # in which a worker whose job has ended may still seem to be there
VERDICT_SECONDS = 60.0  # for the queue's word on a lost worker, or of three questions to it
SPREAD = 0.1  # of a lifetime, by which it is shortened at random: not all workers leave at once


class JobKeeper(Keeper):
    """Keeps jobs, from a task of the cluster's event loop; what other threads see is prepared there.

    Of Dask's own scaling nothing is used: it does not replace lost jobs, nor see those that never come.
    """

    def __init__(
        self, cluster: Any, launcher: Launcher, config: RemoteConfig, least: int, most: int, dashboard: str | None
    ) -> None:
        super().__init__(cluster, least, most, launcher.slots, dashboard)
        self._launcher, self._config = launcher, config
        self._query_seconds = config.query_seconds if isinstance(config, BatchConfig) else LOOK_SECONDS
        self._workers: dict[str, Any] = {}  # Dask's state of each, by name
        self._jobs: list[Job] = []  # in the queue, as far as is known
        self._by_name: dict[str, Job] = {}  # all there ever were
        self._number = 0
        self._failures = 0  # job starts in a row that came to nothing
        self._waves = 0  # of them: those of jobs that were submitted after the last failure
        self._failed_at = self._not_before = -float("inf")
        self._surplus_since: float | None = None
        self._told: set[str] = set()
        self._hopeless: str | None = None
        self._asked_at = self._told_at = -float("inf")  # the queue was asked, and it answered
        self._is_deaf = self._closing = False
        self._ending = EndingJobs(launcher, self._notes)
        self._verdicts: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._state = ClusterState(wanted=least * self._slots, dashboard=dashboard)
        self._loop = cluster.loop.asyncio_loop
        atexit.register(self._cancel_rest)
        self._watching: Future[None] = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    # -- from any thread

    def wanted(self, n_tasks: int) -> None:
        """So many tasks could run at once now."""
        self._asked = min(max(-(-n_tasks // self._slots), self._least), self._most)

    def state(self) -> ClusterState:
        """What is there, from memory."""
        return self._state

    def check(self) -> None:
        """Raises ClusterError when no worker can be hoped for any more."""
        if self._watching.done() and not self._closing:
            self._watching.result()
        if self._hopeless is not None:
            raise ClusterError(self._hopeless)

    def ended_from_outside(self, worker_name: str, address: str = "") -> Future[bool]:
        """Whether the job of a lost worker was ended by its batch system: once the queue has told, or does not."""
        return asyncio.run_coroutine_threadsafe(self._verdict_once(worker_name, address), self._loop)

    def close(self) -> None:
        """Cancel all jobs, also one that is being submitted just now."""
        self._closing = True
        try:
            self._watching.result(2 * VERDICT_SECONDS)
        except NoAnswer:
            self._watching.cancel()
        finally:
            self._cancel_rest()
            atexit.unregister(self._cancel_rest)

    def _cancel_rest(self) -> None:
        ids = [*(job.id for job in self._jobs), *sorted(self._ending.refused)]
        if ids and (complaint := self._launcher.cancel_now(ids)):
            log.warning("jobs %s may be in the queue still: %s. Fix: cancel them", ", ".join(ids), complaint)
        self._jobs = []

    # -- in the event loop

    async def _watch(self) -> None:
        while not self._closing:
            now = time.monotonic()
            self._see_workers(now)
            if now - self._asked_at >= self._query_seconds:
                await self._ask_queue(now)
            await self._settle(now)
            await self._start_some(now)
            await self._end_some(now)
            self._publish()
            await asyncio.sleep(LOOK_SECONDS)

    def _worker(self, job: Job) -> Any:
        """Dask's state of a job's worker, None if it is not there."""
        return self._workers.get(job.name)

    def _see_workers(self, now: float) -> None:
        self._workers = {str(worker.name): worker for worker in self._cluster.scheduler.workers.values()}
        for job in self._jobs:
            if self._worker(job) is None:
                if job.connected is not None and job.lost is None:
                    job.lost = now
                continue
            job.lost = None
            if job.connected is None:
                job.connected, job.state = now, State.RUNNING
                job.running = job.running or now
                self._failures, self._waves, self._hopeless = 0, 0, None
                if isinstance(self._config, BatchConfig) and self._config.lifetime:
                    life = seconds(self._config.lifetime) * (1 - SPREAD * random.random())
                    job.leave_at = job.running + life

    async def _ask_queue(self, now: float) -> None:
        self._asked_at = now
        ids = [*(job.id for job in self._jobs), *self._ending.ids]
        if not ids:
            self._told_at = now
            return
        entries = await self._launcher.query(ids)
        if entries is None:
            if not self._is_deaf:
                self._notes.append("the queue does not answer; what is known of jobs stays as it was")
                self._is_deaf, self._told_at = True, max(self._told_at, now - self._query_seconds)
            if now - self._told_at > DEAF_SECONDS and not self._workers:
                self._hopeless = (
                    f"the queue has not answered for {DEAF_SECONDS:.0f} s, and no worker is there. Fix: see whether "
                    "the batch system's commands work here, and run again; what was committed is kept"
                )
            return
        self._is_deaf, self._told_at = False, now
        await self._ending.hear(entries, now)
        for job in self._jobs:
            if job.submitted < now:
                job.hear(entries.get(job.id), now)
        for reason, number in waiting_reasons(self._jobs).items():
            if reason not in self._told:
                self._told.add(reason)
                self._notes.append(f"{number} job{'s' * (number > 1)} waiting: {reason}")

    async def _settle(self, now: float) -> None:
        """Part with jobs that have ended, and with those that will come to nothing."""
        patience = seconds(self._config.connect_timeout)
        for job in list(self._jobs):
            worker = self._worker(job)
            if not job.is_live:
                if worker is not None and now - (job.ended or now) < GHOST_SECONDS:
                    continue
                if worker is not None:  # its host is gone, which Dask would notice minutes later
                    await self._cluster.scheduler.remove_worker(worker.address, stimulus_id="job-ended")
                self._part_with(job, now)
            elif job.taken_back is not None or job.will_not_end(now):
                self._notes.append(f"worker {job.name} lost, its job cancelled: {job.describe(self._launcher)}")
                await self._end([job])
            elif job.will_never_start:
                await self._give_up(job, now, "will never start")
            elif job.connected is None and job.running is not None and now - job.running > patience:
                await self._give_up(job, now, f"never connected in {patience} s")
            elif job.lost is not None and job.state is State.RUNNING and now - job.lost > patience:
                await self._give_up(job, now, f"lost its worker, which did not come back in {patience} s")

    def _part_with(self, job: Job, now: float) -> None:
        self._jobs.remove(job)
        if job.ours or job.leaving:
            return
        if job.connected is not None:
            self._notes.append(f"worker {job.name} lost: {job.describe(self._launcher)}")
        else:
            self._note_failed_start(
                f"a job ended before its worker was there: {job.describe(self._launcher)}", job, now
            )

    async def _give_up(self, job: Job, now: float, why: str) -> None:
        said = job.describe(self._launcher)
        await self._end([job])
        self._note_failed_start(f"a job {why}, cancelled: {said}", job, now)

    async def _end(self, jobs: list[Job]) -> None:
        """Cancel jobs, which are no longer among those that we have."""
        self._jobs = [job for job in self._jobs if job not in jobs]
        await self._ending.cancel(jobs)

    def _note_failed_start(self, message: str, job: Job | None, now: float) -> None:
        self._notes.append(message)
        self._failures += 1
        if job is None or job.submitted > self._failed_at:
            self._waves += 1
            self._failed_at = now
        self._not_before = now + min(LONGEST_PAUSE, FIRST_PAUSE * 3.0 ** (self._waves - 1))
        enough = self._config.max_failed_starts
        is_over = self._waves >= enough or self._failures >= 5 * enough
        if is_over and not self._workers and not any(each.state is State.RUNNING for each in self._jobs):
            self._hopeless = (
                f"no worker came of {self._failures} job starts in a row; the last: {message}. Fix: look at that log "
                "and at the cluster's profile (prologue, python, connect_timeout); what was committed is kept"
            )

    async def _start_some(self, now: float) -> None:
        staying = [job for job in self._jobs if not job.leaving]
        missing = self._asked - len(staying)
        if self._waves:  # one at a time, until one comes
            missing = 0 if any(job.submitted > self._failed_at for job in staying) else min(missing, 1)
        if missing <= 0 or now < self._not_before or self._hopeless:
            return
        names = []
        for _ in range(min(missing, AT_ONCE)):
            names.append(f"{self._config_name()}-{self._number}")
            self._number += 1
        started = await asyncio.gather(*(self._launcher.start(name) for name in names), return_exceptions=True)
        new = [Job(name, id, now) for name, id in zip(names, started, strict=True) if isinstance(id, str)]
        self._jobs += new
        self._by_name |= {job.name: job for job in new}
        for result in started:
            if isinstance(result, BaseException) and not isinstance(result, ClusterError):
                raise result
        if new:
            self._notes.append(f"started job{'s' * (len(new) > 1)} {', '.join(job.id for job in new)}")
        refusals = [str(result) for result in started if isinstance(result, ClusterError)]
        if refusals:
            self._note_refusal(refusals[0], now)

    def _config_name(self) -> str:
        return self._config.name if isinstance(self._config, BatchConfig) else "larstore"

    def _note_refusal(self, message: str, now: float) -> None:
        """A limit of jobs, perhaps: those that are there may go on alone."""
        if self._jobs:
            if message not in self._told:
                self._notes.append(message)
            self._told.add(message)
            self._not_before = now + 12 * FIRST_PAUSE
        elif not self._by_name:
            self._hopeless = f"{message}. Fix: the cluster's profile; --dry-run shows the job script"
        else:
            self._note_failed_start(message, None, now)

    async def _end_some(self, now: float) -> None:
        """Let workers leave whose lifetime is over, and of jobs that are too many those that wait, then idle ones."""
        for job in [job for job in self._jobs if job.connected is not None]:
            worker = self._worker(job)
            if worker is None or job.leave_at is None or now < job.leave_at:
                continue
            if not job.leaving:
                job.leaving = await take_no_more(self._cluster.scheduler, worker)
            elif is_at_rest(worker, wall_clock(job.leave_at) + REST_SECONDS):
                await self._send_away(job, worker)
        staying = [job for job in self._jobs if not job.leaving]
        surplus = len(staying) - self._asked
        if surplus <= 0:
            self._surplus_since = None
            return
        self._surplus_since = self._surplus_since or now
        if now - self._surplus_since < SURPLUS_SECONDS:
            return
        if waiting := [job for job in staying if job.running is None][-surplus:]:
            await self._end(waiting)
            return
        for job in staying:
            worker = self._worker(job)
            if surplus and worker is not None and not worker.processing:
                await self._send_away(job, worker)
                surplus -= 1

    async def _send_away(self, job: Job, worker: Any) -> None:
        if await send_away(self._cluster.scheduler, worker):
            await self._end([job])

    def _publish(self) -> None:
        workers = [self._workers[job.name] for job in self._jobs if job.name in self._workers and not job.leaving]
        pending = sum(1 for job in self._jobs if job.connected is None)
        slots = sum(int(worker.nthreads) for worker in workers)
        self._state = ClusterState(len(workers), slots, pending, self._asked * self._slots, self._dashboard)

    async def _verdict_once(self, name: str, address: str) -> bool:
        """The verdict on a worker, which all tasks that it held wait for together."""
        if (name, address) not in self._verdicts:
            self._verdicts[name, address] = asyncio.create_task(self._verdict(name))
        verdict = self._verdicts[name, address]
        if not address:  # of whatever process has that name
            del self._verdicts[name, address]
        return await asyncio.shield(verdict)

    async def _verdict(self, name: str) -> bool:
        job = self._by_name.get(name)
        started = time.monotonic()
        patience = max(VERDICT_SECONDS, 3 * self._query_seconds)
        while job is not None and not self._closing:
            said = job.ended_from_outside(started)
            if said is not None:
                return said
            if any(str(worker.name) == name for worker in self._cluster.scheduler.workers.values()):
                return False  # its nanny has started it again
            if time.monotonic() > started + patience:
                return job.state is State.ENDING
            await asyncio.sleep(LOOK_SECONDS)
        return False
