"""Simulate, tile, compare: every event once, under each response, threshold and set of dead channels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.closure.angles import track_angles
from preprocess.closure.events import Given
from preprocess.closure.measure import Measured, Truth, measure, truth_on_voxels
from preprocess.detector.model import Detector, Tpc
from preprocess.simulation import Response, SimulationConfig, responses_of
from preprocess.simulation.event import dead_columns
from preprocess.simulation.particles import box_of
from preprocess.voxels import Tiler, Voxels

DOWNSAMPLE = (8, 4, 4)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadOut:
    """One event, read out and tiled once: its voxels and its truth, on voxels of ``DOWNSAMPLE``.

    ``foreign``: (planes,) electrons that came from the other face of wrapped wires.
    """

    response: str
    threshold: float
    dead: float
    voxels: Voxels
    truth: Truth
    foreign: Floats


@dataclass(frozen=True)
class Row:
    """What one tiled event came to.

    Attributes:
        tpc, sample, number: which event.
        response, threshold, dead: how it was read out and tiled; ``dead`` is the fraction of dead channels.
        theta_xz, theta_yz: (planes,) degrees, NaN where the event has no one direction.
        foreign: (planes,) electrons from the other face of wrapped wires.
        measured: what was found.
    """

    tpc: int
    sample: str
    number: int
    response: str
    threshold: float
    dead: float
    theta_xz: Floats
    theta_yz: Floats
    foreign: Floats
    measured: Measured


class Bench:
    """One TPC with its tiler and responses (the ``first`` of them too), on which events are tried.

    Args:
        detector, number: the TPC.
        responses: by name, the settings of each.
        seed: of noise and dead channels.

    Raises ConfigError for a TPC that cannot be simulated.
    """

    def __init__(self, detector: Detector, number: int, responses: dict[str, SimulationConfig], seed: int) -> None:
        self.tpc, self.seed = detector.tpc(number), seed
        self.box = box_of(self.tpc)
        self.responses = {name: responses_of(detector, [number], config)[0] for name, config in responses.items()}
        self.first = next(iter(self.responses.values()))
        self.tiler = Tiler(self.tpc)
        self.draws = np.random.default_rng((seed, number)).random(len(self.tpc.channels))

    def read_outs(self, event: Given, thresholds: Sequence[float], dead: Sequence[float]) -> Iterator[ReadOut]:
        """The event under each response, fraction of dead channels and threshold (electrons a tick).

        Dead channels are the same for all events of a seed; those of the settings come on top.
        """
        own = self.box.contains(event.deposits[:, :3])
        for index, (name, response) in enumerate(self.responses.items()):
            truth = truth_on_voxels(self.tpc, event.deposits[own], response.config, DOWNSAMPLE)
            charge = response.charge(event.deposits[own])
            foreign = self._foreign(response, event.deposits[~own], charge)
            always = dead_columns(self.tpc, response.config, self.seed)
            for fraction in dead:
                columns = np.union1d(np.flatnonzero(self.draws < fraction), always)
                rng = np.random.default_rng((self.seed, self.tpc.number, event.number, index))
                waveform = response.read_out(charge.copy(), rng, columns)
                for threshold in thresholds:
                    voxels = self.tiler(waveform, threshold, DOWNSAMPLE, columns)
                    yield ReadOut(name, threshold, fraction, voxels, truth, foreign)

    def _foreign(self, response: Response, deposits: Floats, charge: npt.NDArray[np.float32]) -> Floats:
        """Add what arrives from the other face of wrapped wires; (planes,) electrons of it."""
        seen = np.zeros(len(deposits), bool)
        for box in response.boxes:
            seen |= box.contains(deposits[:, :3])
        if not seen.any():
            return np.zeros(len(self.tpc.planes))
        other = response.charge(deposits[seen])
        charge += other
        return np.array([other[np.unique(plane.column)].sum(dtype=np.float64) for plane in self.tpc.planes])


def voxel_cm(tpc: Tpc) -> tuple[float, float, float]:
    """Edges x, y and z of a voxel of ``DOWNSAMPLE`` in cm; the TPC can be simulated, so it has a drift speed."""
    frame = tpc.frame
    assert frame.drift_speed_mm_us is not None
    assert frame.tick_us is not None
    edges = (frame.drift_speed_mm_us * frame.tick_us, frame.pixel_mm, frame.pixel_mm)
    x, y, z = (0.1 * step * edge for step, edge in zip(DOWNSAMPLE, edges, strict=True))
    return x, y, z


def tiled_rows(
    bench: Bench,
    given: Iterable[Given],
    thresholds: Sequence[float],
    dead: Sequence[float],
    progress: Callable[[], None],
) -> Iterator[Row]:
    """Rows of all events; ``progress`` is called after each event."""
    for event in given:
        theta_xz, theta_yz = track_angles(event.direction, bench.tpc)
        for made in bench.read_outs(event, thresholds, dead):
            yield Row(
                bench.tpc.number, event.sample, event.number, made.response, made.threshold, made.dead,
                theta_xz, theta_yz, made.foreign, measure(made.voxels, made.truth),
            )  # fmt: skip
        progress()
