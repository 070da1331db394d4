"""The Dask side of a run: workers tile and write blocks, this process commits them and decides what is tried again."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from distributed import Client, KilledWorker, as_completed, get_worker

import larstore
from larstore.errors import LarstoreError, StoreError
from larstore.format import TRUTH_COLUMNS
from larstore.geometry import Geometry
from larstore.records import BlockSpec, Failure, ImageRecord, Receipt
from preprocess.config import RunConfig
from preprocess.detector import Detector, load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Plan, Unit, batches, make_plan
from preprocess.threads import fair_share

log = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0  # receipts of so long share a commit
DEATHS = 2  # of workers that held a unit, before it is tried alone; one more, and it is given up
TASKS_PER_WORKER = 4  # at least so many, so that the last one does not hold the run up
PIXEL_SHARDS = 1024  # of a block that keeps pixels, which are many; those that stay empty cost nothing
PACKAGES = ("larstore", "numpy", "numba", "zarr", "dask")


@dataclass(frozen=True)
class TaskResult:
    """What a worker returns: only this travels, never arrays. ``needed``: shards of a block large enough."""

    receipts: tuple[Receipt, ...]
    failures: tuple[Failure, ...]
    needed: int = 0
    lit_samples: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


@dataclass
class Summary:
    """What a run did; ``seconds`` are per stage, summed over workers, and "wall" is the run's own time."""

    units_done: int = 0
    units_before: int = 0
    units_failed: int = 0
    images: int = 0
    voxels: int = 0
    lit_samples: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


@dataclass
class _Task:
    units: tuple[Unit, ...]
    n_shards: int = 1
    deaths: int = 0


def work(path: str, spec: BlockSpec, units: tuple[Unit, ...], config: RunConfig, geometry_hash: str) -> TaskResult:
    """On a worker: tile the units and write their images into one block; a unit that fails does not stop the others."""
    at_once = get_worker().state.nthreads
    config = config.model_copy(update={"threads": fair_share(config.threads, at_once)})
    inputs, failures = [], []
    lit, notes, seconds = 0, Counter[str](), Counter[str]()
    # Voxels of many images share shards; pixels fill them soon, and need not wait in memory.
    block = larstore.BlockWriter(path, spec, spec.shard_rows if config.save_pix else None)

    def take(image: ImageRecord) -> None:
        start = time.perf_counter()
        block.add(image)
        seconds["write"] += time.perf_counter() - start  # type: ignore[assignment]

    try:
        for unit in units:
            try:
                result = process_unit(unit, config, geometry_hash, take)
            except larstore.BlockFull:
                raise
            except LarstoreError as error:
                failures.append(Failure(unit.file, unit.tpc, unit.path, str(error)))
                block.drop()
                continue
            block.keep()
            inputs += result.inputs
            lit += result.lit_samples
            notes += result.notes
            seconds += result.seconds
        start = time.perf_counter()
        receipts = block.finish(inputs)
        seconds["write"] += time.perf_counter() - start  # type: ignore[assignment]
    except larstore.BlockFull as full:
        return TaskResult((), (), needed=full.needed)
    return TaskResult(receipts, tuple(failures), 0, lit, notes, seconds)


def open_output(config: RunConfig, geometry: Geometry | None = None) -> larstore.Store | None:
    """The store to continue, None where there is none yet. StoreError if it is of another geometry or other settings.

    ``geometry``: of the config's detector, if it is loaded already.
    """
    if not config.output.exists():
        return None
    geometry = geometry or load_detector(config.detector).geometry()
    store = larstore.open(config.output)
    held = store.attributes["provenance"].get("tiling", {})
    wanted: dict[str, Any] = config.tiling() | {
        "downsample": list(config.downsample),
        "geometry": geometry.hash,
        "save_pix": config.save_pix,
    }
    found = held | {
        "downsample": list(store.attributes["downsample"]),
        "geometry": store.attributes["geometry_hash"],
        "save_pix": store.root.pixels,
    }
    for key, value in wanted.items():
        if found.get(key) != value:
            raise StoreError(
                f"{config.output}: holds images with {key} = {found.get(key)}, this run has {value}. "
                "Fix: write to another store, or use the same settings"
            )
    return store


def _create_output(config: RunConfig, detector: Detector, geometry: Geometry) -> None:
    planes = next(iter(detector.tpcs.values())).planes
    larstore.create(
        config.output,
        geometry=geometry,
        downsample=config.downsample,
        provenance={
            "versions": {name: version(name) for name in PACKAGES},
            "config": config.model_dump(mode="json"),
            "tiling": config.tiling(),
        },
        planes=[plane.name for plane in planes],
        shard_rows=config.shard_rows,
        chunk_rows=config.chunk_rows,
        truth_columns=list(TRUTH_COLUMNS) if config.truth else (),  # a column that no input knows costs nothing
        pixels=config.save_pix,
    )


def plan_run(config: RunConfig) -> Plan:
    """What a run would do now; changes nothing, and refuses what a run would refuse."""
    detector = load_detector(config.detector)
    return make_plan(config, detector, open_output(config, detector.geometry()))


def run(
    config: RunConfig,
    client: Client,
    progress: Callable[[Summary, int], None] | None = None,
    break_lock: bool = False,
) -> Summary:
    """Tile everything that the store does not hold yet.

    Args:
        config: the settings.
        client: of the cluster whose workers see the same files.
        progress: called with the summary so far and the number of units, whenever something has been committed.
        break_lock: take over a lock of another host whose heartbeat stands still.

    Failed units are in ``failures/`` of the store and in the summary; they do not stop the rest.
    """
    started = time.perf_counter()
    detector = load_detector(config.detector)
    geometry = detector.geometry()
    store = open_output(config, geometry)
    plan = make_plan(config, detector, store)
    if store is None:  # only now: wrong inputs leave no store behind
        _create_output(config, detector, geometry)
        store = larstore.open(config.output)
    with larstore.StoreWriter(config.output, break_lock=break_lock) as writer:
        if writer.attributes["commit"] != store.attributes["commit"]:  # somebody else's, before the lock was ours
            plan = make_plan(config, detector, larstore.open(config.output))
        summary = Summary(units_before=plan.done)
        coordinator = _Coordinator(
            config, geometry.hash, client, writer, summary, len(plan.units) + len(plan.failures), progress
        )
        coordinator.take(plan.failures)
        coordinator.drain(plan.units)
    summary.seconds["wall"] = time.perf_counter() - started  # type: ignore[assignment]
    return summary


class _Coordinator:
    """Keeps a bounded number of tasks in flight, each attempt with a block of its own, and commits what comes back."""

    def __init__(
        self,
        config: RunConfig,
        geometry_hash: str,
        client: Client,
        writer: larstore.StoreWriter,
        summary: Summary,
        n_units: int,
        progress: Callable[[Summary, int], None] | None,
    ) -> None:
        self.config, self.geometry_hash, self.client = config, geometry_hash, client
        self.writer, self.summary = writer, summary
        self.n_units, self.progress = n_units, progress
        self.receipts: list[Receipt] = []
        self.failures: list[Failure] = []
        self.last_commit = time.monotonic()

    def take(self, failures: Iterable[Failure]) -> None:
        """Note failures for the next commit."""
        new = list(failures)
        self.failures += new
        self.summary.failures += new
        self.summary.units_failed += len(new)

    def drain(self, units: list[Unit]) -> None:
        """Work until nothing is left, then commit the rest.

        A dying worker is blamed on every task it held, also on those that only waited there: whoever was there too
        often is tried last and alone, so that no unit is given up for another one's fault.
        """
        workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        share = sum(unit.size for unit in units) // (workers * TASKS_PER_WORKER) + 1
        n_shards = PIXEL_SHARDS if self.config.save_pix else 1
        waiting = deque(_Task(batch, n_shards) for batch in batches(units, min(self.config.task_bytes, share)))
        suspects: deque[_Task] = deque()
        running: dict[Any, _Task] = {}
        results = as_completed()

        def start(task: _Task) -> None:
            future = self._submit(task)
            running[future] = task
            results.add(future)

        while waiting or suspects or running:
            while waiting and len(running) < 2 * workers:
                start(waiting.popleft())
            if not running:
                start(suspects.popleft())
            future = next(results)
            for task in self._settle(future, running.pop(future)):
                (waiting if task.deaths < DEATHS else suspects).appendleft(task)
            future.release()
            if time.monotonic() - self.last_commit >= COMMIT_SECONDS:
                self.commit()
        self.commit()

    def _submit(self, task: _Task) -> Any:
        spec = self.writer.reserve(task.n_shards)
        return self.client.submit(
            work,
            str(self.config.output),
            spec,
            task.units,
            self.config,
            self.geometry_hash,
            pure=False,
            retries=0,
            # The token tells apart runs that share a client.
            key=f"unit-{spec.token}-{spec.first_shard}",
        )

    def _settle(self, future: Any, task: _Task) -> list[_Task]:
        """Take a finished task's result; returns what is to be tried (again)."""
        error = future.exception()
        if error is None:
            return self._accept(future.result(), task)
        if isinstance(error, KilledWorker):
            log.warning("a worker died while it held %s", ", ".join(u.path for u in task.units))
            if len(task.units) > 1 or task.deaths < DEATHS:  # single units, to find out which one it was
                return [_Task((unit,), task.n_shards, task.deaths + 1) for unit in task.units]
            message = (
                f"{task.units[0].path}: its worker died {task.deaths + 1} times, at last with nothing else to do. "
                "Fix: give workers more memory (fewer --workers), or leave the file out"
            )
        elif len(task.units) > 1:
            return [_Task((unit,), task.n_shards, task.deaths) for unit in task.units]
        else:
            message = f"{task.units[0].path}: {type(error).__name__}: {' '.join(str(error).split())}"
            log.error("%s", message, exc_info=error)
        self.take(Failure(unit.file, unit.tpc, unit.path, message) for unit in task.units)
        return []

    def _accept(self, result: TaskResult, task: _Task) -> list[_Task]:
        if result.needed:
            return [_Task(task.units, result.needed, task.deaths)]
        summary = self.summary
        self.receipts += result.receipts
        for receipt in result.receipts:
            summary.images += len(receipt.images)
            summary.voxels += sum(image.voxel_count for image in receipt.images)
        self.take(result.failures)
        summary.units_done += len(task.units) - len(result.failures)
        summary.lit_samples += result.lit_samples
        summary.notes += result.notes
        summary.seconds += result.seconds
        return []

    def commit(self) -> None:
        """Commit what has come back so far."""
        start = time.perf_counter()
        self.writer.commit(self.receipts, self.failures)
        self.receipts, self.failures = [], []
        self.last_commit = time.monotonic()
        self.summary.seconds["commit"] += time.perf_counter() - start  # type: ignore[assignment]
        if self.progress is not None:
            self.progress(self.summary, self.n_units)
