"""The coordinator of a run: hands tasks to workers, commits what they wrote, and decides what is tried again."""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from distributed import CancelledError, Client, KilledWorker

import larstore
from larstore.errors import LarstoreError, StoreError
from larstore.index import Key
from larstore.records import Failure, Receipt
from preprocess.attempts import LOST_JOBS, Attempts, Task
from preprocess.cluster import keeper_of
from preprocess.config import RunConfig
from preprocess.interrupts import Stop
from preprocess.plan import Unit, next_batch
from preprocess.run_state import RunState
from preprocess.task import TaskResult, work
from preprocess.task_sizes import Done, TaskSizes

log = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0  # receipts of so long share a commit, or of so long that commits take a tenth of the time
LOOK_SECONDS = 1.0  # between looks at the workers
SHARDS = 4  # of a block, in case that they are more
PIXEL_SHARDS = 1024  # of a block that keeps pixels, which are many; those that stay empty cost nothing
FETCH_SECONDS = 30.0  # for a result that is there to arrive; its worker may die meanwhile


class Coordinator:
    """Keeps a bounded number of tasks in flight, each attempt with a block of its own, and commits what comes back.

    ``held``: (file, tpc) of units that are made again -> keys of the images that the store has of them.
    ``show``: called with the state of the run after every look at the workers.
    """

    def __init__(
        self,
        config: RunConfig,
        geometry_hash: str,
        client: Client,
        writer: larstore.StoreWriter,
        state: RunState,
        held: dict[tuple[int, int], set[Key]],
        show: Callable[[RunState], None],
    ) -> None:
        self._config, self._geometry_hash, self._client = config, geometry_hash, client
        self._sent = config.model_copy(update={"inputs": ()})  # workers are told their units; the list may be long
        self._writer, self._state, self._held, self._show = writer, state, held, show
        self._keeper = keeper_of(client)
        self._workers = self._keeper.state()
        self._receipts: list[Receipt] = []
        self._failures: list[Failure] = []
        self._gone: list[Key] = []
        self._committed = self._looked = time.monotonic()
        self._commit_seconds = 0.0  # of the last one
        self._fresh: deque[Unit] = deque()
        self._fresh_bytes = 0
        shard_rows = int(writer.attributes["shard_rows"])
        self._sizes = TaskSizes(state.n_bytes, shard_rows, config.task_bytes, learns=not config.save_pix)
        self._attempts = Attempts(config.retry_seconds)
        self._doubtful: list[tuple[Future[bool], str, Task]] = []  # their worker died; who is to blame is not known yet
        self._running: dict[Any, Task] = {}
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stop = Stop.NO

    def ask_to_stop(self, how: Stop) -> None:
        """From a signal handler: finish what is in flight, or stop now."""
        self._stop = max(self._stop, how)

    def take(self, failures: Iterable[Failure]) -> None:
        """Note failures for the next commit."""
        new = list(failures)
        for failure in new:
            log.info("failed: %s", failure.error)
        self._failures += new
        self._state.summary.failures += new
        self._state.summary.units_failed += len(new)

    def drain(self, units: list[Unit]) -> None:
        """Work until nothing is left or a stop is asked for, then commit the rest.

        A dying worker is blamed on every task it held, also on those that only waited there: whoever was there too
        often is tried last and alone, so that no unit is given up for another one's fault.
        """
        self._fresh = deque(units)
        self._fresh_bytes = sum(unit.size for unit in units)
        self._look()
        try:
            while self._is_left():
                self._hand_out()
                self._gather()
                self._judge()
                now = time.monotonic()
                if now - self._committed >= max(COMMIT_SECONDS, 9 * self._commit_seconds):
                    self._commit()
                if now - self._looked >= LOOK_SECONDS:
                    self._look()
            self._state.phase = "done" if self._stop is Stop.NO else "stopped"
        except Exception:
            self._rescue()
            raise
        finally:
            for future in self._running:
                future.cancel()
            self._state.summary.units_left = self._state.n_units - self._state.units_over
            self._state.in_flight = 0
        self._commit()
        self._state.note_progress(time.monotonic())
        self._show(self._state)

    def _rescue(self) -> None:
        """Commit what came back before the run failed, if that is possible at all."""
        try:
            self._commit()
        except LarstoreError as error:
            log.warning("not committed: %s", error)

    def _is_left(self) -> bool:
        if self._stop is Stop.NOW:
            return False
        if self._stop is Stop.FINISH:  # without a worker nothing of it is being worked on
            return bool(self._running) and self._workers.workers > 0
        return bool(self._fresh or self._attempts or self._running or self._doubtful)

    # -- handing out

    def _hand_out(self) -> None:
        while self._client.status == "running" and len(self._running) < self._most_running():
            task = self._next_task()
            if task is None:
                return
            spec = self._writer.reserve(task.n_shards)
            key = f"unit-{spec.token}-{spec.first_shard}"  # the token tells apart runs that share a client
            future = self._client.submit(
                work, str(self._config.output), spec, task.units, self._sent, self._geometry_hash, key=key, pure=False,
                retries=0,
            )  # fmt: skip
            self._running[future] = task
            future.add_done_callback(self._finished.put)

    def _next_task(self) -> Task | None:
        if self._stop is not Stop.NO:
            return None
        if (task := self._attempts.due()) is not None:
            return task
        if self._fresh:
            units = next_batch(self._fresh, self._fitting())
            self._sizes.handed += 1
            self._fresh_bytes -= sum(unit.size for unit in units)
            return Task(units, PIXEL_SHARDS if self._config.save_pix else SHARDS)
        return None if self._running or self._doubtful else self._attempts.suspect()

    def _fitting(self) -> float:
        """Input bytes of the next task."""
        slots = max(1, self._workers.slots, self._workers.wanted)
        return self._sizes.fitting(self._fresh_bytes, slots, self._done())

    def _most_running(self) -> int:
        return self._sizes.at_once(self._workers.slots, self._done())

    def _done(self) -> Done:
        summary = self._state.summary
        spent = float(sum(seconds for stage, seconds in summary.seconds.items() if stage != "commit"))
        return Done(self._state.bytes_done, summary.voxels, spent)

    # -- what comes back

    def _gather(self) -> None:
        """Settle what has finished; waits for it a little."""
        try:
            future = self._finished.get(timeout=LOOK_SECONDS / 5)
        except queue.Empty:
            return
        while True:
            if future in self._running:
                self._settle(future, self._running.pop(future))
                future.release()
            try:
                future = self._finished.get_nowait()
            except queue.Empty:
                return

    def _settle(self, future: Any, task: Task) -> None:
        """Take a finished task's result, or decide what becomes of its units."""
        first = task.units[0]
        result, error = _outcome(future)
        if result is not None:
            self._accept(result, task)
        elif error is None:  # whether the scheduler comes back, the keeper tells
            self._attempts.again(task)
        elif isinstance(error, KilledWorker):
            last = error.last_worker
            name, address = str(getattr(last, "name", last)), str(getattr(last, "address", ""))
            self._doubtful.append((self._keeper.ended_from_outside(name, address), name, task))
        elif len(task.units) > 1:
            self._attempts.again(*task.parts())
        elif task.tries < self._config.retries:
            log.warning("%s: %s: %s; it is tried again", first.path, type(error).__name__, _one_line(error))
            self._attempts.again(replace(task, tries=task.tries + 1))
        else:
            message = f"{first.path}: {type(error).__name__}: {_one_line(error)}"
            log.error("%s", message, exc_info=error)
            self._give_up(task, message)

    def _judge(self) -> None:
        """Decide what becomes of tasks whose worker died, as soon as it is known who is to blame."""
        known = [entry for entry in self._doubtful if entry[0].done()]
        if known:
            self._doubtful = [entry for entry in self._doubtful if entry not in known]
        for verdict, worker, task in known:
            self._bury(worker, task, from_outside=not verdict.cancelled() and verdict.result())

    def _bury(self, worker: str, task: Task, from_outside: bool) -> None:
        """A worker died while it held the task."""
        first = task.units[0]
        if from_outside:
            log.warning("the job of worker %s ended while it held %s", worker, task.inputs)
            if self._attempts.lost(task):
                return
            message = (
                f"{first.path}: {LOST_JOBS} jobs were ended from outside while they worked on it. Fix: give the "
                "cluster's jobs more walltime, or leave the file out"
            )
        else:
            log.warning("worker %s died while it held %s", worker, task.inputs)
            if self._attempts.died(task):
                return
            message = (
                f"{first.path}: its worker died {task.deaths + 1} times, at last with nothing else to do. "
                "Fix: give workers more memory (fewer --workers), or leave the file out"
            )
        self._give_up(task, message)

    def _accept(self, result: TaskResult, task: Task) -> None:
        if result.needed:
            self._attempts.again(replace(task, n_shards=result.needed))
            return
        if result.write_error:
            if result.no_room or task.tries >= self._config.retries:
                raise StoreError(result.write_error)
            log.warning("%s; it is tried again", result.write_error)
            self._attempts.again(replace(task, tries=task.tries + 1))
            return
        stumbled, failed = ({(f.file, f.tpc): f for f in found} for found in (result.stumbles, result.failures))
        made = {(row.file, row.event, row.tpc) for receipt in result.receipts for row in receipt.images}
        summary = self._state.summary
        for part in task.apart(tries=task.tries + 1):
            unit = part.units[0]
            key = unit.file, unit.tpc
            if key in stumbled and task.tries < self._config.retries:
                log.warning("%s; it is tried again", stumbled[key].error)
                self._attempts.again(part)
            elif key in stumbled or key in failed:
                self._give_up(part, (stumbled | failed)[key].error)
            else:
                self._gone += self._held.pop(key, set()) - made
                summary.units_done += 1
                self._state.bytes_done += unit.size
        self._receipts += result.receipts
        for receipt in result.receipts:
            summary.images += len(receipt.images)
            summary.voxels += sum(image.voxel_count for image in receipt.images)
        summary.lit_samples += result.lit_samples
        summary.notes += result.notes
        summary.seconds += result.seconds

    def _give_up(self, task: Task, message: str) -> None:
        self.take(Failure(unit.file, unit.tpc, unit.path, message) for unit in task.units)
        self._state.bytes_done += sum(unit.size for unit in task.units)

    # -- commits and looks

    def _commit(self) -> None:
        """Commit what has come back so far."""
        start = time.monotonic()
        self._writer.commit(self._receipts, self._failures, self._gone)
        self._receipts, self._failures, self._gone = [], [], []
        self._committed = time.monotonic()
        self._commit_seconds = self._committed - start
        self._state.summary.seconds["commit"] += self._commit_seconds  # type: ignore[assignment]

    def _look(self) -> None:
        """See how the workers are, ask for as many as are of use, and show it all."""
        left = -(-self._fresh_bytes // max(1, int(self._fitting()))) if self._stop is Stop.NO else 0
        again = len(self._attempts) + len(self._doubtful)
        self._keeper.wanted(len(self._running) + again + left)
        state, found = self._state, self._keeper.state()
        self._workers = found
        state.news = self._keeper.notes()
        for line in state.news:
            log.warning("%s", line)
        self._keeper.check()
        if self._stop is Stop.FINISH and state.phase != "finishing":
            log.warning("finishing the %d tasks in flight; Ctrl-C again stops now", len(self._running))
        state.workers, state.slots, state.pending_jobs = found.workers, found.slots, found.pending_jobs
        state.dashboard, state.in_flight = found.dashboard, len(self._running)
        state.phase = (
            "finishing" if self._stop is not Stop.NO else "working" if found.workers else "waiting for workers"
        )
        self._looked = time.monotonic()
        state.note_progress(self._looked)
        self._show(state)


def _outcome(future: Any) -> tuple[TaskResult | None, BaseException | None]:
    """What a task returned, or raised; neither, if that was lost with its worker, or with the scheduler."""
    try:
        if future.status == "finished":
            return future.result(FETCH_SECONDS), None
        if future.status == "error":
            return None, future.exception(FETCH_SECONDS)
    except (OSError, CancelledError):  # TimeoutError among them
        pass
    except Exception as error:  # noqa: BLE001 - the task's own: its worker died meanwhile, and Dask did it again
        return None, error
    return None, None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
