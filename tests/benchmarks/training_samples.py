"""Simulated samples of the training benchmark: an event a file, chosen by what is in the TPC."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.cores import cores
from preprocess.detector import load_detector
from preprocess.detector.model import Tpc
from preprocess.simulation import Deposits, Response, SimulationConfig, responses_of, simulate, truth_of
from preprocess.simulation.event import event_deposits
from preprocess.simulation.particles import box_of
from preprocess.simulation.write import Frame, write_frames
from preprocess.sources import open_source
from tests.benchmarks.training_settings import COUNTED_VOXELS, DETECTOR, DOWNSAMPLE, TPC, Sample

MOST = 32  # files tried at a time
LOST = 3  # a stream of random numbers of its own


def make_sample(folder: Path, sample: Sample, response: dict[str, Any]) -> dict[str, list[int]]:
    """Write a frame archive and its truth for each event; returns the ``files`` and how many particles ``counted``.

    Files are counted from 1; one whose event has too few or too many is passed over, so that numbers are missing.
    The choice depends on the deposits alone, not on the response. Files that are there are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**sample.particles, **response}
    found: dict[int, int] = {}
    with _pool() as pool:
        portion = min(MOST, 2 * sample.events)
        for first in count(1, portion):
            files = range(first, first + portion)
            tasks = [pool.submit(_one_event, folder, sample, config, file) for file in files]
            found |= {file: n for file, task in zip(files, tasks, strict=True) if (n := task.result()) is not None}
            if len(found) >= sample.events:
                break
    for file in sorted(found)[sample.events :]:
        del found[file]
        for path in folder.glob(f"sim_{sample.name}_{file}_*"):
            path.unlink()
    return {"files": sorted(found), "counted": [found[file] for file in sorted(found)]}


def make_again(folder: Path, sample: Sample, response: dict[str, Any], files: list[int], lost: float = 0.0) -> None:
    """The events of ``files`` of a sample once more, with another response, or with induction regions ``lost``."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**sample.particles, **response}
    with _pool() as pool:
        for task in [pool.submit(_again, folder, sample, config, file, lost) for file in files]:
            task.result()


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))


def _one_event(folder: Path, sample: Sample, config: dict[str, Any], file: int) -> int | None:
    """Simulate one file of one event; how many particles it has, or None where the sample does not want it."""
    settings = SimulationConfig(**config)
    responses = _responses(settings)
    deposits = event_deposits(responses, sample.seed, file, 0)
    found = count_particles(responses[0].tpc, deposits, sample.pdg)
    if not sample.wanted[0] <= found <= sample.wanted[1]:
        return None
    if not (folder / f"sim_{sample.name}_{file}_depoElectron-TPC{TPC}.npz").exists():  # it is written last, at once
        simulate(folder, load_detector(DETECTOR), [TPC], 1, 1, sample.seed, settings, file, sample.name)
    return found


def _again(folder: Path, sample: Sample, config: dict[str, Any], file: int, lost: float) -> None:
    settings = SimulationConfig(**config)
    (path,) = simulate(folder, load_detector(DETECTOR), [TPC], 1, 1, sample.seed, settings, file, sample.name)
    if lost:
        tpc = _responses(settings)[0].tpc
        (event,) = open_source(path).events(tpc)
        random = np.random.default_rng([sample.seed, file, LOST])
        frame = tpc.frame
        assert frame.tick_us is not None
        assert frame.tick_zero_drift is not None
        waveform = lose_regions(event.waveform, tpc, lost, random)
        tick_ns = 1000.0 * frame.tick_us
        write_frames(path, [Frame(0, waveform, tpc.channels, -frame.tick_zero_drift * tick_ns, tick_ns)])


@cache
def _responses(settings: SimulationConfig) -> list[Response]:
    return responses_of(load_detector(DETECTOR), [TPC], settings)


def count_particles(tpc: Tpc, deposits: Deposits, pdg: int) -> int:
    """Particles ±``pdg`` whose truth in the TPC and its read-out fills at least `COUNTED_VOXELS` voxels."""
    chosen = deposits.only((np.abs(deposits.pdg) == pdg) & box_of(tpc).contains(deposits.points[:, :3]))
    n = 0
    for track in np.unique(chosen.track):
        voxels = truth_of(tpc, chosen.only(chosen.track == track).points)[:, :3] // np.array(DOWNSAMPLE)
        n += len(np.unique(voxels, axis=0)) >= COUNTED_VOXELS
    return n


def lose_regions(
    waveform: npt.NDArray[np.float32], tpc: Tpc, share: float, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A (tick, column) waveform in which each region of all but the last plane is set to 0 with probability ``share``.

    A region is a run of samples that are not 0 on one column.
    """
    out = np.array(waveform)
    for column in np.unique(np.concatenate([plane.column for plane in tpc.planes[:-1]])):
        ends = np.flatnonzero(np.diff(out[:, column] != 0, prepend=False, append=False)).reshape(-1, 2)
        for begin, end in ends[random.random(len(ends)) < share]:
            out[begin:end, column] = 0.0
    return out
