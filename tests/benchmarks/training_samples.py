"""Simulated samples of the training benchmark: an event a file, chosen by its number of muons."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from larstore.cores import cores
from preprocess.detector import load_detector
from preprocess.simulation import Deposits, Response, SimulationConfig, responses_of, simulate, truth_of
from preprocess.simulation.event import event_deposits
from tests.benchmarks.training_settings import DETECTOR, DOWNSAMPLE, MUON_VOXELS, TPC, Sample

MUON = 13  # PDG


def make_sample(folder: Path, sample: Sample, response: dict[str, Any]) -> dict[str, Any]:
    """Write a frame archive and its truth for each event; returns what `files_of` needs, and the muons of each.

    Files are counted from 1; one whose event has too few or too many muons is passed over, so that numbers are missing.
    The choice depends on the deposits alone, not on the response.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**sample.particles, **response}
    found: dict[int, int] = {}
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for first in count(1, 32):
            tasks = [pool.submit(_one_event, folder, sample, config, file) for file in range(first, first + 32)]
            for file, task in enumerate(tasks, first):
                muons = task.result()
                if muons is not None:
                    found[file] = muons
            if len(found) >= sample.events:
                break
    files = sorted(found)
    for file in files[sample.events :]:
        for path in _paths(folder, sample, file):
            path.unlink()
    files = files[: sample.events]
    return {"files": files, "muons": [found[file] for file in files]}


def make_again(folder: Path, sample: Sample, response: dict[str, Any], files: list[int]) -> None:
    """The same events as ``files`` of a sample with another response."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**sample.particles, **response}
    anyhow = Sample(sample.name, sample.title, sample.particles, None, sample.train, sample.held_out, sample.seed)
    with ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for task in [pool.submit(_one_event, folder, anyhow, config, file) for file in files]:
            task.result()


def _one_event(folder: Path, sample: Sample, config: dict[str, Any], file: int) -> int | None:
    """Simulate one file of one event; its number of muons, or None where the sample does not want it."""
    settings = SimulationConfig(**config)
    responses = _responses(settings)
    muons = sum(1 for _ in muons_of(responses[0], event_deposits(responses, sample.seed, file, 0)))
    if sample.muons is not None and not sample.muons[0] <= muons <= sample.muons[1]:
        return None
    simulate(folder, load_detector(DETECTOR), [TPC], 1, 1, sample.seed, settings, file, sample.name)
    return muons


@cache
def _responses(settings: SimulationConfig) -> list[Response]:
    return responses_of(load_detector(DETECTOR), [TPC], settings)


def muons_of(response: Response, deposits: Deposits) -> Iterator[int]:
    """Tracks of muons whose truth in the TPC and its read-out fills at least `MUON_VOXELS` voxels."""
    inside = deposits.only(np.abs(deposits.pdg) == MUON)
    for track in np.unique(inside.track):
        own = inside.only(inside.track == track)
        points = own.points[_in_box(response, own.points)]
        voxels = truth_of(response.tpc, points)[:, :3] // np.array(DOWNSAMPLE)
        if len(np.unique(voxels, axis=0)) >= MUON_VOXELS:
            yield int(track)


def _in_box(response: Response, points: Any) -> Any:
    from preprocess.simulation.particles import box_of

    return box_of(response.tpc).contains(points[:, :3])


def _paths(folder: Path, sample: Sample, file: int) -> list[Path]:
    return [
        folder / f"sim_{sample.name}_{file}_wire-TPC{TPC}.tar.gz",
        folder / f"sim_{sample.name}_{file}_depoElectron-TPC{TPC}.npz",
    ]
