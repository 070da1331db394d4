"""Room in shared memory through which worker processes hand over batches.

Torch would make a new file for each tensor and ask for it over a socket, which takes longer than decoding a small
batch; and new memory has to be given page by page. Here each worker has some rooms that it uses again as soon as nobody
holds the batch that lay there.
"""

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


class Slots:
    """``each`` slots of ``size`` bytes for each worker; memory that no batch ever needed is never taken."""

    def __init__(self, n_workers: int, each: int, size: int) -> None:
        self.each, self.number = each, next(_numbers)
        n = n_workers * each
        self.memory = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(n)]  # type: ignore[no-untyped-call]
        # Set by the worker that fills a slot, cleared by the process that used the batch.
        self.taken = torch.zeros(n, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        _opened[self.number] = self

    def filled(self, worker: int, batch: Batch) -> Batch | Parcel:
        """A batch in a free slot of this worker; the batch itself where none is free or it does not fit."""
        tensors, places, end = {}, [], 0
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                tensors[name] = value
                places.append((name, str(value.dtype).removeprefix("torch."), tuple(value.shape), end))
                end = -(-(end + value.nbytes) // ALIGNED) * ALIGNED
        mine = range(worker * self.each, (worker + 1) * self.each)
        slot = next((slot for slot in mine if not self.taken[slot]), None)
        if slot is None or end > len(self.memory[slot]):
            return batch
        self.taken[slot] = 1
        room = self.memory[slot].numpy()
        for name, dtype, shape, first in places:
            value = tensors[name].numpy()
            np.copyto(np.frombuffer(room, dtype, value.size, first).reshape(shape), value)
        rest = {name: value for name, value in batch.items() if name not in tensors}
        return Parcel(self.number, slot, places, rest)

    def held(self, slot: int) -> npt.NDArray[np.uint8]:
        """A slot's memory; when this array and all that is made of it are gone, the slot is free."""
        room = np.frombuffer(self.memory[slot].numpy(), np.uint8)
        weakref.finalize(room, _free, self.taken, slot).atexit = False
        return room


def _free(taken: torch.Tensor, slot: int) -> None:
    taken[slot] = 0
