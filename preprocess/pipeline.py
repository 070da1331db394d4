"""One work unit from its file to images: a pure function, without Dask and without the store."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from larstore.errors import ConfigError, InputError
from larstore.records import ImageRecord, InputFile
from preprocess.config import RunConfig
from preprocess.detector import Detector, load_detector
from preprocess.plan import Unit
from preprocess.sources import Event, open_source
from preprocess.truth import truth_at, voxelise_columns, voxelise_truth
from preprocess.voxels import Tiler

HASH_CHUNK = 1 << 20


@dataclass
class UnitResult:
    """What a unit yields: its images, and what the summary tells about them.

    ``notes`` counts what readers left out; ``seconds`` are per stage (read, tile, truth).
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
    """Size and sha256 of an input, for the store's provenance."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(HASH_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return InputFile(str(path), file, size, digest.hexdigest(), sample)


def process_unit(unit: Unit, config: RunConfig, geometry_hash: str) -> UnitResult:
    """Tile all events of a unit with the geometry of that hash. Raises LarstoreError for what cannot be used."""
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
        result.images.append(_image(unit, event, tiler, config, result))
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


def _image(unit: Unit, event: Event, tiler: Tiler, config: RunConfig, result: UnitResult) -> ImageRecord:
    start = time.perf_counter()
    try:
        voxels = tiler(
            event.waveform, config.threshold, config.downsample, event.bad, config.min_live_planes, event.first_tick
        )
    except InputError as error:
        raise InputError(f"{unit.path}: event {event.event}: {error}") from error
    middle = time.perf_counter()
    truth = truth_coords = truth_value = None
    truth_columns = {}
    if event.truth is not None:
        frame = tiler.tpc.frame
        ticks = max(frame.n_ticks, event.first_tick + len(event.waveform))
        shape = (ticks, frame.n_y, frame.n_z)
        truth_coords, truth_value = voxelise_truth(event.truth, config.downsample, shape)
        truth_columns = voxelise_columns(event.truth, event.truth_columns, config.downsample, shape)
        truth = truth_at(voxels.coords, truth_coords, truth_value)
    result.lit_samples += voxels.lit_samples
    result.seconds["tile"] += middle - start  # type: ignore[assignment]
    result.seconds["truth"] += time.perf_counter() - middle  # type: ignore[assignment]
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
    )
