"""Reader for Wire-Cell frame archives (``FrameFileSink``): tar, tar.gz, tar.bz2 or npz with the same member names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, Source, check_waveform, factor_of
from preprocess.sources.members import Array, member_names, members
from preprocess.sources.names import ARCHIVE_SUFFIXES, parse_name
from preprocess.sources.options import ReadOptions
from preprocess.sources.registry import Probe, Reader
from preprocess.sources.truth import TruthFile

# Tags may hold "_": the ident is split off from the right.
MEMBER = re.compile(r"(?P<kind>frame|channels|tickinfo|summary|chanmask)_(?P<tag>.*)_(?P<ident>\d{1,18})", re.DOTALL)
TICK_RANGE = 2**31


@dataclass
class _Pending:
    """What has been read of one event so far."""

    ident: int
    frame: Array | None = None
    channels: Array | None = None
    tickinfo: Array | None = None
    masks: list[Array] = field(default_factory=list)

    def missing(self, tag: str) -> list[str]:
        return [
            f"{kind}_{tag}_{self.ident}" for kind in ("frame", "channels", "tickinfo") if getattr(self, kind) is None
        ]


class WireCellSource(Source):
    """``frame_<tag>_<ident>`` [channel, tick], ``channels_…``, ``tickinfo_…`` and optional ``chanmask_…``.

    Values are electrons. The archive is read once, front to back; an event is yielded when the next one begins.
    """

    @property
    def n_events(self) -> int:
        """Number of events (different idents of frames); reads the whole archive."""
        found = (MEMBER.fullmatch(name) for name in member_names(self.path))
        return len({m["ident"] for m in found if m and m["kind"] == "frame"})

    def tpcs(self, detector: Detector) -> list[int]:
        """The TPC in the file's name, else those of the anode that the first frame's channels belong to."""
        name = parse_name(self.path)
        if name is not None:
            if name.tpc not in detector.tpcs:
                valid = ", ".join(str(n) for n in sorted(detector.tpcs))
                raise InputError(
                    f"{self.path}: is of TPC {name.tpc}, but {detector.name} has {valid}. Fix: choose its detector."
                )
            return [name.tpc]
        for member, read in members(self.path):
            match = MEMBER.fullmatch(member)
            if match and match["kind"] == "channels":
                channels = self._channels(member, read())
                fitting = [n for n, tpc in detector.tpcs.items() if np.isin(channels, tpc.channels).all()]
                if not fitting:
                    raise InputError(
                        f"{self.path}: channels {channels.min()} … {channels.max()} are not those of one anode of "
                        f"{detector.name}. Fix: choose its detector, and write one anode a file."
                    )
                return sorted(fitting)
        raise InputError(f"{self.path}: has no member channels_<tag>_<ident>. Fix: give a Wire-Cell frame archive.")

    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """See ``Source.read``; the scale is 1 by default."""
        factor = factor_of(options, 1.0)
        name = parse_name(self.path)
        if name is not None and name.tpc != tpc.number:
            raise InputError(f"{self.path}: is of TPC {name.tpc}, not {tpc.number}. Fix: ask for TPC {name.tpc}.")
        truth_file = TruthFile(self.path, tpc.number, options.truth)
        for event, (pending, used) in enumerate(self._pending(options.tag)):
            yield self._event(event, pending, used, tpc, factor, truth_file)

    def _pending(self, tag: str | None) -> Iterator[tuple[_Pending, str]]:
        """Complete events in the order of their first members, and the tag they were found under."""
        waiting: dict[int, _Pending] = {}
        done: set[int] = set()
        tags: dict[str, None] = {}
        for member, read in members(self.path):
            match = MEMBER.fullmatch(member)
            if match is None or match["kind"] == "summary":
                continue
            kind, ident = match["kind"], int(match["ident"])
            while waiting:  # only the first one: positions must not shift where a member is missing
                first = next(iter(waiting.values()))
                if first.ident == ident or first.missing(""):
                    break
                yield waiting.pop(first.ident), tag if tag is not None else next(iter(tags))
                done.add(first.ident)
            if kind != "chanmask":
                tags.setdefault(match["tag"])
                if tag is None and len(tags) > 1:
                    raise InputError(
                        f"{self.path}: holds frames of several tags ({', '.join(sorted(tags))}). "
                        "Fix: choose one with the option tag."
                    )
                if tag is not None and match["tag"] != tag:
                    continue
            if ident in done:
                raise InputError(
                    f"{self.path}: {member} comes after the next event began. Fix: write the archive event by event."
                )
            pending = waiting.setdefault(ident, _Pending(ident))
            if kind == "chanmask":
                pending.masks.append(read())
                continue
            if getattr(pending, kind) is not None:
                raise InputError(f"{self.path}: holds {member} twice. Fix: write the archive again.")
            setattr(pending, kind, read())
        yield from self._rest(waiting, tag, tags, bool(done))

    def _rest(
        self, waiting: dict[int, _Pending], tag: str | None, tags: dict[str, None], some: bool
    ) -> Iterator[tuple[_Pending, str]]:
        used = tag if tag is not None else next(iter(tags), "<tag>")
        if tag is not None and tag not in tags:
            raise InputError(
                f"{self.path}: has no frames of the tag {tag!r}. "
                f"Fix: choose one of {', '.join(sorted(tags)) or 'none'}."
            )
        if not waiting and not some:
            raise InputError(f"{self.path}: has no member frame_<tag>_<ident>. Fix: give a Wire-Cell frame archive.")
        for pending in waiting.values():
            missing = pending.missing(used)
            if missing:
                raise InputError(f"{self.path}: {' and '.join(missing)} is missing. Fix: copy or write the file again.")
            yield pending, used

    def _event(self, event: int, pending: _Pending, tag: str, tpc: Tpc, factor: float, truth_file: TruthFile) -> Event:
        frame, tickinfo = pending.frame, pending.tickinfo
        assert frame is not None
        assert pending.channels is not None
        assert tickinfo is not None
        label = f"{tag}_{pending.ident}"
        channels = self._channels(f"channels_{label}", pending.channels)
        if frame.ndim != 2 or len(channels) not in frame.shape:
            raise InputError(
                f"{self.path}: frame_{label} has shape {frame.shape} for {len(channels)} channels. "
                "Fix: write (channels, ticks)."
            )
        rows = frame if frame.shape[0] == len(channels) else frame.T  # transposed before mid-2021
        first_tick = self._first_tick(f"tickinfo_{label}", tickinfo, rows.shape[1])
        columns = np.searchsorted(tpc.channels, channels)
        foreign = tpc.channels[np.minimum(columns, len(tpc.channels) - 1)] != channels
        if foreign.any():
            raise InputError(
                f"{self.path}: channel {channels[foreign][0]} of channels_{label} is not one of TPC {tpc.number} of "
                f"{tpc.detector} ({tpc.channels[0]} … {tpc.channels[-1]}). Fix: choose its detector and TPC."
            )
        waveform = np.zeros((rows.shape[1], len(tpc.channels)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            if np.array_equal(columns, np.arange(len(tpc.channels))):
                waveform[:] = rows.T
            else:
                waveform[:, columns] = rows.T
            if factor != 1.0:
                waveform *= np.float32(factor)
        check_waveform(self.path, event, waveform)
        notes = truth_file.notes()
        tick_us = tpc.frame.tick_us
        if tick_us is not None and abs(float(tickinfo[1]) / 1000.0 - tick_us) > 1e-3 * tick_us:
            notes["tick length differs from the detector's"] = 1
        bad = self._bad(pending, channels, tpc, first_tick, len(waveform), notes)
        return Event(
            event, waveform, first_tick, bad, truth_file.read(event), event_id=pending.ident, notes=notes
        )  # fmt: skip

    def _channels(self, member: str, channels: Array) -> npt.NDArray[np.int64]:
        if channels.ndim != 1 or channels.dtype.kind not in "iu" or not len(channels):
            raise InputError(
                f"{self.path}: {member} has shape {channels.shape} and dtype {channels.dtype}. "
                "Fix: write a list of channel numbers."
            )
        numbers = channels.astype(np.int64)
        values, counts = np.unique(numbers, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"{self.path}: {member} holds channel {values[counts > 1][0]} twice. Fix: write it once.")
        return numbers

    def _first_tick(self, member: str, tickinfo: Array, n_ticks: int) -> int:
        if tickinfo.shape != (3,) or not np.isfinite(tickinfo).all():
            raise InputError(
                f"{self.path}: {member} is {tickinfo.ravel()[:5].tolist()}, shape {tickinfo.shape}. "
                "Fix: write [time ns, tick ns, first tick]."
            )
        first = float(tickinfo[2])
        if not first.is_integer() or not 0 <= first < TICK_RANGE - n_ticks:
            raise InputError(
                f"{self.path}: {member}: first tick {first}. Fix: ticks are whole numbers from 0, below 2^31."
            )
        if not float(tickinfo[1]) > 0:
            raise InputError(f"{self.path}: {member}: tick of {float(tickinfo[1])} ns. Fix: write a positive length.")
        return int(first)

    def _bad(
        self,
        pending: _Pending,
        channels: npt.NDArray[np.int64],
        tpc: Tpc,
        first_tick: int,
        n_ticks: int,
        notes: dict[str, int],
    ) -> npt.NDArray[np.int32]:
        missing = np.setdiff1d(tpc.channels, channels)
        rows = [np.column_stack([
            np.searchsorted(tpc.channels, missing), np.full(len(missing), first_tick),
            np.full(len(missing), first_tick + n_ticks),
        ])]  # fmt: skip
        if len(missing):
            notes["channels that the frame lacks"] = len(missing)
        for mask in pending.masks:
            if mask.size == 0:
                continue
            if mask.ndim != 2 or mask.shape[1] != 3 or mask.dtype.kind not in "iu":
                raise InputError(
                    f"{self.path}: a chanmask of {pending.ident} has shape {mask.shape} and dtype {mask.dtype}. "
                    "Fix: write integer rows [channel, first tick, end tick)."
                )
            wide = mask.astype(np.int64)
            wrong = (wide[:, 1] > wide[:, 2]) | (wide[:, 1] < -TICK_RANGE) | (wide[:, 2] >= TICK_RANGE)
            if wrong.any():
                raise InputError(
                    f"{self.path}: a chanmask of {pending.ident} has the row {wide[wrong][0].tolist()}. "
                    "Fix: write [channel, first tick, end tick)."
                )
            ours = np.isin(wide[:, 0], channels)
            if not ours.all():
                key = "mask rows of channels outside the frame"
                notes[key] = notes.get(key, 0) + int((~ours).sum())
            kept = wide[ours]
            rows.append(np.column_stack([np.searchsorted(tpc.channels, kept[:, 0]), kept[:, 1:]]))
        return np.concatenate(rows).astype(np.int32)


def _recognises(probe: Probe) -> bool:
    # A tar is named by its suffix: listing it would read it whole.
    if probe.container == "tar":
        return True
    return probe.container == "zip" and any(MEMBER.fullmatch(name) for name in probe.names)


READER = Reader(
    "wirecell", "frames", "a Wire-Cell frame archive (.tar, .tar.gz, .tar.bz2, .npz: frame_<tag>_<ident> …)",
    ARCHIVE_SUFFIXES, _recognises, WireCellSource,
)  # fmt: skip
