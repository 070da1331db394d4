"""Inference in several processes: pieces are handed out as these ask for them; one that dies loses only its piece."""

import logging
import os
import queue
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import numpy as np
import torch

from larstore.cores import cores
from larstore.errors import LarstoreError
from larstore.store import Store
from train.inference.pieces import Piece
from train.inference.predictor import InferenceError, Predictor, Rows, Scores, load_network, named
from train.runtime import compute_threads, device_of
from train.schema import Config

HELD = 2  # pieces that a worker has at once, so that it reads one while it predicts another
END_SECONDS = 10.0  # for a worker to end in order
TERMINATED = 128 + signal.SIGTERM  # exit code of one that did
MOST_DEATHS = 2  # of workers at one piece, before it is given up; as many before any was ready end it all

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class Work:
    """What every worker is told when it begins. ``checkpoint_sha256``: of the file as the coordinator found it."""

    config: Config
    checkpoint: str
    checkpoint_sha256: str
    store: Store
    tpcs: tuple[int, ...]


@dataclass
class _Worker:
    process: Any
    connection: Connection
    place: int  # of its device and its name
    ready: bool = False
    alone: bool = False  # with one piece at which another died: nothing else can be the cause
    held: deque[Piece] = field(default_factory=deque)

    def give(self, piece: Piece) -> None:
        self.held.append(piece)
        with suppress(OSError):  # it has just died, which its connection tells next
            self.connection.send(piece.batches)


def predict_there(work: Work, workers: int, pieces: Sequence[Piece]) -> Generator[tuple[Piece, Scores], None, None]:
    """Each piece with its (voxels, outputs), in the order in which ``workers`` processes of this machine predict them.

    They write nothing: whoever takes the results does, so that a worker may be killed at any time.

    Raises:
        InferenceError: a piece at which two workers died, after all others were predicted; workers that cannot begin.
        LarstoreError: what a worker raises, as in one process.
    """
    pool = _Pool(work, min(workers, len(pieces)), pieces)
    try:
        yield from pool.results()
    finally:
        pool.end()


class _Pool:
    """The workers, what each has, and what is left to do."""

    def __init__(self, work: Work, size: int, pieces: Sequence[Piece]) -> None:
        self.work, self.size = work, size
        self.todo = deque(pieces)
        self.suspects: deque[Piece] = deque()  # at which a worker died: each once more, last and alone
        self.given_up: list[Piece] = []
        self.deaths: Counter[int] = Counter()
        self.false_starts = 0
        self.reason = ""
        self.workers: list[_Worker] = []

    def results(self) -> Iterator[tuple[Piece, Scores]]:
        """See ``predict_there``."""
        for place in range(self.size):
            self.workers.append(self._start(place))
        while self.todo or self.suspects or any(worker.held for worker in self.workers):
            for worker in self.workers:
                self._fill(worker)
            ready = wait([worker.connection for worker in self.workers])
            for worker in [each for each in self.workers if each.connection in ready]:
                try:
                    what, content = worker.connection.recv()
                except (EOFError, OSError):
                    self._died(worker)
                    continue
                if what == "error":
                    raise content
                if what == "ready":
                    worker.ready, self.false_starts = True, 0
                    if worker.place == 0:
                        log.info(content)
                else:
                    worker.alone = False
                    yield worker.held.popleft(), content
        if self.given_up:
            rows = np.concatenate([piece.rows for piece in self.given_up])
            raise InferenceError(
                f"{named(self.work.store, rows)}: not predicted, {MOST_DEATHS} workers died there, the last "
                f"one {self.reason}; all shards without them are done. Fix: fewer --workers or a smaller "
                "data.max_voxels, if it was the memory; else leave them out with --query and another --name"
            )

    def end(self) -> None:
        """Stop all workers, whatever they do."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(END_SECONDS)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()

    def _start(self, place: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        config = self.work.config
        threads = max(1, (config.train.threads or cores()) // self.size)
        cuda = device_of(config).type == "cuda"
        device = f"cuda:{place % torch.cuda.device_count()}" if cuda else "cpu"
        process = context.Process(
            target=_run, args=(self.work, theirs, device, threads), name=f"larstore-infer-{place}", daemon=True
        )
        # Ctrl-C goes to all processes of a terminal; these leave it to the coordinator. What `start` would start first
        # unblocks the signal.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours, place)

    def _fill(self, worker: _Worker) -> None:
        if not worker.ready or worker.alone:
            return
        while self.todo and len(worker.held) < HELD:
            worker.give(self.todo.popleft())
        if self.suspects and not worker.held:
            worker.alone = True
            worker.give(self.suspects.popleft())

    def _died(self, worker: _Worker) -> None:
        """Take back what a dead worker held, and start another one where there is work left."""
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        code = worker.process.exitcode
        if code == TERMINATED:
            code = -signal.SIGTERM
        if code >= 0:  # an exception, which would come again; its traceback is on stderr
            where = named(self.work.store, worker.held[0].rows) if worker.held else str(self.work.checkpoint)
            raise InferenceError(f"{where}: a worker failed there, as it wrote above. Fix: report it")
        self.reason = f"by signal {-code}"
        if not worker.ready:
            self.false_starts += 1
            log.warning("worker %d died %s before it was ready", worker.place, self.reason)
            if self.false_starts >= MOST_DEATHS:
                raise InferenceError(
                    f"{self.work.checkpoint}: workers die before they are ready, the last one {self.reason}. "
                    "Fix: fewer --workers, if it was the memory; see above for what they wrote"
                )
        elif worker.held:
            first, *others = worker.held
            self.todo.extendleft(reversed(others))
            self.deaths[first.number] += 1
            again = self.deaths[first.number] < MOST_DEATHS
            (self.suspects if again else self.given_up).append(first)
            log.warning(
                "worker %d died %s at %s: %s",
                worker.place,
                self.reason,
                named(self.work.store, first.rows),
                "to be tried again" if again else "given up",
            )
        left = len(self.todo) + len(self.suspects)
        if left and len(self.workers) < self.size:
            self.workers.append(self._start(worker.place))


def _run(work: Work, connection: Connection, device: str, threads: int) -> None:
    """A worker: pieces in, scores out, until the other end is closed."""
    signal.signal(signal.SIGTERM, _end)
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()  # batches of each piece
    batches: queue.SimpleQueue[Rows | None] = queue.SimpleQueue()
    try:
        with compute_threads(threads, work.config.train.backend):
            network = load_network(work.config, work.checkpoint, work.store, np.array(work.tpcs))
            if network.attributes["checkpoint_sha256"] != work.checkpoint_sha256:
                raise InferenceError(f"{work.checkpoint}: was replaced meanwhile. Fix: run again")
            predictor = Predictor(network, work.store, torch.device(device))
            threading.Thread(target=_receive, args=(connection, begun, batches), daemon=True).start()
            connection.send(("ready", predictor.backend))
            outputs = predictor(_each(batches))
            while True:
                connection.send(("done", np.concatenate(list(islice(outputs, begun.get())))))
    except LarstoreError as error:
        connection.send(("error", error))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the coordinator has ended
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it leaves already
        batches.put(None)  # whoever reads ahead waits for nothing more


def _end(number: int, frame: FrameType | None) -> None:
    """Leave in order: a process that is killed leaves semaphores of its libraries behind."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(TERMINATED)


def _each(batches: "queue.SimpleQueue[Rows | None]") -> Iterator[Rows]:
    while (rows := batches.get()) is not None:
        yield rows


def _receive(
    connection: Connection, begun: "queue.SimpleQueue[int]", batches: "queue.SimpleQueue[Rows | None]"
) -> None:
    """Take pieces off the connection at once, so that neither end waits for the other to read."""
    main_thread = threading.main_thread().ident or 0
    try:
        while True:
            piece = connection.recv()
            begun.put(len(piece))
            for batch in piece:
                batches.put(batch)
    except (EOFError, OSError):  # the coordinator has ended, however it did: nobody wants the rest
        signal.pthread_kill(main_thread, signal.SIGTERM)
        time.sleep(END_SECONDS)
        os._exit(TERMINATED)
