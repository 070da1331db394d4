"""Who joins: threads of this process, or the workers of a Dask client; tasks go in, receipts come back."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from larstore.cores import cores
from preprocess.joining.task import JoinedBlock, JoinTask, work

if TYPE_CHECKING:
    from distributed import Client

MOST_THREADS = 8  # unless told: each holds the images of a task
LOOK_SECONDS = 5.0  # between looks at the workers while a result is waited for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinWorkers:
    """Attributes:
    submit: starts a task, returns its future.
    look: sees how many tasks can run at once, 1 or more; is told how many are wanted.
    deaths: what a future raises whose worker died.
    """

    submit: Callable[[JoinTask], Any]
    look: Callable[[int], int]
    deaths: tuple[type[Exception], ...] = ()

    def result(self, future: Any) -> JoinedBlock:
        """A task's result, once it is there; whatever the task raises, and ClusterError where no worker is left."""
        while True:
            try:
                block: JoinedBlock = future.result(timeout=LOOK_SECONDS)
                return block
            except TimeoutError:
                if future.done():
                    raise
                self.look(1)


@contextmanager
def join_workers(threads: int | None, client: "Client | None") -> Iterator[JoinWorkers]:
    """The workers of a client, or without one so many threads; None = one for each core, 8 at most."""
    if client is not None:
        yield _of_client(client)
        return
    number = threads or min(cores(), MOST_THREADS)
    pool = ThreadPoolExecutor(number, "join")
    try:
        yield JoinWorkers(lambda task: pool.submit(work, task), lambda wanted: number)
    finally:
        pool.shutdown(cancel_futures=True)


def _of_client(client: "Client") -> JoinWorkers:
    from distributed import KilledWorker

    from preprocess.cluster import keeper_of

    keeper = keeper_of(client)

    def submit(task: JoinTask) -> Any:
        # The token tells apart runs that share a client.
        key = f"join-{task.spec.token}-{task.spec.first_shard}"
        return client.submit(work, task, pure=False, retries=0, key=key)

    def look(wanted: int) -> int:
        keeper.wanted(wanted)
        for line in keeper.notes():
            log.warning("%s", line)
        keeper.check()
        return max(1, keeper.state().slots)

    return JoinWorkers(submit, look, (KilledWorker,))
