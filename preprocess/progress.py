"""What a run shows: a progress bar on stderr while it works, tables on stdout when it is done."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from preprocess.config import RunConfig
from preprocess.runner import Summary, plan_run, run

SHOWN_FAILURES = 10


@contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; call what it yields with the number done."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, rate="")

        def advance(done: int, total: int | None = None, rate: str = "") -> None:
            progress.update(task, completed=done, total=total, rate=rate)

        yield advance


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run_with_progress(config: RunConfig, break_lock: bool) -> bool:
    """Run on a local cluster with a bar, print the summary; whether all units are done. SIGTERM ends it like Ctrl-C."""
    from preprocess.cluster import make_cluster
    from preprocess.detector import load_detector
    from preprocess.plan import find_inputs
    from preprocess.runner import open_output

    # A wrong detector, input or output is said in one line, before a cluster is started.
    open_output(config, load_detector(config.detector).geometry())
    find_inputs(config)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with make_cluster("local", config.workers, config.threads) as client, bar("tiling", 0, "units") as advance:

            def show(summary: Summary, n_units: int) -> None:
                advance(summary.units_done + summary.units_failed, n_units, f"{summary.voxels:,} voxels")  # type: ignore[call-arg]

            summary = run(config, client, show, break_lock)
    finally:
        signal.signal(signal.SIGTERM, previous)
    print_summary(config, summary)
    return not summary.units_failed


def print_summary(config: RunConfig, summary: Summary) -> None:
    """What a run did, to stdout."""
    table = Table(title=str(config.output), show_header=False, title_justify="left")
    table.add_row(
        "units done, done before, failed", f"{summary.units_done}, {summary.units_before}, {summary.units_failed}"
    )
    table.add_row("images", f"{summary.images:,}")
    table.add_row("voxels", f"{summary.voxels:,}")
    table.add_row("lit samples", f"{summary.lit_samples:,}")
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in summary.seconds.items())
    table.add_row("seconds (wall; stages summed over workers)", seconds)
    for note, count in sorted(summary.notes.items()):
        table.add_row(f"note: {note}", f"{count:,}")
    console = Console()
    console.print(table)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for failure in summary.failures[:SHOWN_FAILURES]:
        errors.print(f"failed: {failure.error}", markup=False)
    if len(summary.failures) > SHOWN_FAILURES:
        errors.print(
            f"… and {len(summary.failures) - SHOWN_FAILURES} more: larstore info {config.output}", markup=False
        )


def print_plan(config: RunConfig) -> None:
    """What a run would do, to stdout."""
    plan = plan_run(config)
    table = Table(title=f"{config.output}: {plan.done} units are done, {len(plan.units)} to do", title_justify="left")
    for column in ("file", "TPC", "MB", "input"):
        table.add_column(column)
    for unit in plan.units:
        table.add_row(str(unit.file), str(unit.tpc), f"{unit.size / 1e6:.1f}", unit.path)
    for failure in plan.failures:
        table.add_row(str(failure.file), "–", "–", failure.error)
    Console().print(table)
