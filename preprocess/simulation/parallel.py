"""Simulation over several processes, a file each: an event depends on (seed, file, event) alone, not on the process."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from larstore.cores import cores
from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate

if TYPE_CHECKING:
    from preprocess.sources.depos import Place


def _one_file(
    out_dir: Path,
    detector: str,
    tpcs: Sequence[int],
    events: int,
    seed: int,
    config: SimulationConfig,
    file: int,
    sample: str,
    depo: "tuple[Path, Place | None] | None",
) -> list[Path]:
    from preprocess.sources.depos import open_depos

    depos = [] if depo is None else [open_depos(*depo)]
    return simulate(out_dir, load_detector(detector), tpcs, 1, events, seed, config, file, sample, None, depos)


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
    depos: Sequence[Path] = (),
    place: "Place | None" = None,
) -> list[Path]:
    """As ``simulate`` for ``events`` in all, with files shared among ``workers`` processes (one for each core).

    The last file may hold fewer events; ``progress`` is called with the number of files done. With ``depos`` the
    i-th of them becomes file ``first_file`` + i, with all its events; ``place`` is where their origin goes.
    """
    n_files = len(depos) or -(-events // events_per_file)
    files = range(first_file, first_file + n_files)
    count = min(n_files, workers or cores())
    sizes = dict.fromkeys(files, events_per_file)
    if not depos:
        sizes[files[-1]] = events - (n_files - 1) * events_per_file
    given = {file: (path, place) for file, path in zip(files, depos, strict=False)}
    paths: dict[int, list[Path]] = {}
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(
                _one_file, out_dir, detector, tpcs, sizes[file], seed, config, file, sample, given.get(file)
            ): file
            for file in files
        }
        try:
            for future in as_completed(futures):
                paths[futures[future]] = future.result()
                if progress is not None:
                    progress(len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # again at the end of the block, where nothing would be cancelled
            raise
    return [path for file in files for path in paths[file]]
