"""Tiling beside the least it can take, a whole unit beside np.load, the first call, and growth up to 10^8 pixels.

python -m tests.benchmarks.bench_tiling [--docs docs]     the docs' table and figure are what this writes
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import larstore
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.side_by_side import machine_line, markdown, side_by_side
from tests.benchmarks.tiling_floor import Floor
from tests.benchmarks.tiling_growth import growth

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
RULE = {"threshold": 1e-3, "min_live_planes": 1}  # of the golden results
FIRST_CALL = """
import time
import numpy as np
from preprocess import Tiler, load_detector
tiler = Tiler(load_detector("protodune-sp").tpc(1))
waveform = np.zeros((6000, 2560), np.float32)
start = time.perf_counter()
tiler(waveform)
print(time.perf_counter() - start)
"""


def events(folder: Path) -> Iterator[tuple[str, Tiler, np.ndarray, dict]]:
    """Name, tiler, waveform and settings of each event."""
    golden = Tiler(load_detector("protodune-sp-2021").tpc(1))
    for sample, name in (("singleMu_101", "golden muon"), ("BeamCosmic_201", "golden cosmic")):
        with np.load(GOLDEN / f"reco_{sample}_wire-TPC1.npz") as file:
            yield name, golden, file["arr_1"], RULE
    detector = load_detector("protodune-sp")
    tiler = Tiler(detector.tpc(1))
    for muons, threshold in ((2.0, 2000.0), (15.0, 300.0), (120.0, 300.0)):
        (path,) = simulate(folder / str(muons), detector, seed=1, config=SimulationConfig(muons=muons))
        (event,) = open_source(Path(path)).events(tiler.tpc)
        yield f"{muons:.0f} simulated muons, {threshold:.0f} e", tiler, event.waveform, {"threshold": threshold}


def tiling_rows(folder: Path) -> Iterator[list[str]]:
    """Tiling beside its floor, one and two threads."""
    for name, tiler, waveform, settings in events(folder):
        voxels = tiler(waveform, **settings)
        floor = Floor(tiler, waveform, voxels, **settings)
        alternatives = {"pass": floor.find_lit, "adds": floor.scatter}
        for threads in (1, 2):
            alternatives[f"floor {threads}"] = partial(floor, threads)
            alternatives[f"tile {threads}"] = partial(tiler, waveform, threads=threads, **settings)
        seconds = side_by_side(alternatives, rounds=7)
        alone = side_by_side({name: alternatives[name] for name in ("tile 1", "tile 2")}, rounds=9)
        assert np.allclose(floor.charge, voxels.charge, rtol=1e-5, atol=1e-5 * np.abs(voxels.charge).max())
        rest = seconds["tile 1"] - seconds["pass"]
        yield [
            name,
            f"{voxels.lit_samples:,}",
            f"{len(voxels):,}",
            f"{floor.n:,}",
            f"{waveform.nbytes / seconds['pass'] / 1e9:.1f}",
            f"{seconds['adds'] / floor.n * 1e9:.2f}",
            f"{rest / floor.n * 1e9:.2f}",
            *(
                f"{seconds[f'tile {n}'] * 1e3:.1f} / {seconds[f'floor {n}'] * 1e3:.1f} = "
                f"**{seconds[f'tile {n}'] / seconds[f'floor {n}']:.2f}**"
                for n in (1, 2)
            ),
            f"{alone['tile 1'] / alone['tile 2']:.2f}",
        ]


def unit_rows(folder: Path) -> Iterator[list[str]]:
    """A whole unit (open, inflate, tile, truth, compress, write) beside np.load of its input."""
    detector = load_detector("protodune-sp-2021")
    geometry = detector.geometry()
    for sample in ("singleMu_101", "BeamCosmic_201"):
        for product in ("wire", "depoElectron"):
            shutil.copy(GOLDEN / f"reco_{sample}_{product}-TPC1.npz", folder)
        path = folder / f"reco_{sample}_wire-TPC1.npz"
        store = folder / f"{sample}.zarr"
        config = RunConfig(inputs=(str(path),), output=store, detector=detector.name, min_live_planes=1)
        unit = Unit(str(path), 1, 1, path.stat().st_size)
        larstore.create(store, geometry=geometry, downsample=(8, 4, 4), provenance={}, planes=["u", "v", "w"])
        with larstore.StoreWriter(store) as writer:

            def whole(unit=unit, config=config, store=store, writer=writer) -> None:
                result = process_unit(unit, config, geometry.hash)
                larstore.write_block(str(store), writer.reserve(1), result.images, result.inputs)

            def load(path=path) -> None:
                with np.load(path) as file:
                    for name in file.files:
                        file[name]

            seconds = side_by_side({"unit": whole, "load": load})
        ratio = seconds["unit"] / seconds["load"]
        yield [sample, f"{seconds['unit'] * 1e3:.0f}", f"{seconds['load'] * 1e3:.0f}", f"**{ratio:.2f}**"]


def first_call() -> float:
    """Seconds of the first call in a new process: kernels and areas come from the caches on disk."""
    runs = [subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True)
            for _ in range(4)]  # fmt: skip
    return float(np.median([float(run.stdout) for run in runs[1:]]))


def main() -> None:
    """Print the page, or write it with its figure to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for tiling-speed.md and tiling-growth.png")
    docs = parser.parse_args().docs
    started = time.strftime("%Y-%m-%d")
    memory = Path("/dev/shm")  # the bars are for a file system in memory
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        tiling = markdown(
            ["event", "lit samples", "voxels", "contributions", "pass, GB/s", "adds, ns each",
             "tiling less pass, ns each", "1 thread: ms / floor", "2 threads: ms / floor", "1 → 2 threads"],
            list(tiling_rows(Path(folder))),
        )  # fmt: skip
        units = markdown(["input", "unit, ms", "np.load, ms", "ratio"], list(unit_rows(Path(folder))))
        grown, slope = growth(Path(folder), None if docs is None else docs / "tiling-growth.png")
    page = f"""# How fast tiling is

Written by `python -m tests.benchmarks.bench_tiling --docs docs` on {started}:
{machine_line("numba", "isal")}.

**The floor** is one pass over the waveform for lit samples, and one scattered multiply-add for each contribution: an
(active pixel, plane, channel) with an area. Both are the simplest numba loop over the same numbers, which are given to
it. Tiling has to find out which pixels are active, and each channel's overlap with them, before it can add anything.
All in turns in one run; medians. The last column is of one and two threads in turns by themselves.

{tiling}

**A whole unit**: open, inflate, tile, voxelise truth, sort, compress, write durably; input and store are in memory.
Beside it `np.load` of the input alone:

{units}

**The first call** in a new process, with the kernels and pixel areas in their caches on disk, takes
{first_call():.2f} s; most of it is numba's own start.

**Growth**: from the first 30 ticks of a simulated event to ten events laid over each other. A power law fitted to the
time less that of a dark waveform, against active pixels, has the exponent {slope:.2f}.

{grown}

![Time against active pixels](tiling-growth.png)
"""
    if docs is None:
        print(page)
    else:
        (docs / "tiling-speed.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
