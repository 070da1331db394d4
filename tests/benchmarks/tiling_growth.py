"""How the time of tiling grows with the number of active pixels: from one faint track to crossings everywhere."""

from functools import partial
from pathlib import Path

import numpy as np

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.side_by_side import side_by_side

MUONS = 16.0  # mean of a simulated event
EVENTS = 10
THRESHOLD = 300.0
# Parts of the simulated events: so much of the ticks of one, then so many laid over each other.
PARTS = (0.005, 0.01, 0.03, 0.1, 0.3, 1, 2, 4, 7, 10)


def growth(folder: Path, figure: Path | None) -> tuple[str, float]:
    """A markdown table, and the exponent of a power law fitted to time less that of a dark waveform of that length."""
    detector = load_detector("protodune-sp")
    tiler = Tiler(detector.tpc(1))
    config = SimulationConfig(muons=MUONS)
    paths = simulate(folder / "growth", detector, events_per_file=EVENTS, seed=3, config=config)
    waveforms = [event.waveform for path in paths for event in open_source(Path(path)).events(tiler.tpc)]
    rows = []
    for part in PARTS:
        waveform = np.sum(waveforms[: max(1, int(part))], axis=0)
        waveform = np.ascontiguousarray(waveform[: max(1, int(part * len(waveform)))])
        dark = np.zeros_like(waveform)
        pixels = len(tiler(waveform, THRESHOLD, (1, 1, 1)))
        seconds = side_by_side(
            {"tile": partial(tiler, waveform, THRESHOLD), "dark": partial(tiler, dark, THRESHOLD)},
            rounds=25 if pixels < 1e6 else 7 if pixels < 3e7 else 3,
        )
        rows.append((len(waveform), pixels, len(tiler(waveform, THRESHOLD)), seconds["tile"], seconds["dark"]))
    _, pixels, _, seconds, dark = np.array(rows).T
    slope, start = np.polyfit(np.log(pixels), np.log(seconds - dark), 1)
    if figure is not None:
        _draw(figure, pixels, seconds - dark, lambda n: np.exp(start) * n**slope)
    lines = ["| ticks | active pixels | voxels | ms | ms, dark | ns a pixel, less dark |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {ticks:,} | {n:,} | {v:,} | {t * 1e3:.2f} | {d * 1e3:.2f} | {(t - d) / n * 1e9:.1f} |"
        for ticks, n, v, t, d in rows
    ]
    return "\n".join(lines), float(slope)


def _draw(figure: Path, pixels, seconds, law) -> None:
    from matplotlib.figure import Figure  # a development tool, not needed to print the table

    drawing = Figure(figsize=(7, 4.5), layout="tight")
    axes = drawing.subplots()
    axes.loglog(pixels, seconds, "o", label="one thread")
    axes.loglog(pixels, law(pixels), "-", label="power law")
    axes.set(xlabel="active pixels (2 mm × 2 mm × tick)", ylabel="seconds, less those of a dark waveform")
    axes.legend()
    drawing.savefig(figure, dpi=110)
