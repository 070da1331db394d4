"""Workers that leave in order: they take no more tasks, end those that run, and go; none is lost or done twice."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from distributed.core import Status

MOVE_SECONDS = 60.0  # that a worker may take to hand over results


def can_leave(scheduler: Any, worker: Any) -> bool:
    """Whether nothing that somebody waits for would be lost with a worker."""
    return not worker.has_what or bool(scheduler.running - {worker})


async def take_no_more(scheduler: Any, worker: Any) -> bool:
    """Let a worker end what it works on; what only waits there stays until it goes. Dask's --lifetime cuts both off.

    Whether it does so: not while nobody can take its results.
    """
    if can_leave(scheduler, worker):
        with suppress(TimeoutError):
            async with asyncio.timeout(MOVE_SECONDS):
                await scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=False)
    return bool(worker.status == Status.closing_gracefully)


def is_at_rest(worker: Any, since: float) -> bool:
    """Whether a worker works on nothing, as it has said after ``since`` (of time.time())."""
    return not worker.processing or (float(worker.last_seen) > since and not worker.executing)


async def send_away(scheduler: Any, worker: Any) -> bool:
    """End a worker; tasks that it has not begun go to others. False if nobody can take its results."""
    if can_leave(scheduler, worker):
        with suppress(TimeoutError):
            async with asyncio.timeout(MOVE_SECONDS):
                await scheduler.retire_workers(workers=[worker.address], close_workers=True, remove=True)
    return worker.address not in scheduler.workers


def wall_clock(moment: float) -> float:
    """The time.time() of a time.monotonic()."""
    return time.time() - (time.monotonic() - moment)
