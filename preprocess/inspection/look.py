"""The inspection itself: finds the reader, and looks at the first events of its file."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.detector import Detector
from preprocess.inspection.charge import region_charges, typical_charge
from preprocess.inspection.fits import built_in, collection_rows, fits_of
from preprocess.inspection.judge import chosen_fit, command, judge
from preprocess.inspection.model import Fit, Inspection, Waveforms
from preprocess.inspection.other import depos, is_truth, research_image, truth_points, unknown_hdf5
from preprocess.sources import Source
from preprocess.sources.names import parse_name
from preprocess.sources.peek import Peek
from preprocess.sources.registry import Reader, known_readers, probe

Floats = npt.NDArray[np.float64]
MOST_SAMPLES = 300_000_000  # looked at; more events than that tell nothing new


def inspect(path: str | Path, n_events: int = 10) -> Inspection:
    """What is in a file, which built-in detectors it fits, which options read it, and what looks wrong.

    Args:
        path: a file of any format that a reader knows.
        n_events: look at so many events at most.

    Raises:
        InputError: no such file, a damaged one, or one of no known format.
    """
    place = Path(path)
    found = probe(place)
    for reader in known_readers():
        if reader.recognises(found):
            source = reader.open(place)
            if not isinstance(source, Source):
                return depos(reader, source, n_events)
            return truth_points(source) if is_truth(source) else _frames(reader, source, n_events)
    if found.container == "hdf5":
        return unknown_hdf5(place)
    if found.container == "zip" and {"X", "starts"} <= set(found.names):
        return research_image(place)
    known = "; ".join(reader.what for reader in known_readers())
    raise InputError(f"{place}: is of no known format. Fix: give one of: {known}.")


def _frames(reader: Reader, source: Source, n_events: int) -> Inspection:
    result = Inspection(source.path, "frames", reader.what, source.n_events, scale=source.default_scale)
    name = parse_name(source.path)
    result.product, result.named_tpc = ("", None) if name is None else (name.product, name.tpc)
    detectors, remarks = built_in()
    looking = _Look(result, detectors)
    for peek in source.peek():
        if looking.done(n_events) and peek.values is not None:
            break
        looking.add(peek)
    result.remarks += remarks
    looking.finish()
    judge(result, detectors)
    result.command = command(result)
    return result


class _Look:
    """Collects what the peeks tell; one array is in memory at a time."""

    def __init__(self, result: Inspection, detectors: list[Detector]) -> None:
        self.result, self.detectors = result, detectors
        self.found: dict[str, Waveforms] = {}
        self.charges: dict[str, list[Floats]] = {}
        self.remarks: Counter[str] = Counter()
        self.samples = 0

    def done(self, n_events: int) -> bool:
        """Whether enough has been looked at: all tags of the last event are complete."""
        seen = [each.n_events for each in self.found.values()]
        return bool(seen) and min(seen) == max(seen) and (max(seen) >= n_events or self.samples > MOST_SAMPLES)

    def add(self, peek: Peek) -> None:
        if peek.values is None:
            self.remarks[f"{peek.name}: {peek.remark}"] += 1
            return
        if peek.values.ndim == 2 and not self.result.fits:
            self.result.fits = _ordered(fits_of(peek, self.detectors, self.result.named_tpc), self.result.path)
        found = self.found.setdefault(peek.name, Waveforms(peek.name, dtype=str(peek.values.dtype)))
        self._numbers(found, peek)
        self.samples += peek.values.size
        if peek.values.ndim == 2:
            rows = self._collection(peek)
            above = 1.0 / self.result.scale
            if len(rows):
                self.charges.setdefault(peek.name, []).append(region_charges(peek.values[rows], above))

    def finish(self) -> None:
        self.result.waveforms = list(self.found.values())
        self.result.n_looked_at = max((each.n_events for each in self.found.values()), default=0)
        self.result.remarks += [f"{text} ({n} events)" if n > 1 else text for text, n in self.remarks.items()]
        for name, parts in self.charges.items():
            charges = np.concatenate(parts)
            self.found[name].charge, self.found[name].n_regions = typical_charge(charges), len(charges)

    def _collection(self, peek: Peek) -> npt.NDArray[np.int64]:
        fit = chosen_fit(self.result)
        detector = None if fit is None else next(each for each in self.detectors if each.name == fit.detector)
        return collection_rows(peek, detector, [] if fit is None else fit.tpcs)

    def _numbers(self, found: Waveforms, peek: Peek) -> None:
        values = np.asarray(peek.values)
        if found.n_events == 0:
            found.first_tick = peek.first_tick
            if peek.channels is not None and len(peek.channels):
                found.channels = (int(np.min(peek.channels)), int(np.max(peek.channels)), len(peek.channels))
            found.spread = _spread(values)
        found.n_events += 1
        if values.shape not in found.shapes:
            found.shapes.append(values.shape)
        if peek.tick_us is not None and peek.tick_us not in found.tick_us:
            found.tick_us.append(peek.tick_us)
        found.transposed |= peek.transposed
        found.ambiguous |= peek.ambiguous
        with np.errstate(invalid="ignore", over="ignore"):  # ∞ − ∞
            whole = bool(np.isfinite(values.sum(dtype=np.float64)))
        finite = values if whole else values[np.isfinite(values)]
        found.n_bad += values.size - finite.size
        found.n_samples += values.size
        if finite.size:
            found.low, found.high = min(found.low, float(finite.min())), max(found.high, float(finite.max()))
            found.total += float(finite.sum(dtype=np.float64))
            found.n_lit += int(np.count_nonzero(finite > 1.0 / self.result.scale))


def _spread(values: npt.NDArray[np.generic]) -> float:
    """1.4826 × median of |value − median|, the standard deviation of noise whatever the signals, of ~10⁶ samples."""
    sample = values.ravel()[:: max(1, values.size // 1_000_000)]
    finite = sample[np.isfinite(sample)].astype(np.float64)
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if len(finite) else 0.0


def _ordered(fits: list[Fit], path: Path) -> list[Fit]:
    """Complete fits first; among them those whose name is in the file's, as protodune-hd or pdhd."""
    plain = path.name.lower().replace("-", "").replace("_", "")

    def is_named(fit: Fit) -> bool:
        name = fit.detector.replace("-", "")
        return name in plain or name.replace("protodune", "pd") in plain

    for fit in fits:
        fit.named = is_named(fit)
    return sorted(fits, key=lambda fit: (not fit.complete, not fit.named))
