"""Jobs that are ours to end: cancelled, and cancelled again, until the queue says that they are gone."""

from collections import deque
from collections.abc import Sequence

from preprocess.cluster.jobs import Job, Launcher
from preprocess.cluster.queues import Entries, State


class EndingJobs:
    """What has been cancelled and may be in the queue still. Told of in ``notes`` where the queue refuses.

    ``refused``: ids of those that the batch system would not cancel so far.
    """

    def __init__(self, launcher: Launcher, notes: deque[str]) -> None:
        self._launcher, self._notes = launcher, notes
        self._jobs: list[Job] = []
        self._told: set[str] = set()
        self.refused: set[str] = set()

    @property
    def ids(self) -> list[str]:
        """Of all of them."""
        return [job.id for job in self._jobs]

    async def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs, and remember them."""
        for job in jobs:
            job.ours = True
        self._jobs += jobs
        if jobs:  # a complaint may be of one that has just ended
            await self._cancel([job.id for job in jobs])

    async def _cancel(self, ids: list[str]) -> str:
        complaint = await self._launcher.cancel(ids)
        self.refused = {*self.refused, *ids} if complaint else self.refused - {*ids}
        return complaint

    async def hear(self, entries: Entries, now: float) -> None:
        """Let go of those that have ended, by what the queue said at ``now``; cancel the others once more."""
        for job in self._jobs:
            job.hear(entries.get(job.id), now)
        self._jobs = [job for job in self._jobs if job.is_live]
        again = [job.id for job in self._jobs if job.state is not State.ENDING]
        self.refused &= {*again}
        if again and (complaint := await self._cancel(again)) and complaint not in self._told:
            self._told.add(complaint)
            self._notes.append(f"job{'s' * (len(again) > 1)} {', '.join(again)} not cancelled: {complaint}")
