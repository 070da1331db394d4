"""Simulation over several processes, a file each: an event depends on (seed, file, event) alone, not on the process."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate


def _one_file(
    out_dir: Path,
    detector: str,
    tpcs: Sequence[int],
    events: int,
    seed: int,
    config: SimulationConfig,
    file: int,
    sample: str,
) -> list[Path]:
    return simulate(out_dir, load_detector(detector), tpcs, 1, events, seed, config, file, sample)


def simulate_files(
    out_dir: Path,
    detector: str,
    tpcs: Sequence[int],
    events: int,
    events_per_file: int,
    seed: int,
    config: SimulationConfig,
    first_file: int = 1,
    sample: str = "Sim",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """As ``simulate`` for ``events`` in all, with files shared among ``workers`` processes (one for each core).

    The last file may hold fewer events; ``progress`` is called with the number of files done.
    """
    files = range(first_file, first_file - (-events // events_per_file))
    count = min(len(files), workers or len(os.sched_getaffinity(0)))
    sizes = dict.fromkeys(files, events_per_file) | {files[-1]: events - (len(files) - 1) * events_per_file}
    paths: dict[int, list[Path]] = {}
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(_one_file, out_dir, detector, tpcs, sizes[file], seed, config, file, sample): file
            for file in files
        }
        try:
            for future in as_completed(futures):
                paths[futures[future]] = future.result()
                if progress is not None:
                    progress(len(paths))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [path for file in files for path in paths[file]]
