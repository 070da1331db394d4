"""Streaming batches beside the store's own reading and beside loaders of files. Every rate is a ratio within one run.

python -m tests.benchmarks.bench_stream [--docs docs]
"""

import argparse
import gc
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import train  # noqa: F401 - before torch: it says how threads wait

import torch  # isort: skip

import larstore
from larstore.records import ImageRecord
from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.side_by_side import machine_line, markdown, side_by_side
from tests.benchmarks.store_samples import simulated, write_store
from tests.benchmarks.stream_baselines import ForgetfulStream, GzipImages, NpzImages, PlainImages
from train.config import load_config
from train.models import build_model
from train.objective.losses import make_loss
from train.runtime import compute_threads
from train.schema import ChargeConfig, DataConfig
from train.sparse.backends import use_backend
from train.streaming.stream import ImageStream, StreamLoader
from train.streaming.transforms import make_transforms

CONFIG = Path(__file__).parents[2] / "configs" / "ghost3d.yaml"
SMALL, LARGE = 500, 100_000  # voxels an image
IMAGES_OF = {SMALL: 64, LARGE: 1}  # in a batch
STEPS = 8  # of training
ROUNDS = 5
MEGABYTE = 1 << 20

STORE = "the store's own epoch"
STREAM = "stream"
SHUFFLED = "stream, shuffled"
TRANSFORMED = "stream, shuffled, inputs and labels of ghost3d.yaml"
NPZ = "npz, a file an image"
GZIP = "HDF5 with gzip, shuffled by image"
PLAIN = "HDF5 uncompressed, in order"


def images_of(units: Sequence[Sequence[ImageRecord]], n_voxels: int) -> list[ImageRecord]:
    """The units' images cut into pieces of so many voxels that follow each other; pieces of fewer are left out."""
    pieces = []
    for image in (image for images in units for image in images):
        for start in range(0, len(image.coords) - n_voxels + 1, n_voxels):
            part = slice(start, start + n_voxels)
            arrays = {name: getattr(image, name)[part] for name in ("coords", "charge", "live", "truth")}
            pieces.append(replace(image, event=len(pieces), file=0, **arrays))
    return pieces


def repeated(images: Sequence[ImageRecord], times: int) -> list[ImageRecord]:
    """The images so often, as other events: an epoch whose begin and end do not count."""
    return [replace(image, event=number) for number, image in enumerate(list(images) * times)]


def read_epoch(selection: larstore.Selection, group: int) -> int:
    """All images in groups of neighbours, from a store that is open as those of streams are; returns their bytes."""
    total = 0
    for start in range(0, len(selection), group):
        for image in selection.read(start, min(start + group, len(selection))):
            truth = image.truth
            total += image.coords.nbytes + image.charge.nbytes + (0 if truth is None else truth.nbytes)
    return total


def exhaust(loader: object) -> Callable[[], object]:
    """One epoch, each batch dropped when the next one comes."""

    def epoch() -> None:
        for batch in loader:  # type: ignore[attr-defined]
            assert len(batch["coords"])

    return epoch


def rates(folder: Path, n_voxels: int, images: Sequence[ImageRecord]) -> tuple[list[list[str]], list[Bar], Path]:
    """Epochs with 0 and 2 workers: table rows, bars, and the store."""
    store = write_store(folder / f"{n_voxels}.zarr", [images])
    size = IMAGES_OF[n_voxels]
    npz = NpzImages(folder / f"npz-{n_voxels}", images)
    gzip = GzipImages(folder / f"gzip-{n_voxels}.h5", images)
    plain = PlainImages(folder / f"plain-{n_voxels}.h5", images)
    data = DataConfig(data_path=[str(store)], threshold=0.0, charge=ChargeConfig(transform="asinh"))
    steps = make_transforms(data, training=True)

    def loader(workers: int, shuffle: bool, transforms: Sequence[object] = ()) -> StreamLoader:
        stream = ForgetfulStream(larstore.open(store).select(), size, shuffle=shuffle, transforms=transforms)
        return StreamLoader(stream, workers, "forkserver")

    opened = larstore.open(store).select()
    total = sum(len(image.coords) for image in images)
    name = f"{n_voxels:,} voxels an image"
    rows = [[f"**{name}**: {len(images)} images, batches of {size}", "", "", ""]]
    bars = []
    for workers in (0, 2):
        alternatives = {
            STORE: lambda: read_epoch(opened, size),
            STREAM: exhaust(loader(workers, False)),
            SHUFFLED: exhaust(loader(workers, True)),
            TRANSFORMED: exhaust(loader(workers, True, steps)),
            NPZ: exhaust(npz.loader(size, workers, False)),
            GZIP: exhaust(gzip.loader(size, workers, True)),
            PLAIN: exhaust(plain.loader(size, workers, False)),
        }
        seconds = side_by_side(alternatives, rounds=ROUNDS)
        del alternatives
        gc.collect()  # ends the workers
        for key, value in seconds.items():
            rows.append([key, str(workers) if key != STORE else "", f"{total / value / 1e6:.1f}",
                         f"{seconds[STORE] / value:.2f}"])  # fmt: skip
        where = f"{name}, {workers} workers"
        found = [
            Bar("in order, × the store's own epoch", where, 0.8, seconds[STORE] / seconds[STREAM]),
            Bar("shuffled, × the store's own epoch", where, 0.8, seconds[STORE] / seconds[SHUFFLED]),
            Bar("in order, × npz", where, 3.0, seconds[NPZ] / seconds[STREAM]),
            Bar("shuffled, × HDF5 with gzip", where, 1.5, seconds[GZIP] / seconds[SHUFFLED]),
            Bar("in order, × HDF5 uncompressed", where, 0.6, seconds[PLAIN] / seconds[STREAM]),
        ]
        print(bar_table(found), file=sys.stderr, flush=True)  # a page takes minutes
        bars += found
    return rows, bars, store


def waiting(store: Path) -> tuple[float, float]:
    """Share of the time of training steps that is spent waiting for batches, after the first one; seconds a step."""
    config = load_config(CONFIG, ["output_dir=unused"])
    stream = ImageStream(
        larstore.open(store).select(), 1, transforms=make_transforms(config.data, training=True), need_truth=True
    )
    torch.manual_seed(1)
    model = build_model({**config.model.model_dump(), "nInputFeatures": 3})
    use_backend(model, "auto", torch.device("cpu"), training=True)
    assert config.loss is not None
    loss, optimizer = make_loss(config.loss), torch.optim.Adam(model.parameters(), lr=1e-3)
    waited = worked = 0.0
    with compute_threads(None):
        batches = iter(StreamLoader(stream))
        for step in range(STEPS):
            start = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            optimizer.zero_grad()
            loss(model(batch["coords"], batch["features"]), batch["target"], batch["weight"]).backward()
            optimizer.step()
            if step:
                waited, worked = waited + ready - start, worked + time.perf_counter() - ready
    return waited / (waited + worked), worked / (STEPS - 1)


def worker_memory(store: Path) -> float:
    """Most memory (MB) that one of two workers ever had resident, shared libraries included."""
    loader = StreamLoader(ImageStream(larstore.open(store).select(), 3), 2, "forkserver")
    most = 0.0
    for _ in range(2):
        exhaust(loader)()
        for worker in loader._iterator._workers:  # type: ignore[union-attr]
            lines = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii").splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM"))
            most = max(most, int(peak.split()[1]) * 1024 / MEGABYTE)
    return most


FIRST = """
import sys, time
import larstore, train, torch
from train.streaming.stream import ImageStream, StreamLoader
if __name__ == "__main__":
    start = time.perf_counter()
    loader = StreamLoader(ImageStream(larstore.open(sys.argv[1]).select(), 1, seed=1), int(sys.argv[2]), sys.argv[3])
    batches = iter(loader)
    next(batches)
    print(time.perf_counter() - start)
"""


def first_batch(folder: Path, store: Path, workers: int, method: str) -> float:
    """Median seconds from the imports' end to the first batch, in new processes."""
    script = folder / "first.py"
    script.write_text(FIRST, encoding="utf-8")
    command = [sys.executable, str(script), str(store), str(workers), method]
    return float(np.median([float(subprocess.check_output(command, text=True)) for _ in range(3)]))


def page(folder: Path) -> str:
    """The page, in markdown."""
    units = simulated(folder / "inputs", n_files=1, n_events=30, muons=16.0)
    shutil.rmtree(folder / "inputs")
    rows: list[list[str]] = []
    bars: list[Bar] = []
    for n_voxels, most, times in ((SMALL, 4000, 2), (LARGE, 30, 5)):
        found, more, store = rates(folder, n_voxels, repeated(images_of(units, n_voxels)[:most], times))
        rows += found
        bars += more
    share, step = waiting(store)
    bars.append(Bar("waiting for data, % of training steps", f"ghost3d, {LARGE:,} voxels", 2.0, 100 * share, True))
    bars.append(Bar("memory of a worker, MB", f"batches of {3 * LARGE:,} voxels", 1000, worker_memory(store), True))
    firsts = {key: first_batch(folder, store, *key) for key in ((0, "fork"), (2, "fork"), (2, "spawn"))}
    bars.append(Bar("first batch, s after imports", "0 workers", 2.0, firsts[0, "fork"], True))
    return f"""# How fast batches come

Written by `python -m tests.benchmarks.bench_stream --docs docs` on {time.strftime("%Y-%m-%d")}:
{machine_line("torch", "numcodecs", "h5py")}.

Images are pieces of tiled ProtoDUNE-SP events of the simulator (threshold 300 e a tick) of {SMALL} and of {
        LARGE:,} voxels,
in memory. **{STORE}**: `Selection.read` of as many images as a batch has, in this process; it stops at the arrays, and
the same figure stands beside streams with workers. Streams keep no chunk from one epoch to the next, as of a large
store, and make tensors: coordinates with the image's number as int64, features, target and weight.
**{NPZ}**, **{GZIP.partition(",")[0]}** and **{PLAIN.partition(",")[0]}**: torch's DataLoader over
such files with the same images, batches and number of workers (warm). All in turns in one run,
medians; more is faster.

{bar_table(bars)}

A training step takes {step:.2f} s. The first batch with two workers: {firsts[2, "fork"]:.2f} s by fork, {
        firsts[2, "spawn"]:.2f} s by spawn
or forkserver, which import torch anew.

{markdown(["", "workers", "10⁶ voxels/s", "× the store"], rows)}
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for stream-speed.md")
    docs = parser.parse_args().docs
    # Else each worker imports torch anew.
    multiprocessing.set_forkserver_preload(["train.streaming.stream", "tests.benchmarks.stream_baselines"])
    memory = Path("/dev/shm")  # the disk's own speed is no part of the comparison
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        text = page(Path(folder))
    if docs is None:
        print(text)
    else:
        (docs / "stream-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
