"""A closure test from its settings to its page and tables."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import yaml

from larstore.errors import ConfigError, StoreError
from preprocess.closure.events import TRACKS, Given, depo_events, single_muon, single_muons, whole_events
from preprocess.closure.page import closure_page
from preprocess.closure.pictures import tracks_figure
from preprocess.closure.responses import response
from preprocess.closure.rows import Bench, Row, tiled_rows, voxel_cm
from preprocess.closure.table import events_table, pooled, write_csv
from preprocess.detector import load_detector
from preprocess.progress import bar
from preprocess.simulation.config import SimulationConfig

NOISE_FREE = ("none", "diffusion", "smear")


@dataclass(frozen=True)
class Closure:
    """A finished closure test: the pooled table (see ``table.pooled``), names of the planes, files written."""

    table: pd.DataFrame
    planes: tuple[str, ...]
    written: tuple[Path, ...]


def closure(
    output: str | Path,
    *,
    detector: str | Path = "protodune-sp",
    tpcs: Sequence[int] = (1,),
    tracks: int = 60,
    events: int = 2,
    depos: Sequence[Path] = (),
    config: SimulationConfig | None = None,
    noise_free: bool = False,
    thresholds: Sequence[float] = (1.0,),
    dead: Sequence[float] = (0.0, 0.05),
    seed: int = 0,
    command: str = "",
) -> Closure:
    """Run a closure test and write ``closure.html``, ``closure.csv`` and ``closure-events.csv``.

    Args:
        output: folder, made if missing.
        detector: name or path.
        tpcs: their events are pooled.
        tracks, events: single muons and whole events in each TPC.
        depos: files of deposits; the first ``events`` of each take the place of generated whole events.
        config: the response and the particles, default ``SimulationConfig()``.
        noise_free: responses none, diffusion and smear instead of ``config``'s own (see ``responses``).
        thresholds: electrons a tick above which a sample is lit.
        dead: fractions of dead channels.
        seed: of everything.
        command: shown on the page.

    Raises:
        ConfigError: a setting out of range, nothing to simulate, a TPC that cannot be simulated.
        InputError: a file of deposits that cannot be read.
        StoreError: the output cannot be written.
    """
    _check(tpcs, tracks, events, depos, thresholds, dead)
    settings = config or SimulationConfig()
    responses = {name: response(name, settings) for name in (NOISE_FREE if noise_free else ("default",))}
    built = load_detector(detector)
    planes = tuple(plane.name for plane in built.tpc(tpcs[0]).planes)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}. Fix: another output folder.") from error
    benches = [Bench(built, number, responses, seed) for number in tpcs]
    rows: list[Row] = []
    with bar("closure", len(tpcs) * (tracks + events * max(1, len(depos))), "events") as advance:
        done = count(1)

        def one_more() -> None:
            advance(next(done))

        for bench in benches:
            given = _given(bench, tracks, events, depos, seed, settings)
            rows += tiled_rows(bench, given, thresholds, dead, one_more)
    table = pooled(rows, planes)
    name = f"{built.name}, TPC {', '.join(map(str, tpcs))}"
    text = f"{command}\n\n{yaml.safe_dump(settings.model_dump(mode='json'), sort_keys=False)}".lstrip()
    picture = _picture(benches[0], rows, thresholds[0], settings)
    written = (
        closure_page(name, table, planes, text, picture).write(folder / "closure.html"),
        write_csv(table, folder / "closure.csv"),
        write_csv(events_table(rows, planes), folder / "closure-events.csv"),
    )
    return Closure(table, planes, written)


def _given(
    bench: Bench, tracks: int, events: int, depos: Sequence[Path], seed: int, config: SimulationConfig
) -> Iterator[Given]:
    return chain(
        single_muons(bench.tpc, tracks, seed, config),
        depo_events(depos, events, config) if depos else whole_events(bench.first, events, seed),
    )


def _picture(bench: Bench, rows: Sequence[Row], threshold: float, config: SimulationConfig) -> go.Figure | None:
    """The flattest, the middle and the steepest single muon of a TPC, without dead channels; None without muons."""
    muons_seen = [row for row in rows if row.tpc == bench.tpc.number and row.sample == TRACKS]
    angle = {row.number: float(row.theta_xz.max()) for row in muons_seen}
    order = sorted(angle, key=lambda number: angle[number])
    if not order:
        return None
    chosen = list(dict.fromkeys((order[0], order[len(order) // 2], order[-1])))
    muons = [single_muon(bench.tpc, number, bench.seed, config) for number in chosen]
    # The last response: the one with the most in it.
    made = [list(bench.read_outs(muon, [threshold], [0.0]))[-1] for muon in muons]
    titles = [f"largest θ_xz {angle[number]:.0f}°" for number in chosen]
    return tracks_figure(made, titles, voxel_cm(bench.tpc))


def _check(
    tpcs: Sequence[int], tracks: int, events: int, depos: Sequence[Path], thresholds: Sequence[float],
    dead: Sequence[float],
) -> None:  # fmt: skip
    if not tpcs or len(set(tpcs)) != len(tpcs):
        raise ConfigError(f"tpcs = {tuple(tpcs)}. Fix: name each TPC once, as in (1, 5).")
    if tracks + events < 1 or tracks < 0 or events < 0:
        raise ConfigError(f"{tracks} tracks and {events} events: nothing to simulate. Fix: give one of them from 1.")
    if depos and not events:
        raise ConfigError(f"0 events of {depos[0]}. Fix: give --events from 1.")
    if not thresholds or not all(math.isfinite(value) for value in thresholds):
        raise ConfigError(f"thresholds = {tuple(thresholds)}. Fix: give finite electrons a tick.")
    if not dead or not all(0 <= value < 1 for value in dead):
        raise ConfigError(f"dead = {tuple(dead)}. Fix: give fractions from 0 and below 1.")
