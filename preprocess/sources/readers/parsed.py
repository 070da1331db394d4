"""Reader for the research code's "parsed" npz files: ``<head>_<product>-TPC<n>.npz``, one array for every event."""

import re
from collections.abc import Iterator

import numpy as np

from larstore.errors import InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.sources.base import Event, Source, check_size, check_tick, check_waveform, factor_of
from preprocess.sources.frames import check_named
from preprocess.sources.members import read_zip, zip_names
from preprocess.sources.names import parse_name
from preprocess.sources.options import ReadOptions
from preprocess.sources.peek import Peek
from preprocess.sources.registry import Probe, Reader
from preprocess.sources.truth import TruthFile

ELECTRONS_PER_UNIT = 1000.0  # the parser writes recob::Wire values: electrons × 0.001


class ParsedSource(Source):
    """``arr_0 … arr_{events-1}``, each (ticks, channels of one anode), in units of 1000 electrons.

    The products ``wire`` (deconvolved waveforms) and ``hit`` (hits drawn into an equal array) look alike. The file
    labels neither its ticks nor its channels: all channels of the anode, ascending.
    """

    default_scale = ELECTRONS_PER_UNIT

    @property
    def n_events(self) -> int:
        """Number of events; InputError where the arrays are not numbered 0, 1, 2 …"""
        names = zip_names(self.path)
        numbers = sorted(int(name[4:]) for name in names if re.fullmatch(r"arr_\d{1,9}", name))
        if not numbers or numbers != list(range(len(numbers))) or len(numbers) != len(names):
            raise InputError(
                f"{self.path}: holds the arrays {', '.join(names[:5]) or '(none)'}. "
                "Fix: write arr_0, arr_1 … without gaps, one for every event, and nothing else."
            )
        return len(numbers)

    def tpcs(self, detector: Detector) -> list[int]:
        """The TPC that the name ends with; InputError where it names none, or none of this detector."""
        name = parse_name(self.path)
        if name is None or name.tpc not in detector.tpcs:
            valid = ", ".join(str(n) for n in sorted(detector.tpcs))
            raise InputError(
                f"{self.path}: the name holds no TPC of {detector.name}. "
                f"Fix: name it <anything>_<number>_wire-TPC<n>.npz, n one of {valid}."
            )
        return [name.tpc]

    def read(self, tpc: Tpc, options: ReadOptions) -> Iterator[Event]:
        """See ``Source.read``; the scale is 1000 by default, and there are no tags.

        Orientation ``auto`` is (ticks, channels); ``missing_channels`` has no say, since nothing tells which are.
        """
        factor = np.float32(factor_of(options, self.default_scale))
        if options.tag is not None:
            raise InputError(f"{self.path}: parsed npz files have no tags (got {options.tag!r}). Fix: leave it out.")
        check_named(self.path, tpc)
        check_tick(self.path, tpc, None, options)
        truth_file = TruthFile(self.path, tpc.number, options.truth)
        n_channels = len(tpc.channels)
        for event in range(self.n_events):
            values = read_zip(self.path, f"arr_{event}")
            rows = values.T if options.orientation == "channels_first" else values
            if rows.ndim != 2 or rows.shape[1] != n_channels:
                raise InputError(
                    f"{self.path}: arr_{event} has shape {values.shape}, but TPC {tpc.number} of {tpc.detector} has "
                    f"{n_channels} channels. Fix: write (ticks, {n_channels}), or choose its detector."
                )
            check_size(self.path, event, len(rows), n_channels)
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                waveform = np.asarray(rows, np.float32)  # in its order: tiling takes both
                waveform *= factor  # in place: the array is ours
            check_waveform(self.path, event, waveform)
            truth = truth_file.read(event)
            more = {} if truth is None else truth_file.columns(event, len(truth))
            yield Event(event, waveform, truth=truth, truth_columns=more, notes=truth_file.notes())

    def peek(self) -> Iterator[Peek]:
        """See ``Source.peek``: the arrays in their order."""
        name = parse_name(self.path)
        for event in range(self.n_events):
            values = read_zip(self.path, f"arr_{event}")
            yield Peek(event, "arr" if name is None else name.product, values.T if values.ndim == 2 else values)


def _recognises(probe: Probe) -> bool:
    return probe.container == "zip" and any(name.startswith("arr_") for name in probe.names)


READER = Reader(
    "parsed", "frames", "parsed npz (arr_0, arr_1 …, (ticks, channels) each)", (".npz",), _recognises, ParsedSource
)
