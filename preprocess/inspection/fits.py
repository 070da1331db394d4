"""Which built-in detectors a file's channels go with."""

from functools import cache

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector import Detector, Tpc, detector_names, load_detector
from preprocess.inspection.model import Fit
from preprocess.sources.frames import channel_counts
from preprocess.sources.peek import Peek


def built_in() -> tuple[list[Detector], list[str]]:
    """The built-in detectors whose wires are at hand, and a remark for the others."""
    loaded = {name: _loaded(name) for name in detector_names()}
    found = [detector for detector in loaded.values() if detector is not None]
    missing = [name for name, detector in loaded.items() if detector is None]
    hint = "their wires file is not at hand, see LARSTORE_WIRES_PATH"
    return found, [f"not compared with {', '.join(missing)}: {hint}"] if missing else []


@cache
def _loaded(name: str) -> Detector | None:
    # Once a process: several files are inspected one after another.
    try:
        return load_detector(name)
    except ConfigError:
        return None


def fits_of(peek: Peek, detectors: list[Detector], named_tpc: int | None) -> list[Fit]:
    """How a file's channels go with each detector, by name; ``named_tpc``: the TPC that the file's name tells."""
    fits = [_fit(peek, detector) for detector in detectors]
    for fit, detector in zip(fits, detectors, strict=True):
        if named_tpc is not None and fit.complete:
            fit.tpcs = [named_tpc] if named_tpc in detector.tpcs else []
            fit.complete = bool(fit.tpcs)
    return fits


def collection_rows(peek: Peek, detector: Detector | None, tpcs: list[int]) -> npt.NDArray[np.int64]:
    """The rows of a peek's values that are channels of collection planes; none where that is not known."""
    if peek.plane is not None:
        return np.flatnonzero(np.asarray(peek.plane) == np.max(peek.plane, initial=-1))
    if detector is None or peek.values is None:
        return np.empty(0, np.int64)
    anodes = {detector.tpcs[number].anode for number in tpcs}
    faces = [tpc for tpc in detector.tpcs.values() if tpc.anode in anodes]
    collecting = np.unique(np.concatenate([tpc.planes[-1].channel for tpc in faces]))
    channels = faces[0].channels if peek.channels is None else np.asarray(peek.channels)
    return np.flatnonzero(np.isin(channels[: len(peek.values)], collecting))


def _fit(peek: Peek, detector: Detector) -> Fit:
    if peek.values is None or peek.values.ndim != 2:
        return Fit(detector.name, [], "no (channels, ticks) to compare", False)
    n = len(peek.values)
    if peek.channels is not None:
        return _fit_channels(np.asarray(peek.channels), detector)
    if peek.plane is not None:
        return _fit_planes(np.asarray(peek.plane), detector)
    same = [number for number, tpc in detector.tpcs.items() if len(tpc.channels) == n and tpc.live]
    counts = f"{n}/{len(next(iter(detector.tpcs.values())).channels)} channels, not numbered"
    return Fit(detector.name, same, counts, bool(same))


def _fit_channels(channels: npt.NDArray[np.generic], detector: Detector) -> Fit:
    fitting = [tpc for tpc in detector.tpcs.values() if np.isin(channels, tpc.channels).all()]
    if not fitting:
        return Fit(detector.name, [], "channels are not those of one anode", False)
    shown = sorted([tpc for tpc in fitting if tpc.live] or fitting, key=lambda tpc: tpc.number)
    counts = channel_counts(shown[0], np.searchsorted(shown[0].channels, channels))
    complete = len(np.unique(channels)) == len(shown[0].channels) == len(channels)
    return Fit(detector.name, [tpc.number for tpc in shown], counts, complete)


def _fit_planes(plane: npt.NDArray[np.generic], detector: Detector) -> Fit:
    tpc: Tpc = next(iter(detector.tpcs.values()))
    wanted = [len(np.unique(each.channel)) for each in tpc.planes]
    found = [int((plane == index).sum()) for index in range(len(wanted))]
    names = [each.name for each in tpc.planes]
    counts = ", ".join(f"{name} {n}/{m}" for name, n, m in zip(names, found, wanted, strict=True))
    live = [number for number, each in detector.tpcs.items() if each.live]
    complete = found == wanted and sum(found) == len(plane)
    return Fit(detector.name, live if complete else [], counts, complete)
