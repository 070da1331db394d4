"""What a run costs beside the work of its units, and how that grows with their number.

python -m tests.benchmarks.bench_run [--docs docs] [--units 1000000]     how far growth is followed, 10,000 by default

Two files of 100 events are simulated first, which takes a minute or two.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import larstore
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.run_state import RunState, Summary
from preprocess.runner import run
from preprocess.simulation import SimulationConfig
from preprocess.simulation.parallel import simulate_files
from tests.benchmarks.run_units import DETECTOR, InstantClient, SteadyKeeper, run_config, stand_in
from tests.benchmarks.side_by_side import machine_line, markdown

WORKERS = 2
UNITS, SECONDS = 200, 0.5
TINY = 5000
MILLISECOND = 0.001  # of a unit, where growth is followed on a real cluster
ON_CLUSTER = 100_000  # the most such units
SLOTS = 100  # of the cluster that growth is simulated with
EVENTS = 100  # of a file, where memory is measured


def unwatched(state: RunState) -> None:
    """Nobody looks at the run."""


def on_cluster(folder: Path, n_units: int, seconds: float, burn: bool = False) -> tuple[float, float, Summary]:
    """Seconds to start a cluster, seconds of a run on it, and its summary."""
    start = time.perf_counter()
    with make_cluster("local", WORKERS) as client:
        client.wait_for_workers(WORKERS)
        client.run(stand_in(seconds, burn))
        middle = time.perf_counter()
        summary = run(run_config(folder / "cluster", n_units), client, unwatched)
        end = time.perf_counter()
    shutil.rmtree(folder / "cluster")
    return middle - start, end - middle, summary


def overhead_rows(folder: Path) -> list[list[str]]:
    """Runs of equal units beside the ideal: their seconds over the number of workers."""
    rows = []
    ideal = UNITS * SECONDS / WORKERS
    for name, burn in (("sleep", False), ("burn processor time", True)):
        started, seconds, summary = on_cluster(folder, UNITS, SECONDS, burn)
        rows.append(
            [f"{summary.units_done} units that {name} for {SECONDS} s", f"{ideal:.1f}", f"{seconds:.1f}",
             f"**{seconds / ideal:.3f}**", f"{summary.seconds['commit']:.2f}", f"{started:.1f}"]
        )  # fmt: skip
    return rows


def peak_memory() -> int:
    """Bytes that this process has had at most; what getrusage says is also its parent's."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def grow(folder: Path, n_units: int) -> dict[str, float]:
    """Seconds and memory of a run's coordinator; tasks are done at once, in between. In a process of its own."""
    config = run_config(folder, n_units)
    before = peak_memory()
    stand_in(0.0, patch_worker=True)()
    client = InstantClient(SteadyKeeper(SLOTS))
    start = time.perf_counter()
    summary = run(config, client, unwatched)
    wall = time.perf_counter() - start
    peak = peak_memory()
    if not summary.units_done == len(larstore.open(config.output)) == n_units:
        raise RuntimeError(f"{summary.units_done} done of {n_units}")
    return {
        "units": n_units,
        "tasks": client.tasks,
        "plan": client.began - start,
        "commit": summary.seconds["commit"],
        "coordinator": wall - client.busy,
        "peak": peak,
        "grown": peak - before,
    }


def grow_on_cluster(folder: Path, n_units: int) -> dict[str, float]:
    """The same on a cluster of this machine, whose scheduler is in this process, with units of a millisecond."""
    before = peak_memory()
    started, seconds, summary = on_cluster(folder, n_units, MILLISECOND)
    peak = peak_memory()
    return {
        "units": summary.units_done,
        "start": started,
        "wall": seconds,
        "commit": summary.seconds["commit"],
        "peak": peak,
        "grown": peak - before,
    }


def _into_file(measure: Callable[[Path, int], dict[str, float]], folder: Path, n_units: int) -> None:
    (folder / "result.json").write_text(json.dumps(measure(folder / "run", n_units)))


def growing(measure: Callable[[Path, int], dict[str, float]], folder: Path, most: int) -> Iterator[dict[str, float]]:
    """What is measured of more and more units, each time in a new process."""
    for n in (n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= most):
        place = folder / f"grow-{n}"
        place.mkdir()
        process = multiprocessing.get_context("spawn").Process(target=_into_file, args=(measure, place, n))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{n} units: the process ended with {process.exitcode}")
        yield json.loads((place / "result.json").read_text())
        shutil.rmtree(place)


def growth_rows(folder: Path, most: int) -> list[list[str]]:
    """``grow`` for more and more units."""
    return [
        [f"{found['units']:,}", f"{found['tasks']:,}", f"{found['plan']:.2f}", f"{found['commit']:.2f}",
         f"{found['coordinator']:.2f}", f"{found['coordinator'] / found['units'] * 1e3:.2f}",
         f"{found['peak'] / 1e6:.0f}", f"{found['grown'] / found['units'] / 1e3:.2f}"]
        for found in growing(grow, folder, most)
    ]  # fmt: skip


def cluster_rows(folder: Path, most: int) -> list[list[str]]:
    """``grow_on_cluster`` for more and more units."""
    return [
        [f"{found['units']:,}", f"{found['units'] * MILLISECOND / WORKERS:.1f}", f"{found['wall']:.1f}",
         f"{found['units'] / found['wall']:.0f}", f"{found['commit']:.2f}", f"{found['peak'] / 1e6:.0f}",
         f"{found['grown'] / found['units'] / 1e3:.2f}"]
        for found in growing(grow_on_cluster, folder, most)
    ]  # fmt: skip


def memory_rows(folder: Path) -> list[list[str]]:
    """Peak memory of each worker, and of the driver, for files of many ProtoDUNE-SP events."""
    simulation = SimulationConfig(muons=8.0)
    paths = simulate_files(folder / "sim", DETECTOR, [1], WORKERS * EVENTS, EVENTS, 1, simulation)
    inputs = tuple(str(path) for path in paths if "wire" in path.name)
    rows = []
    for options in ({"threshold": 300.0}, {"threshold": 2000.0, "save_pix": True}):
        config = RunConfig(inputs=inputs, output=folder / "memory.zarr", detector=DETECTOR, **options)
        with make_cluster("local", WORKERS) as client:
            client.wait_for_workers(WORKERS)
            start = time.perf_counter()
            summary = run(config, client, unwatched)
            seconds = time.perf_counter() - start
            peaks = sorted(client.run(peak_memory).values())
        if summary.images != WORKERS * EVENTS:
            raise RuntimeError(f"{summary.images} images; {summary.failures}")
        shutil.rmtree(config.output)
        named = ", ".join(f"{name} {value:g}" for name, value in options.items())
        rows.append(
            [named.replace(" 1", ""), f"{summary.images}", f"{summary.voxels:,}", f"{seconds:.0f}",
             ", ".join(f"{peak / 1e9:.2f}" for peak in peaks)]
        )  # fmt: skip
    return rows


def page(folder: Path, most: int) -> str:
    """The page, in markdown."""
    overhead = overhead_rows(folder)
    _, seconds, summary = on_cluster(folder, TINY, 0.0)
    growth, on_two = growth_rows(folder, most), cluster_rows(folder, min(most, ON_CLUSTER))
    memory = memory_rows(folder)
    growth_titles = (
        "units", "tasks", "plan, s", "commits, s", "plan, run and commits, s", "ms a unit", "peak, MB", "kB a unit"
    )  # fmt: skip
    cluster_titles = (
        "units",
        "ideal, s",
        "run, s",
        "units/s",
        "of it commits, s",
        "peak of the driver, MB",
        "kB a unit",
    )
    return f"""# What a run costs beside its work

Written by `python -m tests.benchmarks.bench_run --docs docs --units {most}` on {time.strftime("%Y-%m-%d")}:
{machine_line("distributed")}.

Units are stand-ins here, but for the last table: they sleep, or burn processor time, or do nothing, and yield an image
of 20 voxels. Inputs and store are in memory. **The ideal** is the seconds of all units over {WORKERS}, the workers of a
local cluster. The run is from planning to the last commit; the start of the cluster is beside it.

{markdown(["", "ideal, s", "run, s", "run / ideal", "of it commits, s", "start of the cluster, s"], overhead)}

**Tiny units**: {summary.units_done:,} that do nothing, many to a task, in {seconds:.1f} s, which makes
**{TINY / seconds:.0f} units/s**.

**Growth on a real cluster** of {WORKERS} workers, of units that sleep for a millisecond. The driver has scheduler and
coordinator in its process; its peak memory is that of the whole process.

{markdown(list(cluster_titles), on_two)}

**Growth, simulated**: tasks for {SLOTS} workers are done at once, in the coordinator's process; plan, images, blocks
and commits are real, and the time of the tasks is taken off. The plan ends with the first task. A scheduler holds no
more than two tasks a worker at a time, whatever the number of units.

{markdown(list(growth_titles), growth)}

**Memory of workers**: {WORKERS} files of {EVENTS} simulated ProtoDUNE-SP events each, one file to a worker, with truth.

{markdown(["", "images", "voxels", "run, s", "peak of each worker, GB"], memory)}
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for run-speed.md")
    parser.add_argument("--units", type=int, default=10_000, help="units to which growth is followed")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")  # the disk's own speed is no part of it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        text = page(Path(folder), arguments.units)
    if arguments.docs is None:
        print(text)
    else:
        (arguments.docs / "run-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
