"""Simulated events: Wire-Cell frame archives and the true electrons, from a seed."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector.model import Detector, Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import box_of, make_deposits, union
from preprocess.simulation.response import Response
from preprocess.simulation.write import Frame, write_arrays, write_frames

__all__ = ["SimulationConfig", "simulate", "simulate_event"]

PARTICLES, NOISE, DEAD = 0, 1, 2  # which stream of random numbers


@dataclass(frozen=True)
class SimulatedEvent:
    """One event of one TPC.

    Attributes:
        waveform: (ticks, columns) float32 electrons.
        truth: (m, 4) float32 tick, y pixel, z pixel (whole numbers at full resolution) and electrons after
            recombination, before attachment.
        bad: (n, 3) int32 rows [channel, first tick, end tick) of dead channels.
    """

    waveform: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]
    bad: npt.NDArray[np.int32]


def simulate(
    out_dir: str | Path,
    detector: Detector,
    tpcs: Sequence[int] = (1,),
    n_files: int = 1,
    events_per_file: int = 1,
    seed: int = 0,
    config: SimulationConfig | None = None,
    first_file: int = 1,
    sample: str = "Sim",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write ``sim_<sample>_<file>_wire-TPC<n>.tar.gz`` and ``sim_<sample>_<file>_depoElectron-TPC<n>.npz``.

    An event depends on (seed, file, event), the detector, the settings and the set of TPCs (their common
    box decides where particles start); not on how many events or files are made. All TPCs of an
    event see the same particles.

    Args:
        out_dir: folder, made if missing. Files of these names are replaced.
        detector, tpcs: where; each TPC needs a drift volume.
        n_files, events_per_file: how many; idents are 0 … events_per_file − 1.
        seed: any whole number from 0.
        config: the numbers, default ``SimulationConfig()``.
        first_file: number of the first file.
        sample: letters and digits, part of the names.
        progress: called with (events done, events in all).

    Returns:
        The frame archives, by file, then TPC.

    Raises:
        ConfigError: an argument out of range, a TPC that cannot be simulated.
    """
    for name, value, least in (
        ("n_files", n_files, 1), ("events_per_file", events_per_file, 1),
        ("seed", seed, 0), ("first_file", first_file, 0),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name} = {value}. Fix: give a whole number from {least}.")
    if not re.fullmatch(r"[A-Za-z0-9]+", sample):
        raise ConfigError(f"sample = {sample!r}. Fix: use letters and digits only.")
    if not tpcs or len(set(tpcs)) != len(tpcs):
        raise ConfigError(f"tpcs = {tuple(tpcs)}. Fix: name each TPC once, as in (1, 5, 9).")
    settings = config or SimulationConfig()
    responses = [Response(detector.tpc(number), settings) for number in tpcs]
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    written, done = [], 0
    for file in range(first_file, first_file + n_files):
        for response in responses:
            truths: list[npt.NDArray[np.float32]] = []

            def frames(response: Response = response, file: int = file, truths: list[npt.NDArray[np.float32]] = truths
                       ) -> Iterator[Frame]:  # fmt: skip
                nonlocal done
                for event in range(events_per_file):
                    made = simulate_event(responses, response, seed, file, event)
                    truths.append(made.truth)
                    yield _frame(response.tpc, event, made)
                    done += 1
                    if progress is not None:
                        progress(done, n_files * events_per_file * len(responses))

            number = response.tpc.number
            path = folder / f"sim_{sample}_{file}_wire-TPC{number}.tar.gz"
            write_frames(path, frames())
            write_arrays(folder / f"sim_{sample}_{file}_depoElectron-TPC{number}.npz", truths)
            written.append(path)
    return written


def simulate_event(
    responses: Sequence[Response], response: Response, seed: int, file: int, event: int
) -> SimulatedEvent:
    """One event as one TPC sees it.

    Args:
        responses: of all TPCs that the event's particles may cross.
        response: of the TPC to read out.
        seed, file, event: whole numbers from 0 that choose the random numbers.
    """
    tpc, config = response.tpc, response.config
    boxes = [box_of(r.tpc) for r in responses]
    deposits = make_deposits(_rng(seed, file, event, PARTICLES), union(boxes), boxes[0], config)
    deposits = deposits[box_of(tpc).contains(deposits[:, :3])]
    dead = np.flatnonzero(_rng(seed, tpc.number, 0, DEAD).random(len(tpc.channels)) < config.dead_channels)
    waveform = response.read_out(response.charge(deposits), _rng(seed, file, event, NOISE, tpc.number), dead)
    bad = np.zeros((len(dead), 3), np.int32)
    bad[:, 0], bad[:, 2] = tpc.channels[dead], response.n_ticks
    return SimulatedEvent(waveform, truth_of(tpc, deposits), bad)


def truth_of(tpc: Tpc, deposits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(m, 4) tick, y pixel, z pixel, electrons of (n, 5) deposits; those outside the read-out window are left out.

    Deposits in one full-resolution voxel are not summed.
    """
    ticks = tpc.to_ticks(deposits[:, 0], deposits[:, 3])
    y, z = tpc.to_pixels(deposits[:, 1], deposits[:, 2])
    places = np.floor(np.column_stack([ticks, y, z]))
    inside = ((places >= 0) & (places < [tpc.frame.n_ticks, tpc.frame.n_y, tpc.frame.n_z])).all(axis=1)
    return np.column_stack([places, deposits[:, 4]])[inside].astype(np.float32)


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


def _frame(tpc: Tpc, event: int, made: SimulatedEvent) -> Frame:
    frame = tpc.frame
    assert frame.tick_us is not None
    assert frame.tick_zero_drift is not None
    start_ns = -frame.tick_zero_drift * frame.tick_us * 1000.0  # time of tick 0
    masks = {"bad": made.bad} if len(made.bad) else {}
    return Frame(event, made.waveform, tpc.channels, start_ns, frame.tick_us * 1000.0, 0, masks)
