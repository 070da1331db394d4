"""`ImageStream`: images of one or several stores as batches of sparse voxels, in an order from the index alone."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from larstore.errors import ConfigError, LarstoreError
from larstore.reading import share_cores
from train.streaming.batches import BatchPlan, Last, Numbers, assigned, fingerprint, local_batches
from train.streaming.crops import BudgetCrop
from train.streaming.plans import EpochPlanner
from train.streaming.reading import Empty, ImageReader
from train.streaming.samples import Batch, Failure, Task, as_batch
from train.streaming.slots import Parcel, Slots
from train.streaming.snapshots import refuse_replaced, remember
from train.streaming.steps import Sample, Transform, apply_all, together
from train.streaming.stream_loader import StreamLoader

__all__ = ["ImageStream", "StreamLoader"]

log = logging.getLogger("larstore.train")


class ImageStream(IterableDataset[Batch]):
    """Batches of images; every image exactly once an epoch, in the same order for any number of workers and ranks.

    A batch is what `train.streaming.samples.as_batch` returns (coords, features, target, weight, offsets, keys), with
    ``sources``, the position of each image's selection, and ``number``, that of the batch in the epoch. A ``repeated``
    batch, which only makes the ranks equal, has weight 0 throughout. An image emptied by a transform stays, without
    voxels, and so does a batch.

    Args:
        selection: a `larstore` selection, or (selection, transforms) pairs, one a store.
        batch_size: images a batch at most, None = no limit but ``max_voxels``.
        max_voxels: voxels a batch at most (as stored), None = no limit.
        shuffle: a new order each epoch; else the selections' own.
        seed: of the order and of the transforms.
        transforms: for a single selection; without any, features are the planes' charges in electrons.
        weights, epoch_images: a weighted mixture of the selections; see `train.streaming.plans.EpochPlanner`.
        over_budget: what becomes of images of more than ``max_voxels``: "fail" (ConfigError here and now), "skip",
            or "crop" to a box at random (`train.streaming.crops.BudgetCrop`). How many is logged as an epoch starts.
        last: the batches at an epoch's end that the ranks cannot share evenly: "pad" repeats the first ones, "drop"
            loses up to ``n_ranks`` - 1.
        window: runs of consecutive images that are shuffled together.
        rank, n_ranks: this process among those that train together.
        need_truth: refuse images without truth instead of giving them weight 0.
        full_y: batches hold all truth voxels, too.
        vary: random transforms differ from epoch to epoch; else they are the same in each, as for validation.
        truth: what the target is made of, "truth" or "collected"; see `train.streaming.reading.ImageReader`.
    """

    def __init__(
        self,
        selection: Any,
        batch_size: int | None = 1,
        max_voxels: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        *,
        transforms: Sequence[Transform] = (),
        weights: Sequence[float] | None = None,
        epoch_images: int | None = None,
        over_budget: str = "fail",
        last: Last = "pad",
        window: int = 256,
        rank: int = 0,
        n_ranks: int = 1,
        need_truth: bool = False,
        full_y: bool = False,
        vary: bool = True,
        truth: str = "truth",
    ) -> None:
        super().__init__()
        pairs = list(selection) if isinstance(selection, (list, tuple)) else [(selection, transforms)]
        self.selections = [pair[0] for pair in pairs]
        self.transforms = [tuple(pair[1]) for pair in pairs]
        if not any(map(len, self.selections)):
            raise ConfigError(f"{self._name()}: the selection is empty. Fix: check the file ranges and the TPCs")
        self.readers = [ImageReader(part, full_y, truth, window if shuffle else 0) for part in self.selections]
        for part in self.selections:
            remember(part)
        if need_truth:
            for reader in self.readers:
                reader.refuse_without_truth()
        self.keys = np.concatenate([reader.keys for reader in self.readers])
        self.voxel_count = np.concatenate([reader.count for reader in self.readers])
        self.batch_size, self.max_voxels, self.shuffle, self.seed = batch_size, max_voxels, shuffle, seed
        self.last, self.rank, self.n_ranks, self.vary = last, rank, n_ranks, vary
        self.planner = EpochPlanner(
            [reader.count for reader in self.readers],
            batch_size=batch_size,
            max_voxels=max_voxels,
            over_budget=over_budget,
            shuffle=shuffle,
            seed=seed,
            window=window,
            weights=weights,
            epoch_images=epoch_images,
            names=[str(part.store.path) for part in self.selections],
        )
        self.first = self.planner.first
        self._settings = (batch_size, max_voxels, over_budget, shuffle, window, self.planner.draws)
        self.epoch = 0
        self.batches = 0  # global batches of this epoch that were handed out
        # Where the running iteration began. Workers read it when they start it, at any later moment.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._plan: tuple[int, BatchPlan] | None = None
        self.slots: Slots | None = None  # through which workers hand over their batches
        self._empty: Empty = np.empty  # a worker's is of the slot of the batch that it makes
        self._pid = os.getpid()
        self._told = False
        self._refuse_too_few()

    def _name(self) -> str:
        return " + ".join(str(part.store.path) for part in self.selections)

    def _refuse_too_few(self) -> None:
        n = len(self.plan(self.epoch))
        if not local_batches(n, self.n_ranks, 0, self.last):
            raise ConfigError(
                f"{self._name()}: {n} batches in epoch {self.epoch} are too few for {self.n_ranks} processes. "
                "Fix: data.last: pad, smaller batches, or fewer processes"
            )

    def plan(self, epoch: int) -> BatchPlan:
        """The batches of one epoch, from the index alone."""
        held = self._plan  # another thread may change it
        if held is None or held[0] != epoch:
            held = self._plan = (epoch, self.planner(epoch))
        return held[1]

    def __len__(self) -> int:
        """Batches of this rank in the current epoch, those already handed out included."""
        left = local_batches(len(self.plan(self.epoch)), self.n_ranks, self.batches, self.last)
        return self.batches // self.n_ranks + left

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is not None:
            share_cores(info.num_workers)
            return cast(Iterator[Batch], self._handed_on(self.stretch(info.id, info.num_workers), info.id))
        self.begin()
        return self._counted()

    def _counted(self) -> Iterator[Batch]:
        for batch in self.stretch():
            self.advance()
            yield batch

    def _handed_on(self, batches: Iterator[Batch], worker: int) -> Iterator[Batch | Parcel | Failure]:
        """Batches in a worker; an error that we raise on purpose travels as it is, torch would make text of it."""
        try:
            while True:
                room = None if self.slots is None else self.slots.room(worker)
                self._empty = np.empty if room is None else room.empty
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch if room is None or self.slots is None else self.slots.filled(room, batch)
        except LarstoreError as error:
            yield Failure(error)

    def begin(self) -> None:
        """Note where an iteration starts; its workers begin there. Raises StoreError where a store was replaced."""
        for part in self.selections:
            refuse_replaced(part)
        self._start[0], self._start[1] = self.epoch, self.batches
        self._tell_budget()

    def _tell_budget(self) -> None:
        """Log what the budget does to this epoch's images: the first time as a warning."""
        n_cropped = int(self.planner.over[self.plan(self.epoch).order].sum()) if self.planner.over.any() else 0
        for count, what in ((self.planner.n_skipped, "are skipped"), (n_cropped, "are cropped")):
            if count:
                level = logging.DEBUG if self._told else logging.WARNING
                text = "%s, epoch %d: %d images of more than max_voxels = %d voxels %s"
                log.log(level, text, self._name(), self.epoch, count, self.max_voxels, what)
        self._told = True

    def advance(self) -> None:
        """One batch was handed to each rank; behind the last one a new epoch begins."""
        self.batches += self.n_ranks
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Where no rank can be given another batch, go to the next epoch."""
        if not local_batches(max(len(self.plan(self.epoch)), self.batches), self.n_ranks, self.batches, self.last):
            self.epoch, self.batches = self.epoch + 1, 0
            self._refuse_too_few()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain numbers, the same on every rank and for any number of workers."""
        return {"seed": self.seed, "epoch": self.epoch, "batches": self.batches, "plan": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a state. Raises ConfigError in the middle of an epoch whose batches would now be others.

        With another number of ranks too few batches may be left for all of them; with ``last`` = "drop" the next epoch
        begins then.
        """
        if state["batches"] and (state["plan"] != self._fingerprint() or state["seed"] != self.seed):
            raise ConfigError(
                f"{self._name()}: images, batch_size, max_voxels, weights or seed changed since the checkpoint in the "
                f"middle of epoch {state['epoch']}. Fix: restore them, or resume from the end of an epoch"
            )
        self.epoch, self.batches = int(state["epoch"]), int(state["batches"])
        self._end_epoch()

    def _fingerprint(self) -> str:
        return fingerprint([self.voxel_count, self.keys, self.first], *self._settings)

    def stretch(self, worker: int = 0, n_workers: int = 1) -> Iterator[Batch]:
        """One worker's batches from where the iteration began to the end of the epoch."""
        numbers, make = self.tasks(worker, n_workers)
        return map(make, numbers)

    def tasks(self, worker: int = 0, n_workers: int = 1) -> tuple[Iterable[Task], Callable[[Task], Batch]]:
        """``stretch`` as what is to be made, and the function that makes a batch of it, in any thread."""
        epoch, start = (int(value) for value in self._start)
        self._after_fork()
        plan = self.plan(epoch)
        todo = assigned(
            len(plan),
            start=start,
            rank=self.rank,
            n_ranks=self.n_ranks,
            worker=worker,
            n_workers=n_workers,
            last=self.last,
        )

        def make(task: Task) -> Batch:
            number, padding = task
            batch = self.load(plan[number], plan.passes_of(number), number)
            if padding:
                batch["weight"].zero_()
            return batch | {"repeated": padding}

        return todo, make

    def _after_fork(self) -> None:
        """A forked process must not use its parent's threads and file handles: open the stores anew."""
        if self._pid != os.getpid():
            for reader in self.readers:
                reader.reopen()
            self._pid = os.getpid()

    def load(self, positions: Numbers, passes: Numbers | None = None, number: int = 0) -> Batch:
        """The images at these positions as a batch, with the transforms of these passes (0 for each by default)."""
        passes = np.zeros_like(positions) if passes is None else passes
        sources = np.searchsorted(self.first, positions, side="right") - 1
        bounds = [0, *(np.flatnonzero(np.diff(sources)) + 1).tolist(), len(positions)]
        parts = []
        for a, b in pairwise(bounds):
            part = self._part(int(sources[a]), positions[a:b], passes[a:b])
            for coords in (part.coords, part.truth_coords) if a else ():
                if coords is not None:
                    coords[:, 3] += a
            parts.append(part)
        keys = [(file, event, tpc) for file, event, tpc in self.keys[positions].tolist()]
        return {**as_batch(together(parts), keys), "sources": sources.tolist(), "number": number}

    def _part(self, source: int, positions: Numbers, passes: Numbers) -> Sample:
        """Images of one selection, transformed."""
        sample = self.readers[source](positions - self.first[source], self._empty)
        steps: tuple[Transform, ...] = self.transforms[source]
        if self.planner.over[positions].any():
            assert self.max_voxels is not None
            steps = (BudgetCrop(self.max_voxels), *steps)
        return apply_all(sample, steps, self.keys[positions, 2].tolist(), self._generators(positions, passes))

    def _generators(self, positions: Numbers, passes: Numbers) -> Callable[[], list[np.random.Generator]]:
        """Makes each image's own generator, of (seed, pass, file, event, tpc)."""

        def generators() -> list[np.random.Generator]:
            turns = passes if self.vary else np.zeros_like(passes)
            seeds = np.column_stack([np.full(len(positions), self.seed), turns, self.keys[positions]])
            return [np.random.default_rng(seed) for seed in seeds.tolist()]

        return generators
