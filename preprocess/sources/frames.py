"""From one frame of a Wire-Cell file to an Event: channels to columns, unit, tick, orientation, dead channels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, check_size, check_tick, check_waveform
from preprocess.sources.names import parse_name
from preprocess.sources.options import ReadOptions
from preprocess.sources.truth import TruthFile

Array = npt.NDArray[Any]
TICK_RANGE = 2**31
OTHER_FACE = "other face"


@dataclass
class RawFrame:
    """One event as a Wire-Cell file holds it; nothing is checked yet.

    Attributes:
        ident: number of the frame.
        tag: tag of its traces.
        frame: [channel, tick] values in the file's unit; [tick, channel] in files from before mid-2021.
        channels: (channel,) global channel numbers.
        tickinfo: time in ns, tick in ns, first tick.
        masks: rows [channel, first tick, end tick) of each mask.
    """

    ident: int
    tag: str
    frame: Array
    channels: Array
    tickinfo: Array
    masks: list[Array] = field(default_factory=list)


class FrameMaker:
    """Makes the Events of one file and TPC out of its frames.

    Raises InputError for a frame that does not fit the TPC or the options; see ``Source.read``.
    """

    def __init__(self, path: Path, tpc: Tpc, options: ReadOptions, factor: float) -> None:
        self.path, self.tpc, self.options = path, tpc, options
        self.factor = np.float32(factor)
        self.truth = TruthFile(path, tpc.number, options.truth)

    def event(self, number: int, raw: RawFrame) -> Event:
        """The event at position ``number`` in the file."""
        label = f"{raw.tag}_{raw.ident}"
        channels = channel_numbers(self.path, f"channels_{label}", raw.channels)
        rows = self._rows(f"frame_{label}", raw.frame, len(channels))
        first_tick = self._first_tick(f"tickinfo_{label}", raw.tickinfo, rows.shape[1])
        columns = self._columns(f"channels_{label}", channels)
        notes = self.truth.notes()
        missing = np.setdiff1d(np.arange(len(self.tpc.channels)), columns)
        if len(missing):
            if self.options.missing_channels == "refuse":
                raise InputError(
                    f"{self.path}: channels_{label} lacks channels of TPC {self.tpc.number} of {self.tpc.detector}: "
                    f"{channel_counts(self.tpc, columns)}. Fix: choose its detector, or set missing_channels to bad."
                )
            notes["channels that the frame lacks"] = len(missing)
        waveform = self._waveform(number, rows, columns)
        whole = np.tile([first_tick, first_tick + len(waveform)], (len(missing), 1))
        bad = [np.column_stack([missing, whole]), *(self._mask(raw.ident, m, channels, notes) for m in raw.masks)]
        truth = self.truth.read(number)
        more = {} if truth is None else self.truth.columns(number, len(truth))
        return Event(
            number, waveform, first_tick, np.concatenate(bad).astype(np.int32), truth, more,
            event_id=raw.ident, notes=notes,
        )  # fmt: skip

    def _rows(self, member: str, frame: Array, n_channels: int) -> Array:
        """The frame as [channel, tick]."""
        wrong = f"{self.path}: {member} has shape {frame.shape} for {n_channels} channels"
        orientation = self.options.orientation
        if frame.ndim != 2:
            raise InputError(f"{wrong}. Fix: write (channels, ticks).")
        if orientation == "auto":
            if frame.shape == (n_channels, n_channels):
                raise InputError(
                    f"{wrong}: either axis may be the channels. Fix: set orientation to channels_first or ticks_first."
                )
            orientation = "channels_first" if frame.shape[0] == n_channels else "ticks_first"
        rows = frame if orientation == "channels_first" else frame.T
        if rows.shape[0] != n_channels:
            asked = "" if self.options.orientation == "auto" else f", orientation {orientation}"
            raise InputError(f"{wrong}{asked}. Fix: write (channels, ticks), or choose the other orientation.")
        return rows

    def _first_tick(self, member: str, tickinfo: Array, n_ticks: int) -> int:
        if tickinfo.shape != (3,) or not np.isfinite(tickinfo).all():
            raise InputError(
                f"{self.path}: {member} is {tickinfo.ravel()[:5].tolist()}, shape {tickinfo.shape}. "
                "Fix: write [time ns, tick ns, first tick]."
            )
        first, tick_ns = float(tickinfo[2]), float(tickinfo[1])
        if not first.is_integer() or not 0 <= first < TICK_RANGE - n_ticks:
            raise InputError(
                f"{self.path}: {member}: first tick {first}. Fix: ticks are whole numbers from 0, below 2^31."
            )
        if self.options.tick_us is None and not tick_ns > 0:
            raise InputError(f"{self.path}: {member}: tick of {tick_ns} ns. Fix: write a positive length.")
        check_tick(self.path, self.tpc, tick_ns / 1000.0, self.options)
        return int(first)

    def _columns(self, member: str, channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The column of the TPC's waveform for each channel."""
        ours = self.tpc.channels
        columns = np.searchsorted(ours, channels)
        foreign = ours[np.minimum(columns, len(ours) - 1)] != channels
        if foreign.any():
            counts = channel_counts(self.tpc, columns[~foreign])
            raise InputError(
                f"{self.path}: channel {channels[foreign][0]} of {member} is not one of TPC {self.tpc.number} of "
                f"{self.tpc.detector} ({ours[0]} … {ours[-1]}); {int(foreign.sum())} such channels, and {counts}. "
                "Fix: choose its detector and TPC."
            )
        return columns

    def _waveform(self, number: int, rows: Array, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        n_ticks, n_columns = rows.shape[1], len(self.tpc.channels)
        check_size(self.path, number, n_ticks, n_columns)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            # In the frame's own order, for which tiling does not care: a transposition takes longer than tiling.
            if np.array_equal(columns, np.arange(n_columns)):
                waveform = np.asarray(rows.T, np.float32)
            else:
                waveform = np.zeros((n_ticks, n_columns), np.float32, "C" if rows.flags.f_contiguous else "F")
                waveform[:, columns] = rows.T
            if self.factor != 1.0:
                waveform = waveform * self.factor
        check_waveform(self.path, number, waveform)
        return waveform

    def _mask(
        self, ident: int, mask: Array, channels: npt.NDArray[np.int64], notes: dict[str, int]
    ) -> npt.NDArray[np.int64]:
        """A mask's rows [column, first tick, end tick) of the frame's channels; others are noted."""
        if mask.size == 0:
            return np.empty((0, 3), np.int64)
        if mask.ndim != 2 or mask.shape[1] != 3 or mask.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: a chanmask of {ident} has shape {mask.shape} and dtype {mask.dtype}. "
                "Fix: write integer rows [channel, first tick, end tick)."
            )
        wide = mask.astype(np.int64)
        wrong = (wide[:, 1] > wide[:, 2]) | (wide[:, 1] < -TICK_RANGE) | (wide[:, 2] >= TICK_RANGE)
        if wrong.any():
            raise InputError(
                f"{self.path}: a chanmask of {ident} has the row {wide[wrong][0].tolist()}. "
                "Fix: write [channel, first tick, end tick)."
            )
        ours = np.isin(wide[:, 0], channels)
        if not ours.all():
            key = "mask rows of channels outside the frame"
            notes[key] = notes.get(key, 0) + int((~ours).sum())
        kept = wide[ours]
        return np.column_stack([np.searchsorted(self.tpc.channels, kept[:, 0]), kept[:, 1:]])


def channel_numbers(path: Path, member: str, channels: Array) -> npt.NDArray[np.int64]:
    """A frame's list of channels; InputError unless they are different whole numbers."""
    if channels.ndim != 1 or channels.dtype.kind not in "iu" or not len(channels):
        raise InputError(
            f"{path}: {member} has shape {channels.shape} and dtype {channels.dtype}. "
            "Fix: write a list of channel numbers."
        )
    numbers = channels.astype(np.int64)
    values, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{path}: {member} holds channel {values[counts > 1][0]} twice. Fix: write it once.")
    return numbers


def channel_counts(tpc: Tpc, columns: npt.NDArray[np.int64]) -> str:
    """How many of a TPC's channels are among ``columns``, plane by plane, as in "u 476/800, v 800/800"."""
    of_planes = [(plane.name, np.unique(plane.column)) for plane in tpc.planes]
    rest = np.setdiff1d(np.arange(len(tpc.channels)), np.concatenate([wanted for _, wanted in of_planes]))
    if len(rest):
        of_planes.append((OTHER_FACE, rest))
    return ", ".join(f"{name} {int(np.isin(wanted, columns).sum())}/{len(wanted)}" for name, wanted in of_planes)


def named_tpc(path: Path, detector: Detector) -> int | None:
    """The TPC in a file's name, None where it names none; InputError if the detector has no such TPC."""
    name = parse_name(path)
    if name is not None and name.tpc not in detector.tpcs:
        valid = ", ".join(str(n) for n in sorted(detector.tpcs))
        raise InputError(f"{path}: is of TPC {name.tpc}, but {detector.name} has {valid}. Fix: choose its detector.")
    return None if name is None else name.tpc


def check_named(path: Path, tpc: Tpc) -> None:
    """InputError if the file's name says that it is of another TPC."""
    name = parse_name(path)
    if name is not None and name.tpc != tpc.number:
        raise InputError(f"{path}: is of TPC {name.tpc}, not {tpc.number}. Fix: ask for TPC {name.tpc}.")


def tpcs_of(path: Path, detector: Detector, member: str, channels: Array) -> list[int]:
    """The live faces of the anode that a frame's channels belong to; InputError if they are of none."""
    numbers = channel_numbers(path, member, channels)
    fitting = [n for n, tpc in detector.tpcs.items() if np.isin(numbers, tpc.channels).all()]
    if not fitting:
        raise InputError(
            f"{path}: {len(numbers)} channels {numbers.min()} … {numbers.max()} are not those of one anode of "
            f"{detector.name}. Fix: choose its detector, and write one anode a file."
        )
    # Of an anode that nothing drifts to, all faces: whoever wrote the file wants to see them.
    return sorted([n for n in fitting if detector.tpcs[n].live] or fitting)
