"""`ImageStream`: images of one or several stores as batches of sparse voxels, in an order from the index alone."""

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from larstore.errors import ConfigError, LarstoreError
from train.batches import (
    BatchPlan,
    assigned,
    check_budget,
    cut_batches,
    epoch_order,
    fingerprint,
    local_batches,
)
from train.samples import Batch, Key, join, to_sample
from train.transforms import Sample, Transform

log = logging.getLogger("larstore.train")


class ImageStream(IterableDataset[Batch]):
    """Batches of images; every image exactly once an epoch, in the same order for any number of workers and ranks.

    A batch is what `train.samples.join` returns (coords, features, target, weight, offsets, keys), with ``sources``,
    the position of each image's selection, and ``number``, that of the batch in the epoch. A repeated batch, which
    only makes the ranks equal, has weight 0 throughout.

    Args:
        selection: a `larstore` selection, or (selection, transforms) pairs, one a store.
        batch_size: images a batch at most, None = no limit but ``max_voxels``.
        max_voxels: voxels a batch at most (as stored), None = no limit.
        shuffle: a new order each epoch; else the selection's own.
        seed: of the order and of the transforms.
        transforms: for a single selection; without any, features are the planes' charges in electrons.
        over_budget: "fail" (ConfigError here and now) or "skip" (logged) images of more than ``max_voxels``.
        window: runs of consecutive images that are shuffled together.
        rank, n_ranks: this process among those that train together.
        need_truth: refuse images without truth instead of giving them weight 0.
        truth: what the target is made of, "truth" or "collected" (see `to_sample`).
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
        over_budget: str = "fail",
        window: int = 256,
        rank: int = 0,
        n_ranks: int = 1,
        need_truth: bool = False,
        truth: str = "truth",
    ) -> None:
        super().__init__()
        pairs = list(selection) if isinstance(selection, (list, tuple)) else [(selection, transforms)]
        self.selections = [pair[0] for pair in pairs]
        self.transforms = [tuple(pair[1]) for pair in pairs]
        columns = [[part.column(name) for name in ("file", "event", "tpc", "voxel_count")] for part in self.selections]
        table = np.concatenate([np.column_stack(values).astype(np.int64) for values in columns])
        self.keys, self.voxel_count = table[:, :3], table[:, 3].copy()
        self.first = np.cumsum([0, *map(len, self.selections)])  # position of each selection's first image
        self.batch_size, self.max_voxels, self.shuffle, self.seed = batch_size, max_voxels, shuffle, seed
        self.window, self.rank, self.n_ranks, self.need_truth = window, rank, n_ranks, need_truth
        self.truth = truth
        if not len(self.keys):
            raise ConfigError(f"{self._name()}: the selection is empty. Fix: check the file ranges and the TPCs")
        if over_budget == "fail":
            check_budget(self.voxel_count, max_voxels, self._name())
        self.epoch = 0
        self.batches = 0  # global batches of this epoch that were handed out
        # Where the running iteration began. Workers read it when they start it, at any later moment.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._plan: tuple[int, BatchPlan] | None = None
        self._pid = os.getpid()
        skipped = len(self.plan(0).skipped)
        if skipped:
            log.warning("%s: %d images of more than %d voxels are skipped", self._name(), skipped, max_voxels)
        if not len(self.plan(0)):
            raise ConfigError(
                f"{self._name()}: every image exceeds max_voxels = {max_voxels}. Fix: raise data.max_voxels"
            )

    def _name(self) -> str:
        return " + ".join(str(part.store.path) for part in self.selections)

    def plan(self, epoch: int) -> BatchPlan:
        """The batches of one epoch, from the index alone."""
        if self._plan is None or self._plan[0] != epoch:
            order = (
                epoch_order(self.voxel_count, seed=self.seed, epoch=epoch, window=self.window)
                if self.shuffle
                else np.arange(len(self.keys), dtype=np.int64)
            )
            cut = cut_batches(order, self.voxel_count, batch_size=self.batch_size, max_voxels=self.max_voxels)
            self._plan = (epoch, cut)
        return self._plan[1]

    def __len__(self) -> int:
        """Batches of this rank in the current epoch, those already handed out included."""
        return self.batches // self.n_ranks + local_batches(len(self.plan(self.epoch)), self.n_ranks, self.batches)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        if info is None:
            self.begin()
        epoch, start = (int(value) for value in self._start)
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        todo = assigned(
            len(self.plan(epoch)),
            start=start,
            rank=self.rank,
            n_ranks=self.n_ranks,
            worker=worker,
            n_workers=n_workers,
        )
        return self._batches(epoch, todo, count=info is None)

    def begin(self) -> None:
        """Note where an iteration starts; its workers begin there."""
        self._start[0], self._start[1] = self.epoch, self.batches

    def advance(self) -> None:
        """One batch was handed to each rank; behind the last one a new epoch begins."""
        self.batches += self.n_ranks
        if self.batches >= len(self.plan(self.epoch)):
            self.epoch, self.batches = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain numbers, the same on every rank and for any number of workers."""
        return {"seed": self.seed, "epoch": self.epoch, "batches": self.batches, "plan": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a state. Raises ConfigError in the middle of an epoch whose batches would now be others."""
        if state["batches"] and (state["plan"] != self._fingerprint() or state["seed"] != self.seed):
            raise ConfigError(
                f"{self._name()}: images, batch_size, max_voxels or seed changed since the checkpoint in the middle "
                f"of epoch {state['epoch']}. Fix: restore them, or resume from the end of an epoch"
            )
        self.epoch, self.batches = int(state["epoch"]), int(state["batches"])

    def _fingerprint(self) -> str:
        return fingerprint(self.voxel_count, self.batch_size, self.max_voxels, self.shuffle, self.window)

    def _batches(self, epoch: int, todo: list[tuple[int, bool]], count: bool) -> Iterator[Batch]:
        self._after_fork()
        plan = self.plan(epoch)
        for number, padding in todo:
            batch = self.load(plan[number], epoch, number)
            if padding:
                batch["weight"].zero_()
            if count:
                self.advance()
            yield batch

    def _after_fork(self) -> None:
        """A forked process must not use its parent's threads and file handles: open the stores anew."""
        if self._pid != os.getpid():
            self.selections = [type(part)(copy.copy(part.store), part.row_numbers) for part in self.selections]
            self._pid = os.getpid()

    def load(self, positions: npt.NDArray[np.int64], epoch: int = 0, number: int = 0) -> Batch:
        """The images at these positions as a batch, with the transforms of an epoch."""
        images = self._read(positions)
        samples = [self._sample(images[p], p, epoch) for p in positions.tolist()]
        sources = [self._source(p) for p in positions.tolist()]
        batch = join(samples, [self._key(p) for p in positions.tolist()])
        return {**batch, "sources": sources, "number": number}

    def _source(self, position: int) -> int:
        """Which selection an image belongs to."""
        return int(np.searchsorted(self.first, position, side="right")) - 1

    def _key(self, position: int) -> Key:
        file, event, tpc = self.keys[position].tolist()
        return file, event, tpc

    def _read(self, positions: npt.NDArray[np.int64]) -> dict[int, Any]:
        """Images by position; neighbours are read in one go."""
        wanted = np.unique(positions)
        source = np.searchsorted(self.first, wanted, side="right") - 1
        breaks = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(source) != 0)) + 1
        images: dict[int, Any] = {}
        for run in np.split(wanted, breaks):
            s = self._source(int(run[0]))
            lo, hi = int(run[0] - self.first[s]), int(run[-1] - self.first[s]) + 1
            images.update(zip(run.tolist(), self.selections[s].read(lo, hi), strict=True))
        return images

    def _sample(self, image: Any, position: int, epoch: int) -> Sample:
        source, key = self._source(position), self._key(position)
        where = f"{self.selections[source].store.path}: image {key}"
        sample = to_sample(image, where, self.need_truth, self.truth)
        random = np.random.default_rng([self.seed, epoch, *key])
        for transform in self.transforms[source]:
            sample = transform(sample, random)
        return sample


class StreamLoader(DataLoader[Batch]):
    """A DataLoader over an `ImageStream` that knows its length and can stop and continue between any two batches.

    Its state is the stream's, kept in the main process, whatever the number of workers and what they have read ahead.
    """

    def __init__(
        self, stream: ImageStream, num_workers: int = 0, start_method: str = "spawn", pin_memory: bool = False
    ) -> None:
        super().__init__(
            stream,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            multiprocessing_context=start_method if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
        )
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.stream.begin()
        try:
            for batch in super().__iter__():
                if self.num_workers:  # without workers the stream counts for itself
                    self.stream.advance()
                yield batch
        except LarstoreError as error:
            # torch wraps a worker's error into its traceback, whose last line is "type: message".
            message = str(error).strip().splitlines()[-1]
            raise type(error)(message.partition("Error: ")[2] if self.num_workers else message) from error

    def state_dict(self) -> dict[str, Any]:
        """See `ImageStream.state_dict`."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ImageStream.load_state_dict`."""
        self.stream.load_state_dict(state)


def _as_it_is(batch: Any) -> Any:
    return batch
