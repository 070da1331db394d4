"""What commands show while they work: a bar on stderr, or a line a minute where that is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from preprocess.run_log import LINE_SECONDS, Show, duration, line_of
from preprocess.run_state import RunState


@contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; call what it yields with the number done."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)

        def advance(done: int) -> None:
            progress.update(task, completed=done)

        yield advance


@contextmanager
def shown() -> Iterator[Show]:
    """A function that shows the state of a run on stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[details]}"),
        TextColumn("{task.fields[left]} left"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("tiling", total=None, details="", left="?")
        said: set[str] = set()

        def show(state: RunState) -> None:
            if state.dashboard and state.dashboard not in said:
                said.add(state.dashboard)
                console.print(f"dashboard: {state.dashboard}", highlight=False)
            progress.update(
                task,
                description="tiling" if state.phase in ("working", "done") else state.phase,
                total=state.n_units,
                completed=state.units_over,
                details=details(state),
                left=duration(state.seconds_left),
            )

        yield show


def details(state: RunState) -> str:
    """Voxels, their rate, workers, waiting jobs and failures, as short as may be: it shares a line with the bar."""
    summary = state.summary
    parts = [f"{short(summary.voxels)} voxels", f"{short(state.voxels_per_second)}/s", f"{state.workers} workers"]
    if state.pending_jobs:
        parts.append(f"{state.pending_jobs} jobs pending")
    if summary.units_failed:
        parts.append(f"{summary.units_failed} failed")
    return " · ".join(parts)


def short(number: float) -> str:
    """A number with three digits and k, M, G or T."""
    for suffix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g}{suffix}"
        number /= 1000
    return f"{number:.3g}T"


def _lines() -> Show:
    last, phase = -float("inf"), ""

    def show(state: RunState) -> None:
        nonlocal last, phase
        if state.phase != phase or time.monotonic() - last >= LINE_SECONDS:
            last, phase = time.monotonic(), state.phase
            print(line_of(state), file=sys.stderr, flush=True)

    return show
