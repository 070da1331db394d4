"""The events of a closure test: single muons of all directions, whole events, and deposits from files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.closure.angles import isotropic
from preprocess.detector.model import Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.event import event_deposits
from preprocess.simulation.particles import MUON, MUON_MEV, Box, Particle, box_of, propagate
from preprocess.simulation.response import Response
from preprocess.sources import open_depos

MUON_GEV = 10.0  # kinetic energy of the single muons: they scatter by a few mrad only
TRACKS, EVENTS = "single muons", "whole events"
MUONS = 0xC105  # keeps the single muons' random numbers apart from those of ``simulate``
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Given:
    """The deposits of one event, before anything is read out.

    Attributes:
        sample: TRACKS, EVENTS, or a file's name.
        number: of the event in its sample.
        deposits: (n, 5) x, y, z [mm], t [µs], electrons, wherever in the detector they lie.
        direction: (3,) unit vector of a single track, else None.
    """

    sample: str
    number: int
    deposits: Floats
    direction: Floats | None = None


def single_muons(tpc: Tpc, n: int, seed: int, config: SimulationConfig) -> Iterator[Given]:
    """Muons of 10 GeV at t = 0 with delta rays, isotropic, each through a uniform point of the drift volume."""
    for number in range(n):
        yield single_muon(tpc, number, seed, config)


def single_muon(tpc: Tpc, number: int, seed: int, config: SimulationConfig) -> Given:
    """The muon of that number; what its delta rays leave outside the drift volume is left out."""
    box = box_of(tpc)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, tpc.number, number, MUONS))))
    direction = isotropic(rng)
    start = entry(box, box.low + rng.random(3) * box.size, direction)
    made = propagate(rng, Particle(start, direction, MUON_GEV * 1000.0, MUON_MEV, 0.0, MUON), box, config)
    return Given(TRACKS, number, made.points[box.contains(made.points[:, :3])], direction)


def whole_events(response: Response, n: int, seed: int) -> Iterator[Given]:
    """Events as ``simulate`` makes them for this TPC as file 0: cosmics over a long time, beam tracks, showers."""
    for number in range(n):
        yield Given(EVENTS, number, event_deposits([response], seed, 0, number).points)


def depo_events(paths: Sequence[Path], n: int, config: SimulationConfig) -> Iterator[Given]:
    """The first ``n`` events of each file of deposits. Raises InputError for a file that cannot be read."""
    for path in paths:
        for event, _ in zip(open_depos(path).events(config), range(n), strict=False):
            yield Given(Path(path).name, event.event, event.deposits)


def entry(box: Box, point: Floats, direction: Floats) -> Floats:
    """Where the line through ``point`` in the box comes in, a micrometre inside."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(direction > 0, (point - box.low) / direction, (point - box.high) / direction)
    back = float(np.min(steps[direction != 0]))
    return np.asarray(np.clip(point - back * direction, box.low + 1e-3, box.high - 1e-3))
