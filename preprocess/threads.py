"""Threads of one event's tiling: Python's own, as the kernels release its lock.

So numba's threading layers, of which the built-in one must not be entered by two threads at once, play no part, and a
Dask worker decides alone how many threads there are.
"""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from larstore.errors import ConfigError

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def default_threads() -> int:
    """NUMBA_NUM_THREADS where it is set, else 1. ConfigError if it is no number."""
    given = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"NUMBA_NUM_THREADS = {given}. Fix: give a whole number of 1 or more, or unset it.")
    return int(given)


def fair_share(threads: int, tasks: int) -> int:
    """Threads of each of so many tasks that a process works on at once, so that together they are not too many."""
    share = max(1, threads // tasks)
    if share < threads:
        _say_once(f"a worker has {tasks} tasks at once: each tiles with {share} of {threads} threads")
    return share


_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        log.warning("%s", message)


def in_order(work: Callable[[int], Result], number: int, threads: int) -> Iterator[Result]:
    """``work(0)`` … ``work(number - 1)`` in order, so many at a time. Later ones don't wait for an early slow one."""
    if threads == 1 or number == 1:
        yield from map(work, range(number))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, range(number))
