"""Simulated events: Wire-Cell frame archives and the true electrons, from a seed or from given deposits."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.errors import ConfigError, InputError
from preprocess.detector.model import Detector, Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.event import SimulatedEvent, event_deposits, read_out_event, simulate_event, truth_of
from preprocess.simulation.particles import Deposits
from preprocess.simulation.response import Response
from preprocess.simulation.write import Frame, write_frames, write_truth

if TYPE_CHECKING:  # readers are loaded by those who use them
    from preprocess.sources.depos import DepoEvent, DepoSource

__all__ = [
    "Deposits",
    "Response",
    "SimulatedEvent",
    "SimulationConfig",
    "read_out_event",
    "responses_of",
    "simulate",
    "simulate_event",
    "truth_of",
]


def simulate(
    out_dir: str | Path,
    detector: Detector,
    tpcs: Sequence[int] = (1,),
    n_files: int = 1,
    events_per_file: int = 1,
    seed: int = 0,
    config: SimulationConfig | None = None,
    first_file: int = 1,
    sample: str = "Sim",
    progress: Callable[[int, int], None] | None = None,
    depos: "Sequence[DepoSource]" = (),
) -> list[Path]:
    """Write ``sim_<sample>_<file>_wire-TPC<n>.tar.gz`` and ``sim_<sample>_<file>_depoElectron-TPC<n>.npz``.

    An event depends on (seed, file, event), the detector, the settings and the set of TPCs (their common
    box, with that of their partners, decides where particles start); not on how many events or files are made. All
    TPCs of an event see the same particles.

    Args:
        out_dir: folder, made if missing. Files of these names are replaced.
        detector, tpcs: where; each TPC needs a drift volume.
        n_files, events_per_file: how many; idents are 0 … events_per_file − 1.
        seed: any whole number from 0.
        config: the numbers, default ``SimulationConfig()``.
        first_file: number of the first file.
        sample: letters and digits, part of the names.
        progress: called with (events done, events in all).
        depos: deposits to read out instead of generated ones: a file of output for each of them, with all its
            events; ``n_files`` and ``events_per_file`` then count for nothing.

    Returns:
        The frame archives, by file, then TPC.

    Raises:
        ConfigError: an argument out of range, a TPC that cannot be simulated.
        InputError: a file of deposits that cannot be read, or that has nothing in any of the TPCs.
    """
    for name, value, least in (
        ("n_files", n_files, 1), ("events_per_file", events_per_file, 1),
        ("seed", seed, 0), ("first_file", first_file, 0),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name} = {value}. Fix: give a whole number from {least}.")
    if not re.fullmatch(r"[A-Za-z0-9]+", sample):
        raise ConfigError(f"sample = {sample!r}. Fix: use letters and digits only.")
    responses = responses_of(detector, tpcs, config or SimulationConfig())
    sizes = [source.n_events for source in depos] if depos else [events_per_file] * n_files
    folder = Path(out_dir)
    with fs.explained(folder, "create the directory"):
        folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    n_all, done = sum(sizes) * len(responses), itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), n_all)

    for index, n_events in enumerate(sizes):
        file = first_file + index
        paths, points = [], 0
        for response in responses:
            if depos:
                events = (_given(event) for event in depos[index].events(response.config))
            else:
                events = (event_deposits(responses, seed, file, event) for event in range(n_events))
            path = folder / f"sim_{sample}_{file}_wire-TPC{response.tpc.number}.tar.gz"
            truth_path = folder / f"sim_{sample}_{file}_depoElectron-TPC{response.tpc.number}.npz"
            points += _write(path, truth_path, response, events, seed, file, tick)
            paths += [path, truth_path]
        if depos and points == 0:
            for path in paths:
                path.unlink()
            raise InputError(
                f"{depos[index].path}: no deposit of its {n_events} events lies in TPC {', '.join(map(str, tpcs))}. "
                "Fix: choose other TPCs, or place the deposits."
            )
        written += paths[::2]
    return written


def responses_of(detector: Detector, tpcs: Sequence[int], config: SimulationConfig) -> list[Response]:
    """Responses of some TPCs of a detector, with the faces that share channels with them.

    Raises:
        ConfigError: no TPC, one named twice or one that cannot be simulated; a dead channel that none of them has.
    """
    if not tpcs or len(set(tpcs)) != len(tpcs):
        raise ConfigError(f"tpcs = {tuple(tpcs)}. Fix: name each TPC once, as in (1, 5, 9).")
    chosen = [detector.tpc(number) for number in tpcs]
    if isinstance(config.dead_channels, tuple):
        missing = np.setdiff1d(config.dead_channels, np.concatenate([tpc.channels for tpc in chosen]))
        if len(missing):
            raise ConfigError(
                f"dead_channels: TPC {', '.join(map(str, tpcs))} of {detector.name} has no channel {missing[0]}. "
                "Fix: list channels of its anode."
            )
    return [Response(tpc, config, detector.partners(tpc)) for tpc in chosen]


def _given(event: "DepoEvent") -> Deposits:
    return Deposits(event.deposits, event.pdg, event.track)


def _write(
    path: Path,
    truth_path: Path,
    response: Response,
    events: Iterable[Deposits],
    seed: int,
    file: int,
    tick: Callable[[], None],
) -> int:
    """Write the frames and the truth of one file and TPC, one event in memory at a time; number of truth points."""
    truths: list[dict[str, npt.NDArray[Any]]] = []

    def frames() -> Iterator[Frame]:
        for event, deposits in enumerate(events):
            made = read_out_event(response, deposits, seed, file, event)
            truths.append(
                {
                    "arr": made.truth,
                    "collected": made.collected,
                    "pdg": made.pdg,
                    "track": made.track,
                    "outside": np.array(made.outside),
                }
            )
            yield _frame(response.tpc, event, made)
            tick()

    write_frames(path, frames())
    write_truth(truth_path, truths)
    return sum(len(truth["arr"]) for truth in truths)


def _frame(tpc: Tpc, event: int, made: SimulatedEvent) -> Frame:
    frame = tpc.frame
    assert frame.tick_us is not None
    assert frame.tick_zero_drift is not None
    start_ns = -frame.tick_zero_drift * frame.tick_us * 1000.0  # time of tick 0
    masks = {"bad": made.bad} if len(made.bad) else {}
    return Frame(event, made.waveform, tpc.channels, start_ns, frame.tick_us * 1000.0, 0, masks)
