"""What the keeper knows of a job, and how it is told in one line."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preprocess.cluster.queues import FROM_OUTSIDE, LIVE, Entries, Entry, State

TAIL_BYTES = 4096
TAIL_LETTERS = 200
MISSED = 2  # answers of the queue without a job, before it is gone
YOUNG_SECONDS = 30.0  # in which a queue may not know a new job yet
ENDING_SECONDS = 60.0  # for a job without its worker to come to its end; a dead node may keep it there for days
DOUBT_SECONDS = 5.0  # after a worker was lost, before a running job means that its process died by itself
# Why jobs of Slurm wait that will never start, or not without their owner.
HOPELESS = {
    "BadConstraints", "PartitionNodeLimit", "PartitionTimeLimit", "InvalidAccount", "InvalidQOS", "AccountNotAllowed",
    "QOSNotAllowed", "DependencyNeverSatisfied", "QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit",
}  # fmt: skip
ORDINARY = {"", "Priority", "Resources", "None", "BeginTime", "NodeDown"}


class Launcher(Protocol):
    """Starts workers as jobs; ids are the batch system's. Methods may be slow, none raises but ``start``."""

    slots: int

    async def start(self, name: str) -> str:
        """Start a job whose worker gets that name; its id. Raises ClusterError with the reason if it is refused."""

    async def query(self, ids: list[str]) -> Entries | None:
        """What is known of the jobs; None if nobody answers."""

    async def cancel(self, ids: list[str]) -> str:
        """End jobs; what went wrong, "" if nothing."""

    def cancel_now(self, ids: list[str]) -> str:
        """The same from any thread, and done when it returns; what went wrong, "" if nothing."""

    def log(self, job_id: str) -> Path | None:
        """The job's log that tells most, if there is one."""


@dataclass
class Job:
    """A job and its worker. Times are of time.monotonic(), None for what has not happened.

    ``lost``: since when its worker is away; ``leave_at``: when it is to take no more tasks; ``ours``: ended by us.
    ``taken_back``: why it waits or is held, once it ran and has lost its worker: evicted, queued again, or stopped.
    """

    name: str
    id: str
    submitted: float
    state: State = State.PENDING
    reason: str = ""
    asked: float = -float("inf")
    running: float | None = None
    connected: float | None = None
    lost: float | None = None
    ended: float | None = None
    leave_at: float | None = None
    leaving: bool = False
    ours: bool = False
    missed: int = 0
    taken_back: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is in the queue, as far as is known."""
        return self.state in LIVE

    @property
    def will_never_start(self) -> bool:
        """Whether it waits for what does not come by itself; one that its owner holds is his affair."""
        if self.connected is not None or self.reason == "JobHeldUser":
            return False
        return self.state is State.HELD or (self.state is State.PENDING and self.reason in HOPELESS)

    def will_not_end(self, now: float) -> bool:
        """Whether it has lost its worker and been ending ever since, for too long."""
        return self.lost is not None and self.state is State.ENDING and now - self.lost > ENDING_SECONDS

    def ended_from_outside(self, asked_since: float) -> bool | None:
        """Whether its batch system ended its worker, as far as the queue has told; None: it has not yet.

        ``asked_since``: when the worker was missed. That it runs counts only if it was said a while after that.
        """
        if self.taken_back is not None:
            return "memory" not in self.taken_back.lower()  # HTCondor holds jobs that took too much
        if self.ours or self.leaving:
            return True
        if not self.is_live:
            return self.state in FROM_OUTSIDE
        if self.state is State.RUNNING and self.asked > asked_since + DOUBT_SECONDS:
            return False
        return None

    def hear(self, entry: Entry | None, now: float) -> None:
        """Note what the queue said at ``now``; None: nothing."""
        if entry is None:
            if now - self.submitted > YOUNG_SECONDS or self.running is not None:
                self.missed += 1
            if self.missed >= MISSED:
                self.state, self.reason, self.asked = State.GONE, "", now
                self.ended = self.ended or now
            return
        self.missed = 0
        self.state, self.reason, self.asked = entry.state, entry.reason, now
        if self.state is State.RUNNING and self.running is None:
            self.running = now
        if self.lost is not None and self.state in (State.PENDING, State.HELD):
            self.taken_back = self.reason
        if not self.is_live:
            self.ended = self.ended or now

    def describe(self, launcher: Launcher) -> str:
        """Its state, the reason, and the end of its log."""
        said = f"{self.state.value} ({self.reason})" if self.reason else self.state.value
        log = launcher.log(self.id)
        return f"job {self.id} {said}" + (f"; log {log}: {tail(log)}" if log else "; no log")


def tail(path: Path) -> str:
    """The last line of a log that says something, shortened."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:TAIL_LETTERS] if lines else "empty"


def waiting_reasons(jobs: Iterable[Job]) -> dict[str, int]:
    """Out of the ordinary, why jobs wait: reason -> how many of them."""
    counts: dict[str, int] = {}
    for job in jobs:
        if job.state in (State.PENDING, State.HELD) and job.reason not in ORDINARY:
            counts[job.reason] = counts.get(job.reason, 0) + 1
    return counts
