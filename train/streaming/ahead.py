"""What a thread prepares while others of its kind are used: bounded, and gone when nobody wants more."""

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch

from train.streaming.samples import Batch

T = TypeVar("T")
END_SECONDS = 2.0  # how long the end of the process waits for a read that goes on


def batch_bytes(batch: Batch) -> int:
    """Bytes of a batch's tensors."""
    return sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))


class ReadAhead(Generic[T]):
    """An iterator over batches, or anything, that are made in a thread, in their order.

    The thread stops before one if the waiting ones hold ``limit`` or more by ``size``, which is bytes for batches: at
    most ``limit`` and one of them are held. Its error is raised, as it is, where the one it was at would have come.
    """

    def __init__(self, batches: Iterator[T], limit: int, size: Callable[[T], int]) -> None:
        self._batches, self._limit, self._size = batches, limit, size
        self._ready: deque[tuple[T, int]] = deque()
        self._held = 0
        self._error: BaseException | None = None
        self._ended = self._unwanted = False
        self._changed = threading.Condition()
        # A daemon: waiting for a slow file system must not hold up the end of the process.
        self._thread = threading.Thread(target=self._work, name="larstore-read-ahead", daemon=True)
        _running.add(self)
        self._thread.start()

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._unwanted or self._held < self._limit)
                    if self._unwanted:
                        return
                batch = next(self._batches, None)
                with self._changed:
                    if batch is None or self._unwanted:
                        return
                    size = self._size(batch)
                    self._ready.append((batch, size))
                    self._held += size
                    self._changed.notify_all()
                del batch  # else this frame keeps it alive while the next one is made
        except BaseException as error:  # noqa: BLE001 - handed on to the thread that asks for batches
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> "ReadAhead[T]":
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                batch, size = self._ready.popleft()
                self._held -= size
                self._changed.notify_all()
                return batch
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self, seconds: float | None = 0.0) -> None:
        """Let the thread end after the batch it is at; wait for that as long as this."""
        with self._changed:
            self._unwanted = True
            self._ready.clear()
            self._changed.notify_all()
        if seconds:
            self._thread.join(seconds)


_running: "weakref.WeakSet[ReadAhead[Any]]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread must not be inside torch or numpy while the interpreter is taken apart."""
    for ahead in list(_running):
        ahead.close(END_SECONDS)


def pinned(batch: Batch) -> Batch:
    """A batch whose tensors lie in memory that a GPU can copy from on its own."""
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
