"""Room in shared memory through which worker processes hand over batches.

Torch would make a new file for each tensor and ask for it over a socket, which takes longer than decoding a small
batch; and new memory has to be given page by page. Here each worker has some rooms that it uses again as soon as nobody
holds the batch that lay there.
"""

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from train.streaming.ahead import pinned
from train.streaming.samples import Batch

ALIGNED = 64  # bytes

_numbers: Iterator[int] = count()
_opened: "weakref.WeakValueDictionary[int, Slots]" = weakref.WeakValueDictionary()


@dataclass
class Parcel:
    """A batch that lies in a slot: where its tensors are (name, dtype, shape, first byte), and all else of it.

    On arrival it holds the slot, so that one that is never opened gives it back, too.
    """

    slots: int
    slot: int
    tensors: list[tuple[str, str, tuple[int, ...], int]]
    rest: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._room = _opened[self.slots].held(self.slot)

    def open(self) -> Batch:
        """The batch, without a copy. Its slot is used again when all of its tensors are gone."""
        found: Batch = {}
        for name, dtype, shape, first in self.tensors:
            kind, size = getattr(torch, dtype), int(np.prod(shape))
            if size:
                found[name] = torch.frombuffer(self._room, dtype=kind, count=size, offset=first).reshape(shape)
            else:
                found[name] = torch.empty(shape, dtype=kind)
        return found | self.rest

    def pin_memory(self) -> Batch:
        """What torch's thread asks for: a copy in pinned memory."""
        return pinned(self.open())


class Room:
    """A slot while a worker makes a batch: what it hands out need not be copied there."""

    def __init__(self, slot: int, memory: npt.NDArray[np.uint8]) -> None:
        self.slot, self._memory, self._end = slot, memory, 0

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """As ``np.empty``, which it is where the slot is full."""
        whole = (shape,) if isinstance(shape, int) else shape
        size, kind = math.prod(whole), np.dtype(dtype)
        first, end = self._end, self._end + size * kind.itemsize
        if end > len(self._memory):
            return np.empty(whole, kind)
        self._end = -(-end // ALIGNED) * ALIGNED
        return np.frombuffer(self._memory, kind, size, first).reshape(whole)

    def first_byte(self, value: npt.NDArray[Any]) -> int | None:
        """Where an array lies in here; it is copied if it does not yet. None where it does not fit."""
        if not value.size:
            return 0
        if self.touches(value) and value.flags.c_contiguous:
            return _address(value) - _address(self._memory)
        first, room = self._end, self.empty(value.shape, value.dtype)
        if not self.touches(room):
            return None
        np.copyto(room, value)
        return first

    def touches(self, value: npt.NDArray[Any]) -> bool:
        """Whether an array lies in here; all that do were handed out here, and lie in it as a whole."""
        return np.may_share_memory(value, self._memory)


class Slots:
    """``each`` slots of ``size`` bytes for each worker; memory that no batch ever needed is never taken."""

    def __init__(self, n_workers: int, each: int, size: int) -> None:
        self.each, self.number = each, next(_numbers)
        n = n_workers * each
        self.memory = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(n)]  # type: ignore[no-untyped-call]
        # Set by the worker that fills a slot, cleared by the process that used the batch.
        self.taken = torch.zeros(n, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        _opened[self.number] = self

    def room(self, worker: int) -> Room | None:
        """A free slot of this worker's, if there is one."""
        mine = range(worker * self.each, (worker + 1) * self.each)
        slot = next((slot for slot in mine if not self.taken[slot]), None)
        return None if slot is None else Room(slot, self.memory[slot].numpy())

    def filled(self, room: Room, batch: Batch) -> Batch | Parcel:
        """A batch that lies in this slot then; the batch itself, and nothing of it there, if it does not fit."""
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        places = []
        for name, value in tensors.items():
            first = room.first_byte(value.numpy())
            if first is None:
                # The slot is free for another batch as soon as this one is on its way.
                return batch | {name: value.clone() for name, value in tensors.items() if room.touches(value.numpy())}
            places.append((name, str(value.dtype).removeprefix("torch."), tuple(value.shape), first))
        self.taken[room.slot] = 1
        rest = {name: value for name, value in batch.items() if name not in tensors}
        return Parcel(self.number, room.slot, places, rest)

    def held(self, slot: int) -> npt.NDArray[np.uint8]:
        """A slot's memory; when this array and all that is made of it are gone, the slot is free."""
        room = np.frombuffer(self.memory[slot].numpy(), np.uint8)
        weakref.finalize(room, _free, self.taken, slot).atexit = False
        return room


def _address(value: npt.NDArray[Any]) -> int:
    return int(value.__array_interface__["data"][0])


def _free(taken: torch.Tensor, slot: int) -> None:
    taken[slot] = 0
