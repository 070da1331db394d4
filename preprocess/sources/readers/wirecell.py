"""Reader for Wire-Cell frame archives (``FrameFileSink``): tar, tar.gz, tar.bz2 or npz with the same member names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, Source, factor_of
from preprocess.sources.frames import FrameMaker, RawFrame, check_named, named_tpc, tpcs_of
from preprocess.sources.members import member_names, members
from preprocess.sources.names import ARCHIVE_SUFFIXES
from preprocess.sources.npy import Array
from preprocess.sources.options import ReadOptions
from preprocess.sources.peek import Peek
from preprocess.sources.registry import Probe, Reader

# Tags may hold "_": the ident is split off from the right.
MEMBER = re.compile(r"(?P<kind>frame|channels|tickinfo|summary|chanmask)_(?P<tag>.*)_(?P<ident>\d{1,18})", re.DOTALL)
KINDS = ("frame", "channels", "tickinfo")


@dataclass
class _Pending:
    """What has been read of one event so far."""

    ident: int
    arrays: dict[str, Array] = field(default_factory=dict)
    masks: list[Array] = field(default_factory=list)

    def missing(self, tag: str) -> list[str]:
        return [f"{kind}_{tag}_{self.ident}" for kind in KINDS if kind not in self.arrays]

    def frame(self, tag: str) -> RawFrame:
        frame, channels, tickinfo = (self.arrays[kind] for kind in KINDS)
        return RawFrame(self.ident, tag, frame, channels, tickinfo, self.masks)


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
        """The TPC in the file's name, else the live ones of the anode that the first frame's channels belong to."""
        named = named_tpc(self.path, detector)
        if named is not None:
            return [named]
        for member, read in members(self.path):
            match = MEMBER.fullmatch(member)
            if match and match["kind"] == "channels":
                return tpcs_of(self.path, detector, member, read())
        raise InputError(f"{self.path}: has no member channels_<tag>_<ident>. Fix: give a Wire-Cell frame archive.")

    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """See ``Source.read``; the scale is 1 by default."""
        check_named(self.path, tpc)
        maker = FrameMaker(self.path, tpc, options, factor_of(options, self.default_scale))
        for number, raw in enumerate(self._frames(options.tag)):
            yield maker.event(number, raw)

    def peek(self) -> Iterator[Peek]:
        """See ``Source.peek``: frames in the order of the archive, whatever their tags."""
        waiting: dict[tuple[str, str], _Pending] = {}
        masks: dict[str, int] = {}
        for member, read in members(self.path):
            match = MEMBER.fullmatch(member)
            if match is None or match["kind"] == "summary":
                continue
            if match["kind"] == "chanmask":
                masks[match["ident"]] = masks.get(match["ident"], 0) + len(read())
                continue
            key = (match["tag"], match["ident"])
            pending = waiting.setdefault(key, _Pending(int(match["ident"])))
            pending.arrays[match["kind"]] = read()
            if not pending.missing(""):
                yield Peek.of_frame(waiting.pop(key).frame(match["tag"]))
        for ident, rows in masks.items():
            yield Peek(int(ident), "chanmask", remark=f"{rows} rows [channel, first tick, end tick)")

    def _frames(self, tag: str | None) -> Iterator[RawFrame]:
        """Complete events in the order of their first members, with the tag they were found under."""
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
                yield waiting.pop(first.ident).frame(tag if tag is not None else next(iter(tags)))
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
            if kind in pending.arrays:
                raise InputError(f"{self.path}: holds {member} twice. Fix: write the archive again.")
            pending.arrays[kind] = read()
        yield from self._rest(waiting, tag, tags, bool(done))

    def _rest(
        self, waiting: dict[int, _Pending], tag: str | None, tags: dict[str, None], some: bool
    ) -> Iterator[RawFrame]:
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
            yield pending.frame(used)


def _recognises(probe: Probe) -> bool:
    # Listing a tar would read it whole: any is taken for frames unless it starts with deposits.
    if probe.container == "tar":
        return not probe.first_name.startswith("depo_")
    return probe.container == "zip" and any(MEMBER.fullmatch(name) for name in probe.names)


READER = Reader(
    "wirecell", "frames", "a Wire-Cell frame archive (.tar, .tar.gz, .tar.bz2, .npz: frame_<tag>_<ident> …)",
    ARCHIVE_SUFFIXES, _recognises, WireCellSource,
)  # fmt: skip
