"""What every reader is, and what it yields: one event's waveforms of one TPC, with the truth that belongs to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from larstore.settings import check
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.names import file_number, truth_path
from preprocess.sources.options import ReadOptions
from preprocess.sources.peek import Peek

LARGEST_BYTES = 1 << 29  # of one waveform or array: the largest anode at hand takes 0.3 GB
TICK_TOLERANCE = 1e-3


@dataclass
class Event:
    """One event of one TPC, as a reader hands it to the pipeline.

    Attributes:
        event: position in the file, from 0.
        waveform: (ticks, channels) float32, electrons, contiguous in C or Fortran order; columns are the TPC's
            ``channels``, in that order.
        first_tick: tick number of row 0 (frames may start late); coordinates count from tick 0.
        bad: (n, 3) int32 rows [column, first tick, end tick): channels that are dead for these ticks.
        truth: (m, 4) float64 rows tick, y pixel, z pixel (full resolution, floats are rounded down), electrons;
            None where the input has no truth.
        truth_columns: more about each truth point, as far as the input knows it: (m,) ``collected`` (electrons that
            survive the drift), ``pdg``, ``track``.
        run, subrun, event_id: numbers of the frame, -1 where unknown.
        notes: things the reader left out, with a count each (mask rows of channels outside this frame, …).
    """

    event: int
    waveform: npt.NDArray[np.float32]
    first_tick: int = 0
    bad: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 3), np.int32))
    truth: npt.NDArray[np.float64] | None = None
    truth_columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    run: int = -1
    subrun: int = -1
    event_id: int = -1
    notes: dict[str, int] = field(default_factory=dict)


class Source(ABC):
    """An input file: its events, TPC by TPC. Opening it reads nothing but its first bytes.

    Attributes:
        path: the file.
        default_scale: the format's own factor from its values to electrons.
    """

    default_scale: float = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def n_events(self) -> int:
        """Number of events in the file; InputError if it is damaged."""

    @abstractmethod
    def tpcs(self, detector: Detector) -> list[int]:
        """Offline numbers of the TPCs that the file's channels belong to; the name restricts them."""

    @abstractmethod
    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """Events in the order of the file, one in memory at a time; waveforms get the columns of ``tpc``.

        Raises:
            InputError: a damaged file, or one that does not fit the TPC or the options. Events before the damage have
                been yielded.
            ConfigError: an option out of range.
        """

    def peek(self) -> Iterator[Peek]:
        """What is in the file, array by array, one in memory at a time, for `larstore inspect`.

        Readers without it are inspected by their number of events alone. Raises InputError for a damaged file.
        """
        return iter(())

    def events(self, tpc: Tpc, truth: Sequence[str] | None = None, **options: Any) -> Iterator[Event]:
        """``read`` with the options by name, see ``ReadOptions``."""
        return self.read(tpc, check(ReadOptions, {"truth": truth, **options}, "options"))

    def file_number(self, pattern: str | None = None) -> int | None:
        """The number in the file's name: of ``pattern``'s first group, by default before ``_<product>-TPC<n>``."""
        return file_number(self.path, pattern)

    def inputs(self, tpc: int, truth: Sequence[str] | None = None) -> list[Path]:
        """The files that ``events`` reads for this TPC."""
        sibling = truth_path(self.path, tpc, truth)
        return [self.path] if sibling is None else [self.path, sibling]


def check_size(path: Path, event: int, n_ticks: int, n_channels: int) -> None:
    """InputError for a waveform that would take more than ``LARGEST_BYTES``."""
    size = 4 * n_ticks * n_channels
    if size > LARGEST_BYTES:
        raise InputError(
            f"{path}: event {event} has {n_ticks} ticks, {size} bytes for {n_channels} channels. "
            "Fix: copy or write the file again, one event a frame."
        )


def check_tick(path: Path, tpc: Tpc, label_us: float | None, options: ReadOptions) -> None:
    """InputError where the ticks, by the file's label or by the option, are not the detector's within 0.1 %."""
    tick_us, known = options.tick_us if options.tick_us is not None else label_us, tpc.frame.tick_us
    if tick_us is None or known is None or abs(tick_us - known) <= TICK_TOLERANCE * known:
        return
    said = "its label says" if options.tick_us is None else "the option tick_us says"
    raise InputError(
        f"{path}: {said} ticks of {tick_us:g} us, {tpc.detector} has {known:g} us. Fix: set tick_us to {known:g} if "
        f"that is wrong, else write a detector YAML with `extends: {tpc.detector}` and its tick_us."
    )


def check_waveform(path: Path, event: int, waveform: npt.NDArray[np.float32]) -> None:
    """InputError for an event's (ticks, channels) waveform without ticks, or with a NaN or infinity."""
    if not len(waveform):
        raise InputError(f"{path}: event {event} has no ticks. Fix: write it again, or leave the event out.")
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        if np.isfinite(waveform.sum(dtype=np.float64)):
            return
    bad = np.argwhere(~np.isfinite(waveform))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise InputError(
            f"{path}: event {event} is {waveform[row, column]} in row {row}, column {column}, "
            f"{len(bad)} such samples. Fix: repair the signal processing, or mask the channel and set it to 0."
        )


def factor_of(options: ReadOptions, default: float) -> float:
    """Factor from the file's values to electrons, with its sign; ConfigError for 0."""
    value = default if options.scale is None else options.scale
    if value == 0:
        raise ConfigError(f"scale = {value}. Fix: give the factor from the file's unit to electrons, as in 1000.")
    return value * options.sign
