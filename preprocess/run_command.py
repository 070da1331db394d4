"""`larstore preprocess` from a checked configuration to its summary."""

import sys

from rich.console import Console
from rich.table import Table

from preprocess.config import RunConfig
from preprocess.progress import shown
from preprocess.run_state import Summary

SHOWN_FAILURES = 10


def run_and_print(config: RunConfig, break_lock: bool, redo: bool = False) -> Summary:
    """Run on the configuration's cluster with a bar, and print the summary."""
    from preprocess.cluster import load_cluster, make_cluster
    from preprocess.detector import load_detector
    from preprocess.interrupts import terminable
    from preprocess.plan import find_inputs
    from preprocess.runner import open_output, run

    # A wrong cluster, detector, input or output is said in one line, before a cluster is started.
    cluster = load_cluster(config.cluster)
    open_output(config, load_detector(config.detector).geometry())
    find_inputs(config)
    with terminable(), make_cluster(cluster, config.workers, config.threads) as client, shown() as show:
        summary = run(config, client, show, break_lock, redo)
    print_summary(config, summary)
    return summary


def submit(config: RunConfig, arguments: list[str], redo: bool = False) -> str:
    """Submit `larstore ARGUMENTS` as a job of the configuration's cluster; what to tell the user."""
    from larstore import fs
    from preprocess.cluster import load_cluster, submit_driver
    from preprocess.cluster.batch_script import as_batch
    from preprocess.runner import plan_run

    cluster = as_batch(load_cluster(config.cluster))
    plan_run(config, redo)  # what the job would refuse is refused now
    output = config.output.absolute().with_suffix(".driver.log")
    fs.make_directories(output.parent)  # a shell writes it
    job = submit_driver(cluster, [sys.executable, "-m", "larstore.cli", *arguments], output)
    limit = cluster.driver.walltime or cluster.walltime
    ends = f" for {limit} at most (driver: walltime: in the profile)" if limit else ""
    return f"job {job} runs it{ends}, its output goes to {output}; follow it with: larstore status {config.output}"


def print_summary(config: RunConfig, summary: Summary) -> None:
    """What a run did, to stdout."""
    table = Table(title=str(config.output), show_header=False, title_justify="left")
    table.add_row(
        "units done, done before, failed", f"{summary.units_done}, {summary.units_before}, {summary.units_failed}"
    )
    if summary.units_left:
        table.add_row("units left", f"{summary.units_left}")
    table.add_row("images", f"{summary.images:,}")
    table.add_row("voxels", f"{summary.voxels:,}")
    table.add_row("lit samples", f"{summary.lit_samples:,}")
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in summary.seconds.items())
    table.add_row("seconds (wall; stages summed over workers)", seconds)
    for note, count in sorted(summary.notes.items()):
        table.add_row(f"note: {note}", f"{count:,}")
    Console(markup=False).print(table)  # names may hold brackets
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for failure in summary.failures[:SHOWN_FAILURES]:
        errors.print(f"failed: {failure.error}", markup=False)
    if len(summary.failures) > SHOWN_FAILURES:
        errors.print(
            f"… and {len(summary.failures) - SHOWN_FAILURES} more: larstore info {config.output}", markup=False
        )
