"""Another downsampling of a store that keeps pixels: a new store, made from these alone, without tiling again."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import larstore
from larstore.block import shards_needed
from larstore.coordinates import check_downsample
from larstore.cores import cores
from larstore.errors import StoreError
from larstore.locations import local_path
from larstore.records import Failure, ImageRecord
from preprocess.derived import (
    create_derived,
    failures_of,
    inputs_by_file,
    refuse_difference,
    refuse_itself,
    settings_of,
)
from preprocess.pixels import downsample_pixels, voxelise_points
from preprocess.truth import truth_at

BLOCK_SECONDS = 5.0  # of work that are written and committed at the latest
NUMBERS = ("run", "subrun", "event_id", "n_bad_channels")


@dataclass
class Redownsampled:
    """What was done; ``images_before`` were in the output already. ``pixels``: those that were read."""

    images: int = 0
    images_before: int = 0
    pixels: int = 0
    voxels: int = 0
    seconds: float = 0.0


@dataclass
class _Block:
    """Images that are written and committed together."""

    images: list[ImageRecord] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def full(self, shard_rows: int) -> bool:
        rows = sum(max(len(i.coords), 0 if i.truth_coords is None else len(i.truth_coords)) for i in self.images)
        return rows >= shard_rows or time.monotonic() - self.began >= BLOCK_SECONDS


def redownsample(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    downsample: Sequence[int],
    *,
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
    threads: int | None = None,
    break_lock: bool = False,
    progress: Callable[[Redownsampled, int], None] | None = None,
) -> Redownsampled:
    """Make the images of ``source`` with another downsampling, as tiling their inputs with it would.

    Coordinates, ``live`` and truth are equal to those of tiling, charges within rounding (1e-6). Inputs, failures and
    the settings of tiling are copied, so that ``larstore preprocess`` can continue the new store. Stopped at any
    moment, it keeps what is committed; called again, it does the rest.

    Args:
        source: a store that keeps pixels.
        output: the new store, created or continued; it keeps no pixels.
        downsample: ticks, y and z pixels of a voxel.
        files: only these file numbers, first and last.
        tpcs: only these TPCs.
        threads: threads that read and sum; None = one for each core.
        break_lock: take over a lock of another host whose heartbeat stands still.
        progress: called with the result so far and the number of images, whenever something has been committed.

    Raises:
        ConfigError: no downsampling.
        StoreError: a source without pixels; an output of other settings or other inputs.
    """
    started = time.monotonic()
    chosen, steps = check(source, output, downsample, files, tpcs)
    store, target = chosen.store, local_path(output)
    if not target.exists():
        origin = {"downsample": store.attributes["downsample"]}
        create_derived(store, target, "redownsampled", origin, store.geometry, steps)
    done = Redownsampled()
    with larstore.StoreWriter(target, break_lock=break_lock) as writer:
        _refuse_other_inputs(chosen, larstore.open(target))
        todo = [i for i in range(len(chosen)) if chosen[i].key not in writer.keys]
        done.images_before = len(chosen) - len(todo)
        inputs = inputs_by_file(store)
        block = _Block()

        def commit() -> None:
            if block.images:
                spec = writer.reserve(shards_needed(writer.attributes["shard_rows"], block.images))
                numbers = sorted({image.file for image in block.images})
                used = [item for number in numbers for item in inputs.get(number, ())]
                writer.commit([larstore.write_block(target, spec, block.images, used)])
                done.images += len(block.images)
                done.voxels += sum(len(image.coords) for image in block.images)
            done.seconds = time.monotonic() - started
            if progress is not None:
                progress(done, len(chosen))

        for image, n_pixels in _in_threads(chosen, todo, steps, threads or cores()):
            block.images.append(image)
            done.pixels += n_pixels
            if block.full(writer.attributes["shard_rows"]):
                commit()
                block = _Block()
        commit()
        writer.commit([], _new_failures(store, larstore.open(target), files, tpcs))
    done.seconds = time.monotonic() - started
    return done


def check(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    downsample: Sequence[int],
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
) -> tuple[larstore.Selection, tuple[int, int, int]]:
    """The images that ``redownsample`` would make, and their steps; refuses what it would refuse, changes nothing."""
    steps = check_downsample(downsample)
    store = larstore.open(source)
    chosen = store.select(files=files, tpcs=tpcs)
    _refuse_without_pixels(chosen)
    target = Path(output)
    if target.exists():
        _refuse_other_settings(store, target, steps)
        _refuse_other_inputs(chosen, larstore.open(target))
    return chosen, steps


def downsampled(image: larstore.Image, downsample: Sequence[int]) -> tuple[ImageRecord, int]:
    """An image with another downsampling, and how many pixels it was made from. StoreError if it keeps none."""
    pieces = [downsample_pixels(*piece, downsample) for piece in image.pixel_pieces(downsample[0])]
    points = image.truth_points
    empty = (points.coords, points.charge, points.live)
    coords, charge, live = (np.concatenate(parts) for parts in zip(empty, *pieces, strict=True))
    truth_coords, truth_value, columns = voxelise_points(points, downsample)
    truth = None
    if truth_coords is not None and truth_value is not None:
        truth = truth_at(coords, truth_coords, truth_value)
    file, event, tpc = image.key
    record = ImageRecord(
        file=file,
        event=event,
        tpc=tpc,
        coords=coords,
        charge=charge,
        live=live,
        truth=truth,
        truth_coords=truth_coords,
        truth_value=truth_value,
        truth_columns=columns,
        input=image.input_path,
        **{name: image.summary(name) for name in NUMBERS},
    )
    return record, image.summary("pixel_count")


def _in_threads(
    chosen: larstore.Selection, todo: list[int], steps: Sequence[int], threads: int
) -> Iterator[tuple[ImageRecord, int]]:
    """``downsampled`` of images ``todo`` in their order; ``threads`` of them are made at a time."""
    waiting: deque[Future[tuple[ImageRecord, int]]] = deque()
    pool = ThreadPoolExecutor(threads, "redownsample")
    try:
        for i in todo:
            waiting.append(pool.submit(downsampled, chosen[i], steps))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_without_pixels(chosen: larstore.Selection) -> None:
    store = chosen.store
    without = len(chosen) if not store.root.pixels else int((chosen.column("pixel_start") < 0).sum())
    if without or not store.root.pixels:
        raise StoreError(
            f"{store.path}: keeps no pixels of {without} of {len(chosen)} images. "
            "Fix: run 'larstore preprocess --save-pix' into a new store"
        )


def _refuse_other_settings(source: larstore.Store, target: Path, steps: tuple[int, int, int]) -> None:
    refuse_itself(source, target)
    output = larstore.open(target)
    wanted, found = (settings_of(each) | {"geometry_hash": each.geometry.hash} for each in (source, output))
    wanted |= {"downsample": list(steps), "save_pix": False}
    found |= {"downsample": output.attributes["downsample"], "save_pix": output.root.pixels}
    refuse_difference(target, found, wanted)


def _refuse_other_inputs(chosen: larstore.Selection, output: larstore.Store) -> None:
    """StoreError where the output has an image of the same key from another file."""
    ours, theirs = _input_names(chosen.store), _input_names(output)
    if not len(output):
        return
    for image in chosen:
        row = output.index_columns.find(*image.key)
        if row is None:
            continue
        here = ours[image.summary("input")]
        there = theirs[int(output.index_columns.column("input")[row])]
        if here != there:
            raise StoreError(
                f"{output.path}: image {image.key} was made from {there[0] or 'no input'}, the source's from "
                f"{here[0] or 'no input'}{' of another content' if here[0] == there[0] else ''}. "
                "Fix: write to another store"
            )


def _input_names(store: larstore.Store) -> list[tuple[str, str]]:
    """Path and sha256 of each input, and behind them, for row -1, those of an unknown one."""
    return [*zip(store.inputs["path"], store.inputs["sha256"], strict=True), ("", "")]


def _new_failures(
    source: larstore.Store, output: larstore.Store, files: tuple[int, int] | None, tpcs: Sequence[int] | None
) -> list[Failure]:
    """The source's failures of these files and TPCs that the output does not know yet."""
    known = set(failures_of(output))
    return [each for each in failures_of(source, files, tpcs) if each not in known]
