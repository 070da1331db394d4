"""One work unit from its file to images: a pure function, without Dask and without the store."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from larstore.errors import ConfigError, InputError
from larstore.records import ImageRecord, InputFile
from preprocess.bad_channels import rows_of, zero_rows
from preprocess.config import RunConfig
from preprocess.detector import Detector, Tpc, load_detector
from preprocess.pixels import full_resolution
from preprocess.plan import Unit
from preprocess.sources import Event, open_source
from preprocess.truth import truth_at, voxelise_columns, voxelise_truth
from preprocess.voxels import Tiler, TooManyVoxelsError, Voxels

HASH_CHUNK = 1 << 20


@dataclass
class UnitResult:
    """What a unit yields: its images, and what the summary tells about them.

    ``notes`` counts what readers left out; ``seconds`` are per stage (read, tile, truth, pixels).
    """

    images: list[ImageRecord] = field(default_factory=list)
    inputs: list[InputFile] = field(default_factory=list)
    lit_samples: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=4)
def cached_detector(name_or_path: str, geometry_hash: str) -> Detector:
    """A detector, loaded once a process and geometry: a file that was edited since is read again.

    Raises ConfigError if it is not of that geometry, as where a worker sees another file than the coordinator.
    """
    detector = load_detector(name_or_path)
    found = detector.geometry().hash
    if found != geometry_hash:
        raise ConfigError(
            f"{name_or_path}: has geometry {found[:12]} on this worker, the run has {geometry_hash[:12]}. Fix: give "
            "all workers the same detector file, and don't edit it during a run"
        )
    return detector


@lru_cache(maxsize=16)
def cached_tiler(detector: str, geometry_hash: str, tpc: int) -> Tiler:
    """A tiler, with its pixel areas, made once a process and geometry."""
    return Tiler(cached_detector(detector, geometry_hash).tpc(tpc))


def input_file(path: str | Path, file: int, sample: str) -> InputFile:
    """Size and sha256 of an input, for the store's provenance; a file of several TPCs is read for it once a process."""
    status = os.stat(path)
    size, digest = _digest(os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns)
    return InputFile(str(path), file, size, digest, sample)


@lru_cache(maxsize=4096)
def _digest(path: str, inode: int, size: int, mtime_ns: int) -> tuple[int, str]:
    """Bytes read and their sha256; what else is given tells a file that changed from the one that was read."""
    del inode, size, mtime_ns
    digest, n_bytes = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        while chunk := stream.read(HASH_CHUNK):
            digest.update(chunk)
            n_bytes += len(chunk)
    return n_bytes, digest.hexdigest()


def process_unit(
    unit: Unit, config: RunConfig, geometry_hash: str, take: Callable[[ImageRecord], None] | None = None
) -> UnitResult:
    """Tile all events of a unit with the geometry of that hash. Raises LarstoreError for what cannot be used.

    ``take`` is handed each image as soon as it is there; without it, the result holds them all.
    """
    tiler = cached_tiler(config.detector, geometry_hash, unit.tpc)
    source = open_source(unit.path)
    result = UnitResult()
    events = source.read(tiler.tpc, config.reading)
    for event in _timed(events, result.seconds):
        if event.truth is None and config.truth and "no truth file" in event.notes and _truth_is_asked_for(config):
            raise InputError(
                f"{unit.path}: no truth file ({', '.join(config.truth)}) lies beside it. Fix: --truth none, or name "
                "the product"
            )
        _add_bad_channels(unit, event, tiler.tpc, config)
        (take or result.images.append)(_image(unit, event, tiler, config, result))
        result.notes.update(event.notes)
    result.inputs = [input_file(path, unit.file, config.sample) for path in source.inputs(unit.tpc, config.truth)]
    return result


def _truth_is_asked_for(config: RunConfig) -> bool:
    """The default list means "truth if there is any"; a list of the user's means that it must be there."""
    return "truth" in config.model_fields_set


def _timed(events: Iterator[Event], seconds: Counter[str]) -> Iterator[Event]:
    while True:
        start = time.perf_counter()
        event = next(events, None)
        seconds["read"] += time.perf_counter() - start  # type: ignore[assignment]
        if event is None:
            return
        yield event


def _add_bad_channels(unit: Unit, event: Event, tpc: Tpc, config: RunConfig) -> None:
    """Add the configuration's bad channels to those that the input marks, and those without signal if asked for."""
    listed = rows_of(config.bad_channels, tpc, event.first_tick, len(event.waveform))
    event.bad = np.concatenate([event.bad, listed])
    if config.zero_channels == "bad":
        try:
            silent = zero_rows(event.waveform, event.first_tick, tpc, event.bad)
        except InputError as error:
            raise InputError(f"{unit.path}: event {event.event}: {error}") from error
        event.bad = np.concatenate([event.bad, silent])
        if len(silent):
            event.notes["channels without signal, taken as bad"] = len(silent)


def _image(unit: Unit, event: Event, tiler: Tiler, config: RunConfig, result: UnitResult) -> ImageRecord:
    start = time.perf_counter()
    voxels = _tile(unit, event, tiler, config)
    middle = time.perf_counter()
    truth = truth_coords = truth_value = None
    truth_columns = {}
    frame = tiler.tpc.frame
    shape = (max(frame.n_ticks, event.first_tick + len(event.waveform)), frame.n_y, frame.n_z)
    if event.truth is not None:
        truth_coords, truth_value = voxelise_truth(event.truth, config.downsample, shape)
        truth_columns = voxelise_columns(event.truth, event.truth_columns, config.downsample, shape)
        truth = truth_at(voxels.coords, truth_coords, truth_value)
    result.lit_samples += voxels.lit_samples
    result.seconds["tile"] += middle - start  # type: ignore[assignment]
    end = time.perf_counter()
    result.seconds["truth"] += end - middle  # type: ignore[assignment]
    pixels = None
    if config.save_pix:
        full = voxels if config.downsample == (1, 1, 1) else _tile(unit, event, tiler, config, full=True)
        pixels = full_resolution(full, event.truth, event.truth_columns, shape)
        result.seconds["pixels"] += time.perf_counter() - end  # type: ignore[assignment]
    return ImageRecord(
        file=unit.file,
        event=event.event,
        tpc=unit.tpc,
        coords=voxels.coords,
        charge=voxels.charge,
        live=voxels.live,
        truth=truth,
        truth_coords=truth_coords,
        truth_value=truth_value,
        truth_columns=truth_columns,
        input=unit.path,
        run=event.run,
        subrun=event.subrun,
        event_id=event.event_id,
        n_bad_channels=len(np.unique(event.bad[:, 0])),
        pixels=pixels,
    )


def _tile(unit: Unit, event: Event, tiler: Tiler, config: RunConfig, full: bool = False) -> Voxels:
    """The event's voxels, or, with ``full``, its pixels."""
    downsample, most = ((1, 1, 1), config.max_pixels) if full else (config.downsample, config.max_voxels)
    try:
        return tiler(
            event.waveform, config.threshold, downsample, event.bad, config.min_live_planes, event.first_tick,
            max_voxels=most, threads=config.threads,
        )  # fmt: skip
    except InputError as error:
        where = f"{unit.path}: event {event.event}" + (" at full resolution (save_pix)" if full else "")
        if full and isinstance(error, TooManyVoxelsError):
            raise InputError(
                f"{where}: {error.total:,} pixels, more than max_pixels = {most:,}. Fix: raise max_pixels or the "
                "threshold, or leave save_pix out"
            ) from error
        raise InputError(f"{where}: {error}") from error
