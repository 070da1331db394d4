"""Keeps the workers that a run wants, and tells what befell them; here for workers that need little keeping."""

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from larstore.errors import ClusterError

LOOK_SECONDS = 2.0  # between questions to a scheduler
PATIENCE_SECONDS = 300.0  # without any worker, where nobody starts new ones


@dataclass(frozen=True)
class ClusterState:
    """What is there now. ``slots``: tasks that workers can do at once; ``wanted``: the slots that are asked for."""

    workers: int = 0
    slots: int = 0
    pending_jobs: int = 0
    wanted: int = 0
    dashboard: str | None = None


class Keeper:
    """The workers of a cluster between ``least`` and ``most``, each with ``slots`` tasks at once.

    All methods may be called from any thread and return soon. This one keeps LocalCluster's processes, which their
    nannies start again when they die, and starts others where they did not; it adds more when they are wanted, and
    takes none away.
    """

    def __init__(self, cluster: Any, least: int, most: int, slots: int = 1, dashboard: str | None = None) -> None:
        self._cluster, self._least, self._most, self._slots = cluster, least, most, slots
        self._dashboard = dashboard
        self._asked = least
        self._starting = False
        self._notes: deque[str] = deque()

    def wanted(self, n_tasks: int) -> None:
        """So many tasks could run at once now."""
        workers = min(max(-(-n_tasks // self._slots), self._least), self._most)
        missing = self._asked - len(self._cluster.workers)
        if missing > 0 and not self._starting:  # Dask lets go of one that dies again as it comes back
            self._notes.append(f"{missing} worker processes did not come back; started others")
        if workers > self._asked or missing > 0:
            self._asked = max(workers, self._asked)
            self._cluster.scale(self._asked)
        self._starting = self._asked > len(self._cluster.workers)

    def state(self) -> ClusterState:
        """What is there, from memory."""
        # Dask's own view of them is made in steps, between which its thread may take one away.
        workers = list(dict.values(self._cluster.scheduler.workers))
        slots = sum(int(worker.nthreads) for worker in workers)
        return ClusterState(len(workers), slots, 0, self._asked * self._slots, self._dashboard)

    def notes(self) -> list[str]:
        """What happened since the last call, a line each."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def check(self) -> None:
        """Raises ClusterError when no worker can be hoped for any more."""

    def ended_from_outside(self, worker_name: str, address: str = "") -> "Future[bool]":
        """Whether a lost worker was ended by its batch system, so that the task that it held is not to blame.

        ``address``: Dask's, which tells apart the processes that had this name; asked of one again, the answer is the
        same. It may have to wait for the queue's word.
        """
        answer: Future[bool] = Future()
        answer.set_result(False)
        return answer

    def close(self) -> None:
        """Let go of all workers; what is started is ended."""


def keeper_of(client: Any) -> Keeper:
    """The keeper of a client's workers; of a client of the user's own, one that only looks."""
    keeper: Keeper | None = getattr(client, "keeper", None)
    return keeper or SchedulerKeeper(client, str(client.scheduler.address))


class SchedulerKeeper(Keeper):
    """Looks at a scheduler that somebody else started: its workers come and go as they like."""

    def __init__(self, client: Any, address: str) -> None:
        super().__init__(None, 0, 0, dashboard=client.dashboard_link or None)
        self._client, self._address = client, address
        self._looked = -float("inf")
        self._seen = time.monotonic()
        self._now = ClusterState()

    def wanted(self, n_tasks: int) -> None:
        """Nothing can be started here."""

    def state(self) -> ClusterState:
        """What is there, at most seconds old."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            try:
                threads = self._client.nthreads()
            except (OSError, TimeoutError, ValueError):  # the next check says so
                threads = {}
            slots = sum(threads.values())
            self._now = ClusterState(len(threads), slots, 0, slots, self._dashboard)
            self._looked = now
            if threads:
                self._seen = now
        return self._now

    def check(self) -> None:
        """Raises ClusterError when the scheduler is gone, or has had no worker for long."""
        if self._client.status not in ("running", "connecting"):
            raise ClusterError(f"{self._address}: the scheduler is gone. Fix: look at its log, and run again")
        if time.monotonic() - self._seen > PATIENCE_SECONDS and not self.state().workers:
            raise ClusterError(
                f"{self._address}: no worker for {PATIENCE_SECONDS:.0f} s. Fix: start workers for this scheduler"
            )
