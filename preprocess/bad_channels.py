"""Channels that a user knows to be bad: their list, its rows for one TPC, and channels that hold nothing but zeros."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from preprocess.detector.model import Detector, Plane, Tpc

# A channel number, bad throughout, or (channel, first tick, end tick): bad for ticks first … end − 1.
Entry = int | tuple[int, int, int]
Rows = npt.NDArray[np.int32]
ZeroChannels = Literal["keep", "bad"]

FOR_EVER = 2**31 - 1  # end of a channel that is bad throughout, behind all ticks
MOST_ENTRIES = 20_000  # they are kept in the store's root, and travel with each task
HALF = 0.5
ROWS_AT_ONCE = 64
LIST_OF_NUMBERS = re.compile(r"\d+(,\d+)*")
SHAPE = "give channel numbers, rows [channel, first tick, end tick], or the path of a file with such rows"


def resolve(given: Any, detector: Detector) -> tuple[Entry, ...]:
    """The bad channels of a configuration: sorted, with overlapping and touching times made one.

    Args:
        given: a channel number, a text as in "1,2,3", the path of a file (see ``read_list``), or a list of these and
            of rows [channel, first tick, end tick).
        detector: whose channel numbers they are.

    Raises ConfigError for an entry that is none of these, and for a channel that no TPC of the detector has; it names
    the file and line.
    """
    known = np.unique(np.concatenate([tpc.channels for tpc in detector.tpcs.values()]))
    rows: list[tuple[int, int, int]] = []
    for where, (channel, first, end) in _rows(given):
        at = int(np.searchsorted(known, channel))
        if at == len(known) or known[at] != channel:
            raise ConfigError(
                f"{where}: {detector.name} has no channel {channel}; its {len(known):,} channels are {known[0]} … "
                f"{known[-1]}. Fix: correct the number, or choose the detector that the list is for"
            )
        if not 0 <= first < end <= FOR_EVER:
            raise ConfigError(
                f"{where}: channel {channel} is bad from tick {first} to {end}. Fix: give ticks from 0, the first one "
                "and the one behind the last"
            )
        rows.append((channel, first, end))
    merged = disjoint(np.array(rows, np.int64).reshape(-1, 3)).tolist()
    entries: list[Entry] = [
        channel if (first, end) == (0, FOR_EVER) else (channel, first, end) for channel, first, end in merged
    ]
    if len(entries) > MOST_ENTRIES:
        raise ConfigError(
            f"bad_channels: {len(entries):,} rows, more than {MOST_ENTRIES:,}. Fix: leave out the times, or write them "
            "into the frames as chanmask"
        )
    return tuple(entries)


def _rows(given: Any) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """(where it stands, (channel, first, end)) of each entry."""
    for entry in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(entry, int) and not isinstance(entry, bool):
            yield "bad_channels", (entry, 0, FOR_EVER)
        elif isinstance(entry, str) and LIST_OF_NUMBERS.fullmatch(entry.strip()):
            yield from (("bad_channels", (int(number), 0, FOR_EVER)) for number in entry.split(","))
        elif isinstance(entry, (str, Path)) and str(entry):
            yield from read_list(entry)
        elif isinstance(entry, (list, tuple)) and len(entry) == 3 and all(type(number) is int for number in entry):
            yield "bad_channels", (entry[0], entry[1], entry[2])
        else:
            raise ConfigError(f"bad_channels: {entry!r} is no channel. Fix: {SHAPE}")


def read_list(path: str | Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Rows ``channel [first_tick end_tick]`` of a text file, # begins a comment; each with "FILE: line N".

    Raises ConfigError for a file that cannot be read, and for a row that is not one or three whole numbers.
    """
    place = Path(os.path.expandvars(path)).expanduser()
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"bad_channels: {path}: cannot be read ({reason}). Fix: {SHAPE}") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) not in (1, 3) or not all(word.isdecimal() for word in words):
            raise ConfigError(
                f"{path}: line {number}: {line.strip()[:60]!r} is no bad channel. "
                "Fix: write the channel, or channel, first tick and end tick, with spaces between"
            )
        channel, first, end = [int(word) for word in words] if len(words) == 3 else (int(words[0]), 0, FOR_EVER)
        yield f"{path}: line {number}", (channel, first, end)


def disjoint(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows [column, first tick, end tick) sorted, such that no column is bad twice at any tick.

    The first number may be a channel as well; overlapping and touching times become one.
    """
    merged: list[list[int]] = []
    for column, begin, end in rows[np.lexsort((rows[:, 1], rows[:, 0]))].tolist():
        if merged and merged[-1][0] == column and begin <= merged[-1][2]:
            merged[-1][2] = max(end, merged[-1][2])
        elif begin < end:
            merged.append([column, begin, end])
    return np.array(merged, np.int64).reshape(-1, 3)


def fingerprint(entries: Sequence[Entry]) -> str | None:
    """What a store's images have in common, instead of the list: its length and sha256; None for no bad channels."""
    if not entries:
        return None
    digest = hashlib.sha256(repr(tuple(entries)).encode()).hexdigest()
    return f"{len(entries)} rows, sha256 {digest}"


def rows_of(entries: Iterable[Entry], tpc: Tpc, first_tick: int, n_ticks: int) -> Rows:
    """(n, 3) int32 rows [column, first tick, end tick) of the entries on this TPC's wires that meet the event's ticks.

    The event has ticks ``first_tick`` … ``first_tick`` + ``n_ticks`` − 1; channels of other TPCs are left out.
    """
    rows = [(entry, 0, FOR_EVER) if isinstance(entry, int) else entry for entry in entries]
    table = np.array(rows, np.int64).reshape(-1, 3)
    column = np.minimum(np.searchsorted(tpc.channels, table[:, 0]), len(tpc.channels) - 1)
    here = (tpc.channels[column] == table[:, 0]) & _on_wires(tpc)[column]
    here &= (table[:, 1] < first_tick + n_ticks) & (table[:, 2] > first_tick)
    return np.ascontiguousarray(np.column_stack([column, table[:, 1:]])[here], np.int32)


def _on_wires(tpc: Tpc) -> npt.NDArray[np.bool_]:
    """(column,) whether a wire of this face is read out there; an anode's other face has columns of its own."""
    on = np.zeros(len(tpc.channels), bool)
    for plane in tpc.planes:
        on[plane.column] = True
    return on


def zero_columns(waveform: npt.NDArray[Any], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Those of the ``columns`` of a (tick, column) waveform in which all samples are exactly 0.

    One pass, some rows at a time, that looks only at columns which have been 0 so far and ends with the last of them.
    """
    for row in range(0, len(waveform), ROWS_AT_ONCE):
        if not len(columns):
            break
        columns = columns[~waveform[row : row + ROWS_AT_ONCE, columns].any(axis=0)]
    return columns


def zero_rows(waveform: npt.NDArray[Any], first_tick: int, tpc: Tpc, known: Rows) -> Rows:
    """(n, 3) rows [column, first tick, end tick) for channels without any signal, but for those ``known`` to be bad.

    InputError where that would take out more than half of a plane's channels: no read-out is as broken as that, but
    zero-suppressed, simulated or faint events have nothing but zeros on most channels, and with most of a plane bad
    every crossing of the two others would be kept.
    """
    last = first_tick + len(waveform)
    wanted = _on_wires(tpc)
    wanted[known[(known[:, 1] <= first_tick) & (known[:, 2] >= last), 0]] = False  # bad throughout the event
    zero = zero_columns(waveform, np.flatnonzero(wanted))
    for plane in tpc.planes:
        _refuse_most(zero, plane)
    return np.column_stack([zero, np.full_like(zero, first_tick), np.full_like(zero, last)]).astype(np.int32)


def _refuse_most(zero: npt.NDArray[np.intp], plane: Plane) -> None:
    columns = np.unique(plane.column)
    n_zero = int(np.isin(columns, zero).sum())
    if n_zero > HALF * len(columns):
        raise InputError(
            f"zero_channels = bad would take {n_zero} of the {len(columns)} channels of plane {plane.name} as bad, "
            "more than half of them. Fix: set zero_channels to keep, and list the bad channels with bad_channels"
        )
