"""Tasks of a run and what they went through: which are tried again, when, and how they are taken apart."""

import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, replace

from preprocess.plan import Unit

DEATHS = 2  # of workers that held a unit, before it is tried alone; one more, and it is given up
LOST_JOBS = 10  # that held a unit and were ended from outside, before it is given up
GROWTH = 4  # of the wait before each further try
PARTS = 32  # of a task whose worker died, to find out which unit it was: single ones of so many, fewer of more


@dataclass(frozen=True)
class Task:
    """Units that share a block. What it went through so far: worker deaths, lost jobs, other mishaps."""

    units: tuple[Unit, ...]
    n_shards: int
    deaths: int = 0
    lost: int = 0
    tries: int = 0

    @property
    def inputs(self) -> str:
        """Its files, for messages: the first one, and how many more."""
        more = len(self.units) - 1
        return self.units[0].path + (f" and {more} more" if more else "")

    def apart(self, **changes: int) -> list["Task"]:
        """A task for each unit, to find out which one it was."""
        return [replace(self, units=(unit,), **changes) for unit in self.units]

    def parts(self, **changes: int) -> list["Task"]:
        """The same, but no more than ``PARTS``: a block for each of thousands of small units would be many files."""
        if len(self.units) <= PARTS:
            return self.apart(**changes)
        size = -(-len(self.units) // PARTS)
        return [replace(self, units=self.units[i : i + size]) for i in range(0, len(self.units), size)]


class Attempts:
    """Tasks that are to be tried again. ``pause``: seconds before the first further try of one that stumbled."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._waiting: list[tuple[float, int, Task]] = []  # a heap: from that time on
        self._order = itertools.count()
        self._suspects: deque[Task] = deque()  # each to be tried last and alone

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def again(self, *tasks: Task) -> None:
        """Try tasks again, those that stumbled after a while."""
        for task in tasks:
            pause = self._pause * GROWTH ** (task.tries - 1) if task.tries else 0.0
            heapq.heappush(self._waiting, (time.monotonic() + pause, next(self._order), task))

    def lost(self, task: Task) -> bool:
        """After its job was ended from outside: try it again, in parts if that happened before. False: give it up."""
        if task.lost + 1 >= LOST_JOBS and len(task.units) == 1:
            return False
        self.again(*(task.parts(lost=task.lost + 1) if task.lost else [replace(task, lost=1)]))
        return True

    def died(self, task: Task) -> bool:
        """After its worker died: try its parts again, those that saw that often last and alone. False: give it up."""
        if task.deaths >= DEATHS and len(task.units) == 1:
            return False
        for part in task.parts(deaths=task.deaths + 1):
            if part.deaths < DEATHS:
                self.again(part)
            else:
                self._suspects.append(part)
        return True

    def due(self) -> Task | None:
        """The next one whose time has come."""
        if self._waiting and self._waiting[0][0] <= time.monotonic():
            return heapq.heappop(self._waiting)[2]
        return None

    def suspect(self) -> Task | None:
        """The next one to be tried alone, once nothing waits."""
        return self._suspects.popleft() if self._suspects and not self._waiting else None
