"""Inference of a store beside the network's forward pass alone on the same batches: what reading and writing cost.

python -m tests.benchmarks.bench_infer [--docs docs] [--events N] [--copies N]
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import larstore
import train  # noqa: F401 - says how threads wait
from larstore.cores import cores
from larstore.records import ImageRecord
from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.side_by_side import machine_line, markdown
from tests.benchmarks.store_samples import simulated, write_store
from train.config import Config, make_config, with_inputs
from train.inference.infer import infer
from train.inference.pieces import in_pieces
from train.inference.predictor import Predictor, load_network
from train.models import build_model
from train.resuming.checkpoint import write_checkpoint
from train.runtime import compute_threads, versions

NET = {"name": "cellnet_binary", "spatial_size": [1024, 1024, 512], "nChannels": 16, "nStrides": 4, "n_2D": 0}
SMALL = 500  # voxels of a small image
MAX_VOXELS = 300_000  # a batch, as in configs/ghost3d.yaml
ROUNDS = 3  # in turns; the best of each counts


def settings(folder: Path, threads: int) -> Config:
    """A configuration of a run with a network that was never trained."""
    data = {"data_path": "x.zarr", "charge": {"transform": "asinh"}, "max_voxels": MAX_VOXELS}
    values = {"output_dir": str(folder / "run"), "data": data, "model": NET}
    return make_config(values | {"train": {"threads": threads, "accelerator": "cpu"}})


def write_network(config: Config, path: Path) -> Path:
    """Its checkpoint."""
    torch.manual_seed(0)
    config = with_inputs(config, 3)
    weights = {f"model.{k}": v for k, v in build_model(config.model.model_dump()).state_dict().items()}
    about = {"config": config.plain(), "versions": versions(), "n_planes": 3, "stores": []}
    write_checkpoint({"state_dict": weights, "epoch": 0, "larstore": about}, path)
    return path


def cut_small(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images' voxels again, in images of ``SMALL`` voxels that follow each other in drift."""
    small: list[ImageRecord] = []
    for image in images:
        for start in range(0, len(image.coords) - SMALL + 1, SMALL):
            part = slice(start, start + SMALL)
            arrays = {name: getattr(image, name)[part] for name in ("coords", "charge", "live", "truth")}
            small.append(replace(image, event=len(small), truth_columns={}, **arrays))
    return small


def repeated(images: Sequence[ImageRecord], copies: int) -> list[list[ImageRecord]]:
    """The images as so many files, so that what is done once an inference counts little."""
    return [[replace(image, file=number) for image in images] for number in range(copies)]


class Bare:
    """The network's forward pass over all batches of a store, which are in memory."""

    def __init__(self, config: Config, checkpoint: Path, path: Path) -> None:
        store = larstore.open(path)
        part = store.select()
        self.predictor = Predictor(load_network(config, checkpoint, store, part.column("tpc")), store)
        size = store.attributes["shard_rows"]
        groups: dict[int, list[larstore.Image]] = {}
        for image in sorted(part, key=lambda image: image.summary("voxel_start")):
            groups.setdefault(image.summary("voxel_start") // size, []).append(image)
        batches = [rows for piece in in_pieces(groups, MAX_VOXELS) for rows in piece.batches]
        began = time.perf_counter()
        self.batches = [(rows, self.predictor.read(rows)) for rows in batches]
        self.reading = time.perf_counter() - began
        self.threads = config.train.threads

    def __call__(self) -> None:
        """All batches."""
        with compute_threads(self.threads):
            for rows, batch in self.batches:
                self.predictor.outputs(rows, batch)


def measure(folder: Path, path: Path, threads: int) -> dict[str, float]:
    """Seconds of an inference of a store, of the network alone, and of two processes that share the threads."""
    config = settings(folder, threads)
    checkpoint = write_network(config, folder / "net.pth")
    bare = Bare(config, checkpoint, path)
    found = {"reading alone": bare.reading}
    for turn in range(ROUNDS + 1):
        calls = {
            "whole": lambda: infer(config, checkpoint, path, f"whole-{threads}-{turn}", progress=False),  # noqa: B023
            "network": bare,
        }
        for key, call in calls.items():
            began = time.perf_counter(), time.process_time()
            call()
            if turn:  # the first one compiles
                for kind, spent in (("", time.perf_counter() - began[0]), (", CPU", time.process_time() - began[1])):
                    found[key + kind] = min(spent, found.get(key + kind, np.inf))
    if threads > 1:
        found["2 workers"] = infer(config, checkpoint, path, f"workers-{threads}", workers=2, progress=False).seconds
    return found


def page(folder: Path, n_events: int, copies: int) -> str:
    """The page, in markdown."""
    (events,) = simulated(folder / "files", 1, n_events)
    samples = {f"{SMALL} voxels": cut_small(events), "whole events": list(events)}
    rows, bars = [], []
    for name, images in samples.items():
        path = write_store(folder / f"{len(images)}.zarr", repeated(images, copies))
        voxels = copies * sum(len(image.coords) for image in images)
        mean = voxels / copies / len(images)
        for threads in sorted({1, cores()}):
            found = measure(folder, path, threads)
            lost, work = (1 - found[f"network{kind}"] / found[f"whole{kind}"] for kind in ("", ", CPU"))
            bars.append(Bar("time not in the network", f"{name}, {threads} threads", 0.1, lost, most=True))
            rows.append(
                [f"{name} ({mean:,.0f})", f"{copies * len(images):,}", str(threads)]
                + [f"{voxels / found[key] / 1e3:,.0f}" for key in ("network", "whole")]
                + [f"{copies * len(images) / found['whole']:,.1f}", f"{lost:.1%}", f"{work:.1%}"]
                + [f"{found['reading alone']:.2f}"]
                + [f"{found['whole']:.2f}", f"{found['2 workers']:.2f}" if "2 workers" in found else ""]
            )  # fmt: skip
    titles = ["images of (voxels)", "images", "threads", "network alone, 10³ voxels/s", "inference, 10³ voxels/s",
              "images/s", "not in the network, time", "CPU time", "reading alone, s",
              "inference, s", "--workers 2, s"]  # fmt: skip
    return f"""# How fast inference is

Written by `python -m tests.benchmarks.bench_infer --docs docs` on {time.strftime("%Y-%m-%d")}:
{machine_line("torch", "numba")}. Not on a GPU.

`larstore infer` of a store of simulated ProtoDUNE-SP events, from opening the checkpoint to the last commit, beside the
forward pass of its network (nChannels 16, nStrides 4) alone over the same batches, which are in memory. In turns, the
best of {ROUNDS}. Small images are consecutive voxels of these events. "--workers 2": two processes with half of the
threads each, started included.

{markdown(titles, rows)}

{bar_table(bars)}
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for inference-speed.md")
    parser.add_argument("--events", type=int, default=6)
    parser.add_argument("--copies", type=int, default=10)
    given = parser.parse_args()
    logging.getLogger("larstore.train").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        text = page(Path(folder), given.events, given.copies)
    if given.docs is None:
        print(text)
    else:
        (given.docs / "inference-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
