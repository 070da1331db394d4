"""What is made ahead while others of its kind are used: bounded, in order, and gone when nobody wants more."""

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch

from larstore.reading import reading_beside
from train.streaming.samples import Batch

K = TypeVar("K")
T = TypeVar("T")
END_SECONDS = 2.0  # how long the end of the process waits for a read that goes on


def batch_bytes(batch: Batch) -> int:
    """Bytes of a batch's tensors."""
    return sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))


class ReadAhead(Generic[K, T]):
    """An iterator over what ``make`` makes of ``tasks``, in their order; a thread makes it before it is asked for.

    Where nothing is ready, whoever asks makes some itself instead of waiting for the thread, so ``make`` is called from
    two threads. Nothing more is begun while those that wait, and those in the making if they are as large as the last
    one, hold ``limit`` or more by ``size``, which is bytes for batches. An error is raised, as it is, where the one
    that was being made would have come; nothing is begun after it.

    ``helped`` is for tasks that are there at once. Others the thread alone waits for, and makes.
    """

    def __init__(
        self, tasks: Iterable[K], make: Callable[[K], T], limit: int, size: Callable[[T], int], helped: bool = True
    ) -> None:
        self._tasks, self._make, self._limit, self._size, self._helped = iter(tasks), make, limit, size, helped
        self._ready: dict[int, tuple[T, int]] = {}
        self._begun = self._taken = self._making = self._held = self._last = 0
        self._error: tuple[int, BaseException] | None = None  # the first in order
        self._ended = self._unwanted = False
        self._changed = threading.Condition()
        # A daemon: waiting for a slow file system must not hold up the end of the process.
        self._thread = threading.Thread(target=self._work, name="larstore-read-ahead", daemon=True)
        _running.add(self)
        self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._unwanted or self._has_room())
                if self._ended or self._unwanted:
                    return
                begun = self._begin() if self._helped else None
            if not self._helped:
                begun = self._begin()
            if begun is not None:
                self._do(*begun)

    def _has_room(self) -> bool:
        return self._held + self._making * self._last < self._limit

    def _begin(self) -> tuple[int, K] | None:
        """The next one to be made and its number, None at the end."""
        try:
            task = next(self._tasks)
        except BaseException as error:  # noqa: BLE001 - handed on to the one who asks
            with self._changed:
                if isinstance(error, StopIteration):
                    self._ended = True
                else:
                    self._fail(self._begun, error)
                self._changed.notify_all()
            return None
        with self._changed:
            number = self._begun
            self._begun += 1
            self._making += 1
        return number, task

    def _do(self, number: int, task: K) -> None:
        try:
            with reading_beside(2 if self._helped else 1):
                made = self._make(task)
            size = self._size(made)
        except BaseException as error:
            with self._changed:
                self._making -= 1
                self._fail(number, error)
                self._changed.notify_all()
            if isinstance(error, Exception) or threading.current_thread() is self._thread:
                return
            raise  # Ctrl-C does not wait for its turn
        with self._changed:
            self._making -= 1
            if not self._unwanted:
                self._ready[number] = made, size
                self._held += size
                self._last = size
            self._changed.notify_all()

    def _fail(self, number: int, error: BaseException) -> None:
        self._ended = True
        if self._error is None or number < self._error[0]:
            self._error = number, error

    def __iter__(self) -> "ReadAhead[K, T]":
        return self

    def __next__(self) -> T:
        while True:
            with self._changed:
                while True:
                    if self._taken in self._ready:
                        made, size = self._ready.pop(self._taken)
                        self._taken += 1
                        self._held -= size
                        self._changed.notify_all()
                        return made
                    if self._error is not None and self._error[0] == self._taken:
                        raise self._error[1]
                    if self._unwanted or (self._ended and self._taken == self._begun):
                        raise StopIteration
                    if not self._helped or self._ended or not self._has_room():
                        self._changed.wait()
                        continue
                    begun = self._begin()
                    if begun is not None:
                        break
            self._do(*begun)

    def close(self, seconds: float | None = 0.0) -> None:
        """Let the thread end after the batch it is at; wait for that as long as this."""
        with self._changed:
            self._unwanted = True
            self._ready.clear()
            self._changed.notify_all()
        if seconds:
            self._thread.join(seconds)


_running: "weakref.WeakSet[ReadAhead[Any, Any]]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread must not be inside torch or numpy while the interpreter is taken apart."""
    for ahead in list(_running):
        ahead.close(END_SECONDS)


def pinned(batch: Batch) -> Batch:
    """A batch whose tensors lie in memory that a GPU can copy from on its own."""
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
