"""What every reader of ionisation yields: one event's deposits, for `larstore simulate --depos`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError

if TYPE_CHECKING:  # readers load without the simulation
    from preprocess.simulation.config import SimulationConfig

MOST_DEPOSITS = 1 << 22  # of one event: with its copies below 1 GB
FARTHEST = 1e12  # mm, µs or electrons: beyond lie damaged numbers
COLUMNS = ("x", "y", "z", "time", "electrons")


@dataclass(frozen=True)
class Place:
    """Where a file's origin goes in the detector's frame.

    Attributes:
        x_mm, y_mm, z_mm: the place of the file's origin.
        rotation_deg: turn about the y axis through the file's origin, before the shift; 90 turns z to x, and x to −z.
    """

    x_mm: float
    y_mm: float
    z_mm: float
    rotation_deg: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Place":
        """From ``x,y,z`` or ``x,y,z,rotation`` in mm and degrees; ConfigError for anything else."""
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) not in (3, 4) or not all(math.isfinite(value) and abs(value) < FARTHEST for value in values):
            raise ConfigError(
                f"place {text!r}: not x,y,z or x,y,z,rotation. Fix: give mm and degrees, as in 1800,3000,500,90."
            )
        return cls(*values)

    def move(self, deposits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A copy of (n, 5) deposits with x, y, z [mm] turned and shifted."""
        angle = math.radians(self.rotation_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        moved = deposits.copy()
        moved[:, 0] = cosine * deposits[:, 0] + sine * deposits[:, 2] + self.x_mm
        moved[:, 1] += self.y_mm
        moved[:, 2] = -sine * deposits[:, 0] + cosine * deposits[:, 2] + self.z_mm
        return moved


@dataclass
class DepoEvent:
    """The deposits of one event.

    Attributes:
        event: position in the file, from 0.
        deposits: (n, 5) float64 x, y, z in mm of the detector's frame, time in µs, electrons after recombination and
            before attachment; all positive.
        pdg: (n,) int32 particle, 0 where unknown.
        track: (n,) int32 track number in the event, −1 where unknown.
        event_id: number of the event, −1 where unknown.
        notes: what the reader left out or had to assume, with a count each.
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
        place: where its origin goes; None leaves its coordinates as they are.
    """

    def __init__(self, path: Path, place: Place | None = None) -> None:
        self.path = path
        self.place = place

    @property
    @abstractmethod
    def n_events(self) -> int:
        """Number of events in the file; InputError if it is damaged."""

    @abstractmethod
    def read(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """As ``events``, in the file's own coordinates."""

    def events(self, config: "SimulationConfig") -> Iterator[DepoEvent]:
        """Events in the order of the file, one in memory at a time.

        Args:
            config: recombination and length of steps, for files that carry energy along segments.

        Raises:
            InputError: a damaged file. Events before the damage have been yielded.
        """
        for event in self.read(config):
            if self.place is not None:
                event.deposits = self.place.move(event.deposits)
            yield event


def open_depos(path: str | Path, place: Place | None = None) -> DepoSource:
    """The reader that fits a file of deposits.

    Args:
        path: the file.
        place: where its origin goes in the detector's frame.

    Raises:
        InputError: no such file, or a format that no reader of deposits knows.
    """
    from preprocess.sources.registry import find_reader  # it knows this module

    file = Path(path)
    source = find_reader(file, "depos").open(file)
    assert isinstance(source, DepoSource)
    source.place = place
    return source


def depo_event(
    path: Path,
    event: int,
    columns: Sequence[npt.NDArray[Any]],
    pdg: npt.NDArray[Any] | None = None,
    track: npt.NDArray[Any] | None = None,
    event_id: int = -1,
    notes: dict[str, int] | None = None,
) -> DepoEvent:
    """A checked event; deposits without electrons are left out, with a note.

    Args:
        path, event: for messages, and the event's position.
        columns: five (n,) columns x, y, z in mm, time in µs, electrons.
        pdg, track: (n,) whole numbers; None where unknown.
        event_id: number of the event.
        notes: those of the reader so far.

    Raises:
        InputError: a NaN, an infinity or a number that nobody means; or more deposits than ``MOST_DEPOSITS``.
    """
    check_count(path, event, len(columns[0]))
    deposits = np.empty((len(columns[0]), 5))
    for index, (name, values) in enumerate(zip(COLUMNS, columns, strict=True)):
        check_values(path, event, name, values)
        deposits[:, index] = values
    numbers = [
        _whole(path, event, "pdg", pdg, len(deposits), 0),
        _whole(path, event, "track", track, len(deposits), -1),
    ]
    notes = dict(notes or {})
    keep = deposits[:, 4] > 0
    if not keep.all():
        notes["deposits without electrons"] = int(len(keep) - keep.sum())
        deposits, numbers = deposits[keep], [each[keep] for each in numbers]
    return DepoEvent(event, deposits, numbers[0], numbers[1], event_id, notes)


def check_count(path: Path, event: int, n: int) -> None:
    """InputError for more than ``MOST_DEPOSITS`` deposits in one event."""
    if n > MOST_DEPOSITS:
        raise InputError(
            f"{path}: event {event} has {n} deposits, more than {MOST_DEPOSITS}. Fix: write smaller events, "
            "or copy the file again if that is not what was written."
        )


def check_values(path: Path, event: int, name: str, values: npt.NDArray[Any]) -> None:
    """InputError for a NaN, an infinity, or a number beyond ``FARTHEST`` in a (n,) column."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(values.astype(np.longdouble, copy=False)) <= FARTHEST)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{path}: event {event} has {name} {values[row]} in row {row}, {int(wrong.sum())} such rows. "
            "Fix: write the file again without them."
        )


def _whole(
    path: Path, event: int, name: str, values: npt.NDArray[Any] | None, n: int, unknown: int
) -> npt.NDArray[np.int32]:
    if values is None:
        return np.full(n, unknown, np.int32)
    limits = np.iinfo(np.int32)
    if len(values) and (int(values.min()) < limits.min or int(values.max()) > limits.max):
        wrong = max(values.min(), values.max(), key=lambda value: abs(int(value)))
        raise InputError(f"{path}: event {event} has {name} {wrong}, beyond 32 bits. Fix: number them from 0.")
    return values.astype(np.int32)
