"""How the time of tiling grows with the number of active pixels: from one faint track to crossings everywhere."""

from pathlib import Path

import numpy as np

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.side_by_side import side_by_side

MUONS = 16.0  # mean of a simulated event
EVENTS = 6
THRESHOLD = 1000.0
# Parts of the simulated events that are laid over each other: ticks of one event, then whole events.
PARTS = (0.01, 0.03, 0.1, 0.3, 1, 2, 3, 4, 6)


def growth(folder: Path, figure: Path | None) -> tuple[str, float]:
    """A markdown table, and the exponent of a power law fitted to time less that of a dark waveform."""
    detector = load_detector("protodune-sp")
    tiler = Tiler(detector.tpc(1))
    config = SimulationConfig(muons=MUONS)
    paths = simulate(folder / "growth", detector, events_per_file=EVENTS, seed=3, config=config)
    waveforms = [event.waveform for path in paths for event in open_source(Path(path)).events(tiler.tpc)]
    nothing = np.zeros_like(waveforms[0])
    dark = side_by_side({"": lambda: tiler(nothing, THRESHOLD)}, rounds=9)[""]
    rows = []
    for part in PARTS:
        waveform = np.sum(waveforms[: max(1, int(part))], axis=0)
        if part < 1:
            waveform[int(part * len(waveform)) :] = 0.0
        pixels = len(tiler(waveform, THRESHOLD, (1, 1, 1)))
        voxels = len(tiler(waveform, THRESHOLD))
        seconds = side_by_side({"": lambda w=waveform: tiler(w, THRESHOLD)}, rounds=9 if pixels < 1e7 else 3)[""]
        rows.append((pixels, voxels, seconds))
    pixels, _, seconds = np.array(rows).T
    slope, start = np.polyfit(np.log(pixels), np.log(seconds - dark), 1)
    if figure is not None:
        _draw(figure, pixels, seconds, dark, lambda n: np.exp(start) * n**slope)
    lines = ["| active pixels | voxels | ms | ns a pixel, less the dark waveform |", "|---|---|---|---|"]
    lines += [f"| {n:,} | {v:,} | {t * 1e3:.1f} | {(t - dark) / n * 1e9:.1f} |" for n, v, t in rows]
    return "\n".join([*lines, f"| 0 | 0 | {dark * 1e3:.1f} | |"]), float(slope)


def _draw(figure: Path, pixels, seconds, dark: float, law) -> None:
    from matplotlib.figure import Figure  # a development tool, not needed to print the table

    drawing = Figure(figsize=(7, 4.5), layout="tight")
    axes = drawing.subplots()
    axes.loglog(pixels, seconds, "o", label="one thread")
    axes.loglog(pixels, law(pixels) + dark, "-", label="dark waveform + power law")
    axes.axhline(dark, linestyle=":", color="grey", label="dark waveform")
    axes.set(xlabel="active pixels (2 mm × 2 mm × tick)", ylabel="seconds")
    axes.legend()
    drawing.savefig(figure, dpi=110)
