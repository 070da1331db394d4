"""Where a run stands: what its displays show while it works, and its summary at the end."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from larstore.records import Failure

WINDOW_SECONDS = 120.0  # over which the present rate is taken

Phase = Literal["waiting for workers", "working", "finishing", "done", "stopped", "failed"]


@dataclass
class Summary:
    """What a run did; ``seconds`` are per stage, summed over workers, and "wall" is the run's own time.

    ``units_left``: not tried, as the run was stopped.
    """

    units_done: int = 0
    units_before: int = 0
    units_failed: int = 0
    units_left: int = 0
    images: int = 0
    voxels: int = 0
    lit_samples: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


@dataclass
class RunState:
    """A run at this moment; ``n_units`` and ``n_bytes`` are of what it has to do, without what was done before."""

    output: Path
    summary: Summary
    n_units: int
    n_bytes: int
    bytes_done: int = 0
    phase: Phase = "waiting for workers"
    workers: int = 0
    slots: int = 0  # tasks that they can work on at once
    pending_jobs: int = 0
    in_flight: int = 0
    dashboard: str | None = None
    started: float = field(default_factory=time.time)
    news: list[str] = field(default_factory=list)  # one line each, since the last look
    _past: deque[tuple[float, int, int, int]] = field(default_factory=deque)

    @property
    def units_over(self) -> int:
        """Units that are done or failed."""
        return self.summary.units_done + self.summary.units_failed

    def note_progress(self, now: float) -> None:
        """Remember what is done at ``now`` (seconds of any clock), for the rates."""
        self._past.append((now, self.units_over, self.summary.voxels, self.bytes_done))
        while now - self._past[0][0] > WINDOW_SECONDS and len(self._past) > 2:
            self._past.popleft()

    def _rate(self, column: int) -> float:
        if len(self._past) < 2 or self._past[-1][0] <= self._past[0][0]:
            return 0.0
        return (self._past[-1][column] - self._past[0][column]) / (self._past[-1][0] - self._past[0][0])

    @property
    def units_per_second(self) -> float:
        """Lately."""
        return self._rate(1)

    @property
    def voxels_per_second(self) -> float:
        """Lately."""
        return self._rate(2)

    @property
    def seconds_left(self) -> float | None:
        """By the present rate of input bytes; None while there is none."""
        if self.bytes_done >= self.n_bytes:
            return 0.0
        rate = self._rate(3)
        return (self.n_bytes - self.bytes_done) / rate if rate > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """For the file that `larstore status` reads."""
        summary = self.summary
        return {
            "phase": self.phase,
            "units": self.n_units,
            "units_done": summary.units_done,
            "units_failed": summary.units_failed,
            "units_before": summary.units_before,
            "images": summary.images,
            "voxels": summary.voxels,
            "bytes": self.n_bytes,
            "bytes_done": self.bytes_done,
            "units_per_second": self.units_per_second,
            "voxels_per_second": self.voxels_per_second,
            "seconds_left": self.seconds_left,
            "workers": self.workers,
            "slots": self.slots,
            "pending_jobs": self.pending_jobs,
            "in_flight": self.in_flight,
            "dashboard": self.dashboard,
            "started": self.started,
        }
