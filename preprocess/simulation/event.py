"""One event as one TPC sees it: what is read out, and the truth. It depends on its numbers and settings alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import Deposits, box_of, make_deposits, union
from preprocess.simulation.response import Response, drift_time, surviving

PARTICLES, NOISE, DEAD = 0, 1, 2  # which stream of random numbers


@dataclass(frozen=True)
class SimulatedEvent:
    """One event of one TPC.

    Attributes:
        waveform: (ticks, columns) float32 electrons.
        truth: (m, 4) float32 tick, y pixel, z pixel (whole numbers at full resolution) and electrons after
            recombination, before attachment.
        collected: (m,) float32 the electrons that attachment leaves: × exp(−drift time / lifetime).
        pdg: (m,) int32 particle, 0 where unknown.
        track: (m,) int32 number of the track in the event, −1 where unknown.
        bad: (n, 3) int32 rows [channel, first tick, end tick) of dead channels.
        outside: number of deposits that are not in the truth: outside the drift volume or the read-out window.
    """

    waveform: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32]
    collected: npt.NDArray[np.float32]
    pdg: npt.NDArray[np.int32]
    track: npt.NDArray[np.int32]
    bad: npt.NDArray[np.int32]
    outside: int


def event_deposits(responses: Sequence[Response], seed: int, file: int, event: int) -> Deposits:
    """The deposits of one event in all volumes around some TPCs and their partners.

    Args:
        responses: of all TPCs that are read out; the first one decides how many muons there are.
        seed, file, event: whole numbers from 0 that choose the random numbers.
    """
    boxes = [box_of(response.tpc) for response in responses]
    world = union([*boxes, *(box for response in responses for box in response.boxes)])
    first = responses[0]
    return make_deposits(_rng(seed, file, event, PARTICLES), world, boxes[0], first.config, first.tpc.up)


def read_out_event(response: Response, deposits: Deposits, seed: int, file: int, event: int) -> SimulatedEvent:
    """What a TPC reads out of given deposits.

    Args:
        response: of the TPC; its partners' volumes count too.
        deposits: in the detector's frame, wherever they are.
        seed, file, event: choose the noise; the seed also chooses dead channels.
    """
    tpc, config = response.tpc, response.config
    inside = box_of(tpc).contains(deposits.points[:, :3])
    visible = inside.copy()
    for box in response.boxes:
        visible |= box.contains(deposits.points[:, :3])
    own = deposits.only(inside)
    dead = dead_columns(tpc, config, seed)
    charge = response.charge(deposits.points[visible])
    waveform = response.read_out(charge, _rng(seed, file, event, NOISE, tpc.number), dead)
    bad = np.zeros((len(dead), 3), np.int32)
    bad[:, 0], bad[:, 2] = tpc.channels[dead], response.n_ticks
    places, in_window = _places(tpc, own.points)
    own = own.only(in_window)
    truth = np.column_stack([places[in_window], own.points[:, 4]]).astype(np.float32)
    collected = own.points[:, 4] * surviving(drift_time(tpc, own.points[:, 0]), config)
    outside = len(deposits.points) - len(truth)
    return SimulatedEvent(waveform, truth, collected.astype(np.float32), own.pdg, own.track, bad, outside)


def simulate_event(
    responses: Sequence[Response], response: Response, seed: int, file: int, event: int
) -> SimulatedEvent:
    """One generated event as one TPC sees it.

    Args:
        responses: of all TPCs that the event's particles may cross.
        response: of the TPC to read out.
        seed, file, event: whole numbers from 0 that choose the random numbers.
    """
    return read_out_event(response, event_deposits(responses, seed, file, event), seed, file, event)


def dead_columns(tpc: Tpc, config: SimulationConfig, seed: int) -> npt.NDArray[np.int64]:
    """Columns of dead channels: those listed, or a random fraction, the same in all events of a seed."""
    if isinstance(config.dead_channels, tuple):
        return np.flatnonzero(np.isin(tpc.channels, config.dead_channels))
    return np.flatnonzero(_rng(seed, tpc.number, 0, DEAD).random(len(tpc.channels)) < config.dead_channels)


def truth_of(tpc: Tpc, deposits: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(m, 4) tick, y pixel, z pixel, electrons of (n, 5) deposits; those outside the read-out window are left out.

    Deposits in one full-resolution voxel are not summed.
    """
    places, inside = _places(tpc, deposits)
    return np.column_stack([places, deposits[:, 4]])[inside].astype(np.float32)


def _places(tpc: Tpc, deposits: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(n, 3) tick and pixels, and which of them lie in the read-out window and pixel grid."""
    ticks = tpc.to_ticks(deposits[:, 0], deposits[:, 3])
    y, z = tpc.to_pixels(deposits[:, 1], deposits[:, 2])
    places = np.floor(np.column_stack([ticks, y, z]))
    inside = ((places >= 0) & (places < [tpc.frame.n_ticks, tpc.frame.n_y, tpc.frame.n_z])).all(axis=1)
    return places, np.asarray(inside)


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))
