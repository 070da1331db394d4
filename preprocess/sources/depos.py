"""What every reader of ionisation yields: one event's deposits, for `larstore simulate --depos`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # readers load without the simulation
    from preprocess.simulation.config import SimulationConfig


@dataclass
class DepoEvent:
    """The deposits of one event.

    Attributes:
        event: position in the file, from 0.
        deposits: (n, 5) float64 x, y, z in mm of the detector's frame, time in µs, electrons after recombination and
            before attachment.
        pdg: (n,) int32 particle, 0 where unknown.
        track: (n,) int32 track number in the event, −1 where unknown.
        event_id: number of the event, −1 where unknown.
        notes: what the reader left out, with a count each.
    """

    event: int
    deposits: npt.NDArray[np.float64]
    pdg: npt.NDArray[np.int32]
    track: npt.NDArray[np.int32]
    event_id: int = -1
    notes: dict[str, int] = field(default_factory=dict)


class DepoSource(ABC):
    """A file of deposits. Opening it reads nothing but its first bytes.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def n_events(self) -> int:
        """Number of events in the file; InputError if it is damaged."""

    @abstractmethod
    def events(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """Events in the order of the file, one in memory at a time.

        Args:
            config: recombination, for files that carry energy instead of electrons.

        Raises:
            InputError: a damaged file. Events before the damage have been yielded.
        """
