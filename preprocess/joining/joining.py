"""Images of several TPCs as one, in a common frame: a new store, made block by block from another one."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.locations import local_path
from larstore.records import Failure, Receipt
from preprocess.derived import inputs_by_file
from preprocess.joining.bridge import ABOVE, FARTHEST, REACH, Bridge, find_gaps
from preprocess.joining.frame import JoinedFrame, joined_frame, joined_geometry
from preprocess.joining.output import Plan, create, joined_before, new_failures, refuse_other_settings
from preprocess.joining.plan import Events, Rows, find_events, split
from preprocess.joining.scores import join_predictions
from preprocess.joining.task import JoinTask, failure_of
from preprocess.joining.workers import JoinWorkers, join_workers

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0  # receipts of so long share a commit
DEATHS = 2  # of workers that held an event, before it is tried alone; one more, and it is given up


@dataclass
class Joined:
    """What was done; ``images_before`` were in the output already.

    Attributes:
        shared: voxels that lay where another TPC has one too, and were summed with it.
        bridged: voxels that bridge gaps.
        failures: events that could not be joined.
        incomplete: (file, event, missing TPCs) of events that lack some; left out unless they were to be kept.
        differing: (file, event) of events whose images have other run, subrun or frame numbers; left out.
        shape: voxels of the common frame in x, y, z; x is 0 where the length of the read-out is not known.
        predictions: name of each prediction that was joined -> images that got it now, and that lack a TPC's scores.
    """

    images: int = 0
    images_before: int = 0
    voxels: int = 0
    shared: int = 0
    bridged: int = 0
    failures: list[Failure] = field(default_factory=list)
    incomplete: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    differing: list[tuple[int, int]] = field(default_factory=list)
    shape: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0
    predictions: dict[str, tuple[int, int]] = field(default_factory=dict)


def join(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    tpcs: Sequence[int],
    *,
    files: tuple[int, int] | None = None,
    incomplete: str = "skip",
    ticks: int | None = None,
    predictions: Sequence[str] = (),
    bridge: str | None = None,
    bridge_above: float = ABOVE,
    bridge_reach: int = REACH,
    threads: int | None = None,
    client: "Client | None" = None,
    break_lock: bool = False,
    progress: Callable[[Joined, int], None] | None = None,
) -> Joined:
    """Join the images of some TPCs of each (file, event) into one, with the true distances between the TPCs.

    The joined image has the number of the lowest TPC, its drift along x and its frame, moved so that no box or
    read-out begins below 0; the geometry of the new store tells each TPC's place in it. Pixels are not joined.
    Stopped at any moment, it keeps what is committed; called again, it does the rest.

    Args:
        source: the store whose images are joined.
        output: the new store, created or continued.
        tpcs: two or more TPCs, in any order.
        files: only these file numbers, first and last.
        incomplete: "skip" events that lack a TPC, or "keep" what they have.
        ticks: length of the read-out, where it is longer than the geometry tells and TPCs drift to both sides.
        predictions: names of those to join, too, image by image after all images are there.
        bridge: name of the prediction whose scores at both edges bridge the gaps between faces; it is joined, too.
        bridge_above: a score above this at both edges bridges.
        bridge_reach: voxels by which the two ends of a line across a gap may differ, along x and the other axis.
        threads: threads that join; None = one for each core, 8 at most.
        client: join on the workers of this Dask cluster instead, which see the same files.
        break_lock: take over a lock of another host whose heartbeat stands still.
        progress: called with the result so far and the number of events, whenever something has been committed.

    Raises:
        ConfigError: TPCs that cannot be joined or bridged, or a frame of more than 65,535 voxels along an axis.
        StoreError: no events to join; an output of other settings, TPCs or inputs; an unknown prediction.
    """
    started = time.monotonic()
    plan = check(
        source, output, tpcs, files=files, incomplete=incomplete, ticks=ticks, predictions=predictions, bridge=bridge,
        bridge_above=bridge_above, bridge_reach=bridge_reach,
    )  # fmt: skip
    target = local_path(output)
    if not target.exists():
        create(plan, target)
    done = Joined(incomplete=plan.events.incomplete, differing=plan.events.differing, shape=plan.frame.shape)
    with larstore.StoreWriter(target, break_lock=break_lock) as writer, join_workers(threads, client) as workers:
        before = joined_before(plan, larstore.open(target))
        done.images_before = int(before.sum())
        run = _Run(plan, plan.events.take(~before), writer, workers, done)

        def commit(failures: Sequence[Failure] = ()) -> None:
            run.commit(failures)
            done.seconds = time.monotonic() - started
            if progress is not None:
                progress(done, len(before))

        for _ in run.blocks():
            if time.monotonic() - run.last_commit >= COMMIT_SECONDS:
                commit()
        commit()  # before the failures, which an image that is committed with them or later would settle
        commit([*new_failures(plan, larstore.open(target), files), *done.failures])
    done.predictions = {name: join_predictions(plan, target, name, break_lock) for name in plan.predictions}
    done.seconds = time.monotonic() - started
    return done


def check(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    tpcs: Sequence[int],
    *,
    files: tuple[int, int] | None = None,
    incomplete: str = "skip",
    ticks: int | None = None,
    predictions: Sequence[str] = (),
    bridge: str | None = None,
    bridge_above: float = ABOVE,
    bridge_reach: int = REACH,
) -> Plan:
    """What ``join`` would do; refuses what it would refuse, changes nothing."""
    if incomplete not in ("skip", "keep"):
        raise ConfigError(f"incomplete = {incomplete!r}. Fix: skip or keep")
    store, target = larstore.open(source), local_path(output)
    frame = joined_frame(store.geometry, tpcs, store.attributes["downsample"], ticks)
    events = find_events(store, frame.tpcs, files, incomplete == "keep")
    names = dict.fromkeys([*predictions, *([] if bridge is None else [bridge])])
    for name in names:
        if name not in store.predictions:
            known = ", ".join(sorted(store.predictions)) or "none"
            raise StoreError(f"{store.path}: no prediction {name!r}. Fix: one of {known}")
    plan = Plan(
        store,
        events,
        frame,
        joined_geometry(store.geometry, frame),
        tuple(names),
        _bridge(store, frame, bridge, bridge_above, bridge_reach),
    )
    if target.exists():
        refuse_other_settings(plan, target)
        joined_before(plan, larstore.open(target))
    return plan


def _bridge(store: larstore.Store, frame: JoinedFrame, name: str | None, above: float, reach: int) -> Bridge | None:
    """How the gaps of a frame are bridged by a prediction of scores."""
    if name is None:
        return None
    if not 0 <= reach <= FARTHEST or not np.isfinite(above):
        raise ConfigError(
            f"bridge_reach = {reach}, bridge_above = {above}. Fix: 0 to {FARTHEST} voxels, and a finite score"
        )
    about = store.predictions[name]
    if about.get("output") == "charge":
        raise StoreError(f"{store.path}: prediction {name!r} holds charges. Fix: --bridge with one that holds scores")
    gaps = find_gaps(store.geometry, frame, store.attributes["downsample"])
    return Bridge(name, about["checkpoint_sha256"], gaps, above, reach)


class _Waiting(NamedTuple):
    """A task that was submitted: positions of its events, shards of its block, workers that died of its only event."""

    future: Any
    events: Rows
    n_shards: int
    deaths: int = 0


class _Run:
    """Keeps a bounded number of tasks in flight, each attempt with a block of its own, and commits what comes back."""

    def __init__(
        self, plan: Plan, events: Events, writer: larstore.StoreWriter, workers: JoinWorkers, done: Joined
    ) -> None:
        self.plan, self.events, self.writer, self.workers, self.done = plan, events, writer, workers, done
        self.inputs = inputs_by_file(plan.store)
        self.receipts: list[Receipt] = []
        self.suspects: list[tuple[Rows, int, int]] = []
        self.last_commit = time.monotonic()

    def blocks(self) -> Iterator[None]:
        """Do all tasks; yields whenever one is done, with what it has written noted for the next commit."""
        waiting: deque[_Waiting] = deque()
        shard_rows, number = int(self.writer.attributes["shard_rows"]), self.workers.look(len(self.events))
        try:
            for events, n_shards in split(self.plan.store, self.events, shard_rows, number):
                waiting.append(self._start(events, n_shards))
                while len(waiting) > 2 * self.workers.look(2 * len(waiting)):
                    waiting.extendleft(self._settle(waiting.popleft()))
                    yield
            while waiting or self.suspects:
                waiting.extendleft(self._settle(waiting.popleft() if waiting else self._start(*self.suspects.pop())))
                yield
        finally:
            for each in waiting:
                each.future.cancel()

    def commit(self, failures: Sequence[Failure]) -> None:
        """Commit what has come back so far."""
        self.writer.commit(self.receipts, failures)
        self.receipts, self.last_commit = [], time.monotonic()

    def _start(self, events: Rows, n_shards: int, deaths: int = 0) -> _Waiting:
        store = self.plan.store
        numbers = np.unique(self.events.file[events]).tolist()
        inputs = tuple(item for number in numbers for item in self.inputs.get(number, ()))
        spec, rows = self.writer.reserve(n_shards), self.events.rows[events]
        task = JoinTask(
            store.path, store.attributes["commit"], self.writer.path, spec, self.plan.frame, rows, inputs,
            self.plan.bridge,
        )  # fmt: skip
        return _Waiting(self.workers.submit(task), events, n_shards, deaths)

    def _settle(self, task: _Waiting) -> list[_Waiting]:
        """Note a task's result. Returns what is tried again: in a larger block; or, where its worker died, in halves.

        A dying worker is blamed on every task it held: an event that was there too often is tried last and alone.
        """
        try:
            block = self.workers.result(task.future)
        except self.workers.deaths:
            n, deaths = len(task.events), task.deaths + 1
            log.warning("a worker died while it held %d event(s) from file %d on", n, self.events.file[task.events[0]])
            if n > 1:
                return [self._start(half, task.n_shards) for half in (task.events[n // 2 :], task.events[: n // 2])]
            if deaths < DEATHS:
                return [self._start(task.events, task.n_shards, deaths)]
            if deaths == DEATHS:
                self.suspects.append((task.events, task.n_shards, deaths))
                return []
            error = f"its worker died {deaths} times. Fix: give workers more memory (fewer --workers)"
            rows = self.events.rows[task.events[0]]
            self.done.failures.append(failure_of(self.plan.store, rows, self.plan.frame, error))
            return []
        if block.needed:
            return [self._start(task.events, block.needed, task.deaths)]
        if block.receipt is not None:
            self.receipts.append(block.receipt)
            self.done.images += len(block.receipt.images)
        self.done.voxels += block.voxels
        self.done.shared += block.shared
        self.done.bridged += block.bridged
        self.done.failures += block.failures
        return []
