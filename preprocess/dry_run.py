"""`larstore preprocess --dry-run`: the plan, what it will cost, the job script, and the configuration behind it."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from larstore.errors import LarstoreError
from preprocess.config import RunConfig
from preprocess.pipeline import process_unit
from preprocess.plan import Plan, Unit
from preprocess.run_log import duration

if TYPE_CHECKING:
    from preprocess.cluster import ClusterConfig

SHOWN_UNITS = 50


@dataclass(frozen=True)
class Calibration:
    """What one unit took; ``seconds`` of one core, for ``n_bytes`` of input."""

    unit: Unit
    seconds: float
    images: int
    voxels: int

    def core_seconds(self, units: list[Unit]) -> float:
        """Of so many units, as if time went with the bytes of the inputs."""
        return self.seconds * sum(unit.size for unit in units) / max(1, self.unit.size)


def calibrate(config: RunConfig, units: list[Unit], geometry_hash: str) -> Calibration:
    """Tile the unit of median size, twice: the first time also makes the detector's areas and compiles."""
    unit = units[len(units) // 2]
    images, voxels, seconds = 0, 0, float("inf")
    for _ in range(2):
        start = time.process_time()
        result = process_unit(unit, config, geometry_hash)
        seconds = min(seconds, time.process_time() - start)
        images, voxels = len(result.images), sum(len(image.coords) for image in result.images)
    return Calibration(unit, seconds, images, voxels)


def print_plan(config: RunConfig, redo: bool = False) -> None:
    """What a run would do, to stdout."""
    from preprocess.cluster import job_script, load_cluster
    from preprocess.cluster.config import BatchConfig
    from preprocess.detector import load_detector
    from preprocess.runner import plan_run

    cluster = load_cluster(config.cluster)
    plan = plan_run(config, redo)
    console = Console(markup=False)  # names may hold brackets
    console.print(_units_table(config, plan))
    if len(plan.units) > SHOWN_UNITS:
        console.print(f"… and {len(plan.units) - SHOWN_UNITS} more units", highlight=False)
    console.print(_cost_table(config, cluster, plan, load_detector(config.detector).geometry().hash))
    if isinstance(cluster, BatchConfig):
        console.rule("job script")
        console.print(job_script(cluster, threads=config.threads), markup=False, highlight=False, soft_wrap=True)
    console.rule("configuration")
    resolved = config.model_dump(mode="json", exclude={"inputs"})
    console.print(yaml.safe_dump(resolved, sort_keys=False), markup=False, highlight=False, soft_wrap=True)


def _units_table(config: RunConfig, plan: Plan) -> Table:
    table = Table(title=f"{config.output}: {plan.done} units are done, {len(plan.units)} to do", title_justify="left")
    for column in ("file", "TPC", "MB", "input"):
        table.add_column(column)
    for unit in plan.units[:SHOWN_UNITS]:
        table.add_row(str(unit.file), str(unit.tpc), f"{unit.size / 1e6:.1f}", unit.path)
    for failure in plan.failures[:SHOWN_UNITS]:
        table.add_row(str(failure.file), "–", "–", failure.error)
    return table


def _cost_table(config: RunConfig, cluster: "ClusterConfig", plan: Plan, geometry_hash: str) -> Table:
    table = Table(show_header=False)
    total = sum(unit.size for unit in plan.units)
    table.add_row("to do", f"{len(plan.units):,} units, {total / 1e9:.3f} GB")
    table.add_row("done already", f"{plan.done:,} units")
    if not plan.units:
        return table
    try:
        found = calibrate(config, plan.units, geometry_hash)
    except LarstoreError as error:
        table.add_row("estimate", f"none: {error}")
        return table
    seconds = found.core_seconds(plan.units)
    table.add_row(
        "calibration",
        f"{found.unit.path}: {found.seconds:.2f} s of one core for {found.unit.size / 1e6:.1f} MB, "
        f"{found.images} images, {found.voxels:,} voxels",
    )
    table.add_row("estimate", f"{seconds / 3600:.3g} core-hours; {_time(config, cluster, seconds)}")
    return table


def _time(config: RunConfig, cluster: "ClusterConfig", core_seconds: float) -> str:
    """How long so much work takes with all workers that the run may have."""
    from preprocess.cluster import tasks_at_once, worker_bounds

    tasks = tasks_at_once(cluster, config.threads)
    if tasks is None:
        return "the time depends on the scheduler's workers"
    _, most = worker_bounds(cluster, config.workers, config.threads)
    cores = most * tasks * config.threads
    each = f", {tasks} tasks at once on each" if tasks > 1 else ""
    threads = f", {config.threads} threads a task" if config.threads > 1 else ""
    return f"{duration(core_seconds / cores)} with {most} worker(s){each}{threads}"
