"""Reading and writing a store beside what people use instead. Every figure is a ratio within one run.

python -m tests.benchmarks.bench_store [--docs docs]     recorded frames come in with LARSTORE_TEST_DATA
"""

import argparse
import multiprocessing
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import larstore
import larstore.format
from larstore.block import shards_needed
from larstore.records import ImageRecord
from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.side_by_side import machine_line, markdown, side_by_side
from tests.benchmarks.store_baselines import Hdf5File, NpzFiles, chunks_of, decode_chunks, decode_shards
from tests.benchmarks.store_samples import EVENTS, new_store, plain, recorded, recorded_data, simulated, write_store
from tests.benchmarks.store_sizes import COORDS_BAR, KEPT_BITS, codec_rows, files_bar, size_rows, sizes_on_disk

PATHS = ("voxels/coords", "voxels/charge", "voxels/live", "voxels/truth")
GROUP = 8  # images that are read together, as a loader does
PICKS = 20  # images at random
WRITTEN = 10  # images of a task that writes
BARE = "bare loop over the shards"
HDF5 = "HDF5 without compression"
NPZ = "npz, a file a unit"
IN_ORDER = "epoch in order"
SHUFFLED = "epoch shuffled by block"
SINGLE = "one image at random"
DECODED = "its chunks, in memory, checked and decoded in one thread"


def touch(images: Sequence[larstore.Image]) -> int:
    """Use the arrays of images; returns their bytes."""
    total = 0
    for image in images:
        truth = image.truth
        total += image.coords.nbytes + image.charge.nbytes + image.live.nbytes + (0 if truth is None else truth.nbytes)
    return total


def epoch(path: Path, starts: Sequence[int]) -> int:
    """All images of a newly opened store, in groups of neighbours that begin at ``starts``."""
    selection = larstore.open(path).select()
    return sum(touch(selection.read(start, min(start + GROUP, len(selection)))) for start in starts)


def reading_rows(
    name: str, path: Path, units: Sequence[Sequence[ImageRecord]], npz: NpzFiles
) -> tuple[list[list[str]], list[Bar]]:
    """Epochs and single images of one sample: milliseconds, GB/s, how often faster than each baseline; and bars."""
    hdf5 = Hdf5File(path.with_suffix(".h5"), units)
    selection = larstore.open(path).select()
    layouts = [selection.store.reader(array).layout for array in PATHS]
    n_images, in_order = len(selection), range(0, len(selection), GROUP)
    n_bytes = epoch(path, in_order)
    rng = np.random.default_rng(0)
    source, target = np.ones(n_bytes, np.uint8), np.ones(n_bytes, np.uint8)
    whole: dict[str, Callable[[], object]] = {
        IN_ORDER: lambda: epoch(path, in_order),
        SHUFFLED: lambda: epoch(path, rng.permutation(in_order).tolist()),
        BARE: lambda: decode_shards(path, layouts),
        NPZ: lambda: [len(npz.unit(number)) for number in range(len(units))],  # nobody keeps what was read
        HDF5: lambda: [len(hdf5.image(number)) for number in range(n_images)],
        "memcpy": lambda: np.copyto(target, source),
    }
    picks = rng.integers(n_images, size=PICKS).tolist()
    unit_of = [(number, event) for number, images in enumerate(units) for event in range(len(images))]
    starts, counts = selection.column("voxel_start").tolist(), selection.column("voxel_count").tolist()
    stored = [chunks_of(path, layouts, starts[i], starts[i] + counts[i]) for i in picks]
    single: dict[str, Callable[[], object]] = {
        SINGLE: lambda: [touch(selection.read(i, i + 1)) for i in picks],
        DECODED: lambda: [decode_chunks(chunks) for chunks in stored],
        HDF5: lambda: [len(hdf5.image(i)) for i in picks],
        NPZ: lambda: [len(npz.image(*unit_of[i])) for i in picks[:2]],
    }
    voxels = int(selection.column("voxel_count").sum())
    rows = [[f"**{name}**: {n_images} images, {voxels:,} voxels, {n_bytes / 1e6:.0f} MB", "", "", "", "", ""]]
    seconds = side_by_side(whole)
    for key, value in seconds.items():
        ratios = (seconds[other] / value for other in (BARE, NPZ, HDF5))
        rows.append([key, f"{value * 1e3:.1f}", f"{n_bytes / value / 1e9:.2f}", *(f"{ratio:.2f}" for ratio in ratios)])
    times = side_by_side(single)
    each = {key: value / (2 if key == NPZ else PICKS) for key, value in times.items()}
    for key, value in each.items():
        ratios = (each[other] / value for other in (NPZ, HDF5))
        rows.append([key if key in (SINGLE, DECODED) else f"the same from {key}", f"{value * 1e3:.2f}", "", "",
                     *(f"{ratio:.2f}" for ratio in ratios)])  # fmt: skip
    return rows, [
        Bar(f"{IN_ORDER}, × bare loop", name, 0.9, seconds[BARE] / seconds[IN_ORDER]),
        Bar(f"{IN_ORDER}, × npz", name, 3.5, seconds[NPZ] / seconds[IN_ORDER]),
        Bar(f"{SHUFFLED}, × in order", name, 0.8, seconds[IN_ORDER] / seconds[SHUFFLED]),
        Bar(f"{SINGLE}, × npz", name, 100, each[NPZ] / each[SINGLE]),
        Bar(f"{SINGLE}, × HDF5", name, 0.5, each[HDF5] / each[SINGLE]),
    ]


_held: list[list[ImageRecord]] = []


def hold(file: str) -> None:
    """A worker has its images at hand, as if it had just tiled them."""
    _held[:] = pickle.loads(Path(file).read_bytes())  # noqa: S301 - we wrote it


def write_unit(path: str, spec: larstore.BlockSpec, number: int) -> larstore.Receipt:
    """A worker's task."""
    return larstore.write_block(path, spec, _held[number % len(_held)])


def writing(folder: Path, units: Sequence[Sequence[ImageRecord]], tasks: int = 8, rounds: int = 5) -> list[float]:
    """Seconds to write so many units and commit them with one and with two worker processes; medians, in turns."""
    context, file = multiprocessing.get_context("spawn"), folder / "units.pickle"
    file.write_bytes(pickle.dumps([plain(images) for images in units]))
    n_shards = max(shards_needed(larstore.format.SHARD_ROWS, images) for images in units)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with (
        ProcessPoolExecutor(1, context, hold, (str(file),)) as one,
        ProcessPoolExecutor(2, context, hold, (str(file),)) as two,
    ):
        for count in range(rounds + 1):
            for workers, pool in ((1, one), (2, two)):
                path = new_store(folder / "written.zarr")
                with larstore.StoreWriter(path) as writer:
                    specs = [writer.reserve(n_shards) for _ in range(tasks)]
                    list(pool.map(time.sleep, [0.1] * workers))  # all of them are there
                    start = time.perf_counter()
                    writer.commit(list(pool.map(write_unit, [str(path)] * tasks, specs, range(tasks))))
                    if count:
                        seconds[workers].append(time.perf_counter() - start)
                shutil.rmtree(path)
    return [float(np.median(seconds[n])) for n in (1, 2)]


def alone_above(sizes: dict[str, dict[str, int]]) -> str:
    """What the bar of the coordinates hides."""
    ratios = {name: size["coords"] / size["npz coords"] for name, size in sizes.items()}
    if ratios.get("recorded", 0.0) <= COORDS_BAR:
        return ""
    verdict = "only together they keep to it" if ratios["together"] <= COORDS_BAR else "nor do they together"
    return (
        f"Coordinates of the recorded frames alone take\n{ratios['recorded']:.3f} of their npz and not {COORDS_BAR}, "
        f"with those of the simulator {ratios['together']:.3f}: {verdict}."
    )


def page(folder: Path) -> str:
    """The page, in markdown."""
    samples = {"simulated": simulated(folder / "inputs")}
    shutil.rmtree(folder / "inputs")
    data = recorded_data()
    if data is not None:
        samples["recorded"] = recorded(data)
    reading: list[list[str]] = []
    bars: list[Bar] = []
    sizes: dict[str, dict[str, int]] = {}
    counted: list[Bar] = []
    for name, units in samples.items():
        path, npz = write_store(folder / f"{name}.zarr", units), NpzFiles(folder / f"{name}-npz", units)
        rounded = write_store(folder / f"{name}-rounded.zarr", units, KEPT_BITS)
        sizes[name] = sizes_on_disk(path, rounded, npz)
        shutil.rmtree(rounded)
        counted.append(files_bar(name, path, blocks=1))
        rows, found = reading_rows(name, path, units, npz)
        reading += rows
        bars += found
    if len(samples) > 1:
        sizes["together"] = {key: sum(size[key] for size in sizes.values()) for key in sizes["simulated"]}
    size_table, size_bars = size_rows(sizes)
    parts = [images[i : i + WRITTEN] for images in samples["simulated"] for i in range(0, len(images), WRITTEN)]
    alone, together = writing(folder, parts)
    bars += [*size_bars, *counted, Bar("writing, two workers × one", "simulated", 1.7, alone / together)]
    return f"""# How fast and how small a store is

Written by `python -m tests.benchmarks.bench_store --docs docs` on {time.strftime("%Y-%m-%d")}:
{machine_line("zarr", "numcodecs", "h5py")}.

Images of ProtoDUNE-SP events of the simulator (threshold 300 e a tick), and of recorded-like frames of two detectors at
thresholds of 1 and 2000 e, in memory. **{BARE}**: read each file, check and decode every chunk, in the same threads.
**{NPZ}**: `savez_compressed` of its {EVENTS} events, all of which have to be read for any. **{
        HDF5
    }**: contiguous arrays.
All in turns in one run, and nothing of what was read is kept; medians. Ratios are the others' time over this one's:
more is faster. **{DECODED}**: what is left of an image's time without files, calls and threads.

{bar_table(bars)}

Files: (sharded arrays) × (voxels / rows of a shard + blocks in flight, here 1) + 150. {alone_above(sizes)}

{markdown(["", "ms", "GB/s", "× bare loop", "× npz", "× HDF5"], reading)}

**Size** on disk, the files of a store beside the files of `savez_compressed` of the same arrays. With `--charge-bits {
        KEPT_BITS
    }`
charges keep 1e-3 of each value; all else: index, wires, metadata.

{markdown(["", "coords", "all arrays", "all arrays, charges rounded", "all else"], size_table)}

**Codecs** that were tried, sizes beside the npz of the array, one thread. Charges hardly compress whatever is done (but
for their sign and exponent), so the one that decodes fastest is taken:

{
        markdown(
            ["array", "codec", *(f"size, {name}" for name in samples), "encode, GB/s", "decode, GB/s"],
            list(codec_rows(samples)),
        )
    }

**Writing** eight tasks of {WRITTEN} images, with the commit: {alone * 1e3:.0f} ms with one worker process,
{together * 1e3:.0f} ms with two: **{alone / together:.2f}** × as fast.
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for store-speed.md")
    docs = parser.parse_args().docs
    memory = Path("/dev/shm")  # the disk's own speed is no part of the comparison
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        text = page(Path(folder))
    if docs is None:
        print(text)
    else:
        (docs / "store-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
