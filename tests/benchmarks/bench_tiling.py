"""Tiling of simulated events, beside reading the same events from their file and one pass over the waveform."""

import tempfile
from pathlib import Path

import numpy as np

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.side_by_side import machine_line, print_table, side_by_side


def main() -> None:
    """Print a table for an event of few and one of many particles."""
    print(machine_line("numba"))
    detector = load_detector("protodune-sp")
    tpc = detector.tpc(1)
    tiler = Tiler(tpc)
    for muons, threshold in ((2.0, 2000.0), (15.0, 300.0)):
        with tempfile.TemporaryDirectory() as folder:
            (path,) = simulate(folder, detector, seed=1, config=SimulationConfig(muons=muons))
            (event,) = open_source(Path(path)).events(tpc)
            waveform = event.waveform
            voxels = tiler(waveform, threshold)
            seconds = side_by_side(
                {
                    "tile": lambda w=waveform, t=threshold: tiler(w, t),
                    "read the file": lambda p=path: list(open_source(p).events(tpc)),
                    "one pass: count lit samples": lambda w=waveform, t=threshold: np.count_nonzero(w > t),
                }
            )
        print_table(
            f"{muons:.0f} muons, {threshold:.0f} e: {voxels.lit_samples:,} lit samples, {len(voxels):,} voxels",
            seconds,
            "one pass: count lit samples",
        )


if __name__ == "__main__":
    main()
