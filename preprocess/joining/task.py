"""The worker's side of a join: the images of a task's events are joined and written into one block."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import LarstoreError, StoreError
from larstore.image import Image
from larstore.locations import Place
from larstore.records import BlockSpec, Failure, ImageRecord, InputFile, Receipt
from preprocess.joining.bridge import Bridge
from preprocess.joining.frame import JoinedFrame
from preprocess.joining.images import joined_image


@dataclass(frozen=True)
class JoinTask:
    """Events to join: ``rows`` (events, tpcs) of the index of ``source`` as of a commit, -1 where one is missing."""

    source: Place
    commit: int
    output: Path
    spec: BlockSpec
    frame: JoinedFrame
    rows: npt.NDArray[np.int64]
    inputs: tuple[InputFile, ...]
    bridge: Bridge | None = None


@dataclass(frozen=True)
class JoinedBlock:
    """What a worker returns: only this travels, never arrays.

    ``shared``: voxels that lay on another TPC's; ``bridged``: those that bridge gaps. ``needed``: shards that the block
    must have, where bridges have made the images too large for it; nothing was written then.
    """

    receipt: Receipt | None
    failures: tuple[Failure, ...]
    voxels: int
    shared: int
    bridged: int
    needed: int = 0


def work(task: JoinTask) -> JoinedBlock:
    """Join the events of a task, from any thread or process; one that cannot be read does not stop the others."""
    store = _opened(task.source, task.commit)
    records: list[ImageRecord] = []
    failures: list[Failure] = []
    shared = between = 0
    prediction = None if task.bridge is None else task.bridge.prediction
    try:
        groups = loaded(store, task.rows, prediction)
    except LarstoreError:  # of one of them: the others are read alone
        groups = None
    for i, rows in enumerate(task.rows):
        try:
            images = loaded(store, rows[None], prediction)[0] if groups is None else groups[i]
            record, merged, added = joined_image(images, task.frame, task.bridge)
        except LarstoreError as error:
            failures.append(failure_of(store, rows, task.frame, str(error)))
            continue
        records.append(record)
        shared, between = shared + merged, between + added
    groups = None  # the joined images are copies
    try:
        receipt = larstore.write_block(task.output, task.spec, records, task.inputs) if records else None
    except larstore.BlockFull as full:
        return JoinedBlock(None, (), 0, 0, 0, full.needed)
    return JoinedBlock(receipt, tuple(failures), sum(len(record.coords) for record in records), shared, between)


@lru_cache(maxsize=1)
def _opened(path: Place, commit: int) -> larstore.Store:
    """The source, once for a process: its rows are the same in all later commits."""
    store = larstore.open(path)
    if store.attributes["commit"] < commit:
        raise StoreError(f"{path}: this host sees commit {store.attributes['commit']}, not {commit}. Fix: run again")
    return store


def loaded(store: larstore.Store, rows: npt.NDArray[np.int64], prediction: str | None = None) -> list[list[Image]]:
    """The images of some events (events, tpcs), in the order of their TPCs, read together, with a prediction's scores.

    -1 in ``rows`` stands for an image that is missing.
    """
    there = rows >= 0
    images = iter(larstore.Selection(store, rows[there]).read(0, int(there.sum()), prediction))
    return [[next(images) for _ in range(n)] for n in there.sum(axis=1).tolist()]


def failure_of(store: larstore.Store, rows: npt.NDArray[np.int64], frame: JoinedFrame, error: str) -> Failure:
    """An event that could not be joined; ``rows`` (tpcs,) are its images in the source's index."""
    row = int(rows[rows >= 0][0])
    file, event, _ = store.index_columns.keys(row)
    number = int(store.index_columns.column("input")[row])
    path = str(store.inputs["path"].iloc[number]) if number >= 0 else ""
    return Failure(file, frame.tpcs[0], path, f"event {event}: {error}")
