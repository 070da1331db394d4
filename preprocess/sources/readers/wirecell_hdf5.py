"""Reader for Wire-Cell frames in HDF5 (``HDF5FrameTap``): ``/<ident>/{frame,channels,tickinfo}_<tag>``."""

import re
from collections.abc import Iterator

import h5py
import numpy as np

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, Source, factor_of
from preprocess.sources.frames import FrameMaker, RawFrame, check_named, named_tpc, tpcs_of
from preprocess.sources.hdf5 import dataset, open_hdf5, read, subgroup
from preprocess.sources.names import HDF5_SUFFIXES
from preprocess.sources.options import ReadOptions
from preprocess.sources.peek import Peek
from preprocess.sources.registry import Probe, Reader

IDENT = re.compile(r"\d{1,18}")


class WireCellHdf5Source(Source):
    """A group for each event, named by its ident; events are in the order of these numbers.

    Values are electrons unless the writer scaled them (its ``scale``): the option scale undoes that.
    """

    @property
    def n_events(self) -> int:
        """Number of event groups."""
        with open_hdf5(self.path) as file:
            return len(self._idents(file))

    def tpcs(self, detector: Detector) -> list[int]:
        """The TPC in the file's name, else the live ones of the anode that the first frame's channels belong to."""
        named = named_tpc(self.path, detector)
        if named is not None:
            return [named]
        with open_hdf5(self.path) as file:
            group = subgroup(self.path, file, self._idents(file)[0])
            name = f"channels_{self._tags(group)[0]}"
            return tpcs_of(self.path, detector, name, read(self.path, dataset(self.path, group, name)))

    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """See ``Source.read``; the scale is 1 by default."""
        check_named(self.path, tpc)
        maker = FrameMaker(self.path, tpc, options, factor_of(options, self.default_scale))
        with open_hdf5(self.path) as file:
            idents = self._idents(file)
        for number, ident in enumerate(idents):
            # Opened for each event: the consumer's own errors must not pass through here.
            with open_hdf5(self.path) as file:
                raw = self._frame(subgroup(self.path, file, ident), options.tag)
            yield maker.event(number, raw)

    def peek(self) -> Iterator[Peek]:
        """See ``Source.peek``: every array ``frame_<tag>``, event by event."""
        with open_hdf5(self.path) as file:
            idents = self._idents(file)
        for ident in idents:
            with open_hdf5(self.path) as file:
                tags = self._all_tags(subgroup(self.path, file, ident))
            for tag, complete in tags.items():
                if not complete:
                    yield Peek(int(ident), tag, remark="has no channels or no tickinfo: not a frame")
                    continue
                with open_hdf5(self.path) as file:
                    raw = self._frame(subgroup(self.path, file, ident), tag)
                yield Peek.of_frame(raw)

    def _idents(self, file: h5py.File) -> list[str]:
        idents = sorted((name for name in file if IDENT.fullmatch(name)), key=int)
        if not idents:
            raise InputError(f"{self.path}: has no group <ident> with frame_<tag>. Fix: give Wire-Cell frames in HDF5.")
        return idents

    def _all_tags(self, group: h5py.Group) -> dict[str, bool]:
        """The tags of a group's frames, and whether their channels and tickinfo are there as well."""
        tags = [name.removeprefix("frame_") for name in group if name.startswith("frame_")]
        return {tag: f"channels_{tag}" in group and f"tickinfo_{tag}" in group for tag in tags}

    def _tags(self, group: h5py.Group) -> list[str]:
        """The tags of a group's complete frames."""
        found = self._all_tags(group)
        tags = [tag for tag, complete in found.items() if complete]
        if not tags:
            kinds = "no frame_<tag>" if not found else f"no channels or tickinfo for frame_{next(iter(found))}"
            raise InputError(f"{self.path}: {group.name} has {kinds}. Fix: give Wire-Cell frames in HDF5.")
        return tags

    def _frame(self, group: h5py.Group, tag: str | None) -> RawFrame:
        tags = self._tags(group)
        if tag is None and len(tags) > 1:
            raise InputError(
                f"{self.path}: holds frames of several tags ({', '.join(tags)}). Fix: choose one with the option tag."
            )
        if tag is not None and tag not in tags:
            raise InputError(
                f"{self.path}: {group.name} has no frames of the tag {tag!r}. Fix: choose one of {', '.join(tags)}."
            )
        used = tags[0] if tag is None else tag
        frame, channels, tickinfo = (
            np.asarray(read(self.path, dataset(self.path, group, f"{kind}_{used}")))
            for kind in ("frame", "channels", "tickinfo")
        )
        masks = [read(self.path, dataset(self.path, group, name)) for name in group if name.startswith("chanmask_")]
        return RawFrame(int(group.name.strip("/")), used, frame, channels, tickinfo, masks)


def _recognises(probe: Probe) -> bool:
    if probe.container != "hdf5" or not probe.names or not any(IDENT.fullmatch(name) for name in probe.names):
        return False
    with open_hdf5(probe.path) as file:
        first = next(name for name in file if IDENT.fullmatch(name))
        return any(name.startswith("frame_") for name in subgroup(probe.path, file, first))


READER = Reader(
    "wirecell-hdf5", "frames", "Wire-Cell frames in HDF5 (.h5, .hdf5: /<ident>/frame_<tag> …)",
    HDF5_SUFFIXES, _recognises, WireCellHdf5Source,
)  # fmt: skip
