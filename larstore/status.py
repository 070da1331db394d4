"""How the run that writes to a store is getting on, seen from elsewhere: what it told last, and whether it lives."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from larstore import fs
from larstore.errors import StoreError
from larstore.locations import local_path
from larstore.locks import DIRECTORY, Lock, is_gone
from larstore.root import read_root

SILENT_SECONDS = 60.0  # a run tells something every few seconds
FILE = "images.run"  # named for the lock that the run holds


@dataclass(frozen=True)
class RunStatus:
    """The last run of a store.

    Attributes:
        run: what it told last; empty if no run ever did.
        holder: who holds the lock of images, as "process 12 on host since …"; None if nobody does.
        alive: whether that process runs; None if that cannot be told from this machine.
        age: seconds since the run told something, by this machine's clock.
        commit: number of the last commit.
    """

    run: dict[str, Any]
    holder: str | None
    alive: bool | None
    age: float | None
    commit: int

    @property
    def lost(self) -> bool:
        """Whether the run did not come to an end of its own, or failed."""
        phase = self.run.get("phase")
        over = phase in ("done", "stopped", "failed")
        return phase == "failed" or bool(self.run and not over and (self.holder is None or self.alive is False))

    @property
    def verdict(self) -> str:
        """In a few words."""
        phase = self.run.get("phase")
        if phase in ("done", "stopped", "failed"):
            return f"the last run is {phase}" if phase != "failed" else "the last run failed, see its log"
        if not self.run:
            return "no run has told anything" + ("" if self.holder is None else f"; {self.holder} writes")
        if self.lost:
            return "the last run was killed; run it again for the rest"
        if self.alive is None and self.age is not None and self.age > SILENT_SECONDS:
            return f"{phase}, but silent for {self.age:.0f} s"
        return str(phase)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Names and values for a table."""
        run = self.run
        if run:
            done = run["units_done"] + run["units_failed"]
            yield (
                "units",
                f"{done:,} of {run['units']:,}; {run['units_failed']:,} failed; {run['units_before']:,} before",
            )
            yield "images, voxels", f"{run['images']:,}, {run['voxels']:,}"
            yield "input bytes", f"{run['bytes_done'] / 1e9:.3f} of {run['bytes'] / 1e9:.3f} GB"
            rates = f"{run['units_per_second']:.3g} units/s, {run['voxels_per_second']:.3g} voxels/s"
            left = run["seconds_left"]
            yield "rate", rates + ("" if left is None else f", {left / 60:.1f} minutes left")
            yield "workers", f"{run['workers']:,} ({run['pending_jobs']:,} jobs pending), {run['in_flight']:,} tasks"
            yield "told", f"{self.age:.0f} s ago by process {run['pid']} on {run['host']}"
            yield "log", str(run["log"])
            if run["dashboard"]:
                yield "dashboard", str(run["dashboard"])
        yield "lock", self.holder or "free"
        yield "commit", str(self.commit)


def status_file(path: Path) -> Path:
    """Where a run tells how it is getting on."""
    return path / DIRECTORY / FILE


def run_status(path: str | Path) -> RunStatus:
    """How the last run of a store is getting on, or how it ended. Raises StoreError for what is no store."""
    place = local_path(path)
    root = read_root(place)
    data = fs.content(status_file(place))
    try:
        run = json.loads(data) if data else {}
        if not isinstance(run, dict):
            raise ValueError("no keys")
        age = time.time() - float(run["updated"]) if run else None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{status_file(place)}: not written by a run ({error}). Fix: remove it") from error
    state = Lock(place, "images").state()
    holder, alive = None, None
    if state is not None and state.held:
        holder = f"process {state.owner.pid} on {state.owner.host} since {state.since}"
        gone = is_gone(state.owner)
        alive = None if gone is None else not gone
    return RunStatus(run, holder, alive, age, int(root.attributes["commit"]))
