"""SparseCellNet on tiled events beside its matrix products alone: speed, growth, memory, and where the rest goes.

python -m tests.benchmarks.bench_sparse [--docs docs]     with spconv and sparseconvnet where they are installed
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import train  # noqa: F401 - says how threads wait
from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.side_by_side import machine_line, markdown
from tests.benchmarks.sparse_events import SIZE, THRESHOLD, Batch, batch_of, tiled_events
from tests.benchmarks.sparse_parts import convolution_seconds, memory_apart, split
from tests.benchmarks.sparse_yardstick import best, convolutions_of, square_product, thin_products
from train.models import build_model
from train.models.description import describe
from train.runtime import compute_threads
from train.sparse.backends import use_backend

NET = {"name": "cellnet_binary", "spatial_size": list(SIZE), "nChannels": 16, "nStrides": 4, "n_2D": 0}
SIZES = {"20k": 20_000, "60k": 60_000, "150k": 151_500}
GROWTH = (12_000, 33_000, 120_000, 300_000, 1_000_000)
ROUNDS = 3  # of yardstick and ours in turn; the best of each counts


class Work:
    """A network, its optimiser and a batch."""

    def __init__(self, batch: Batch, backend: str = "native") -> None:
        torch.manual_seed(0)
        self.coords, self.features = batch
        self.model = build_model(NET)
        use_backend(self.model, backend, "cpu")
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.target = (self.features.sum(dim=1, keepdim=True) > self.features.sum(dim=1).median()).float()

    def step(self) -> None:
        """Rules, forward, backward, Adam."""
        self.optimizer.zero_grad()
        score = self.model(self.coords, self.features)
        torch.nn.functional.binary_cross_entropy(score, self.target).backward()
        self.optimizer.step()

    def infer(self) -> None:
        """Rules and forward."""
        with torch.no_grad():
            self.model(self.coords, self.features)


def measure(batch: Batch, threads: int) -> dict[str, float]:
    """Seconds and rates of one batch, ours beside the yardstick in turns."""
    work = Work(batch)
    found: dict[str, float] = {}

    def least(key: str, value: float) -> None:
        found[key] = min(found.get(key, np.inf), value)

    with compute_threads(threads):
        calls = convolutions_of(work.model, *batch)
        for _ in range(ROUNDS):
            least("step", best(work.step))
            least("infer", best(work.infer))
            torch.set_num_threads(threads)
            products = thin_products(calls, batch[1].shape[1])
            square = square_product()
            torch.set_num_threads(1)
            least("limit, step", products.forward + products.backward)
            least("limit, infer", products.forward)
            least("convolutions", convolution_seconds(calls, batch[1].shape[1]))
            found["square"] = max(found.get("square", 0.0), square)
        parts = split(work.step)
    flop = products.forward_flop + products.backward_flop
    found |= {"flop, step": flop, "flop, infer": products.forward_flop, **{f"part, {k}": v for k, v in parts.items()}}
    return found


def others(batches: dict[str, Batch], ours: dict[tuple[str, int], dict[str, float]]) -> Iterator[list[str]]:
    """Other packages that are installed, beside ours with two threads."""
    for backend in ("sparseconvnet", "spconv"):
        if find_spec(backend) is None:
            continue
        for name, batch in batches.items():
            work = Work(batch, backend)
            with compute_threads(2, backend):
                torch.set_num_threads(2)
                step = best(work.step, 3) if backend == "sparseconvnet" else None
                infer = best(work.infer, 3)
            mine = ours[name, 2]
            yield [
                backend, name,
                f"{step * 1e3:.0f} ms, {step / mine['step']:.1f} × ours" if step else "not on a CPU",
                f"{infer * 1e3:.0f} ms, {infer / mine['infer']:.1f} × ours",
            ]  # fmt: skip


def growth(events: list[Batch], folder: Path) -> Iterator[list[str]]:
    """Time and memory against the number of voxels, two threads."""
    for voxels in GROWTH:
        batch = batch_of(events, voxels)
        work, n = Work(batch), len(batch[0])
        with compute_threads(2):
            infer, step = best(work.infer, 3), best(work.step, 3)
        peak = memory_apart(NET, save(folder, batch), train=False, exact=False)["process"]
        yield [f"{n:,}", f"{infer * 1e3:.0f}", f"{infer / n * 1e6:.2f}", f"{step * 1e3:.0f}", f"{step / n * 1e6:.2f}",
               f"{peak / 1e9:.2f}"]  # fmt: skip


def save(folder: Path, batch: Batch) -> Path:
    """A batch as a file for another process."""
    file = folder / f"{len(batch[0])}.npz"
    np.savez(file, coords=batch[0].numpy(), features=batch[1].numpy())
    return file


def bars(ours: dict[tuple[str, int], dict[str, float]], kept: list[dict[str, float]], peak: float) -> Iterator[Bar]:
    """What was promised."""
    for (name, threads), found in ours.items():
        where = f"{name}, {threads} thread{'s' * (threads > 1)}"
        yield Bar("training step, × the thin products", where, 0.8, found["limit, step"] / found["step"])
        yield Bar("inference, × the thin products", where, 0.8, found["limit, infer"] / found["infer"])
        rate = found["flop, step"] / found["convolutions"]
        yield Bar("convolutions alone, × torch.mm of 1536³", where, 0.6, rate / found["square"])
        rules = found["part, sites and rules"] / sum(v for k, v in found.items() if k.startswith("part"))
        yield Bar("rules, of a training step", where, 0.05, rules, most=True)
    for name in SIZES:
        yield Bar("training step, two threads × one", name, 1.7, ours[name, 1]["step"] / ours[name, 2]["step"])
        both = ours[name, 1]["convolutions"] / ours[name, 2]["convolutions"]
        yield Bar("convolutions alone, two threads × one", name, 1.7, both)
    yield Bar("peak of a training step, × activations kept", "150k", 2.5, kept[0]["peak"] / kept[0]["kept"], most=True)
    yield Bar("inference of 10^6 voxels, GB in all", "", 6.0, peak, most=True)


def page(folder: Path) -> str:
    """The page, in markdown."""
    events = tiled_events()
    batches = {name: batch_of(events, voxels) for name, voxels in SIZES.items()}
    ours = {(name, threads): measure(batch, threads) for name, batch in batches.items() for threads in (1, 2)}
    speed = [
        [f"{name} ({len(batches[name][0]):,})", str(threads)]
        + [
            f"{found[key] * 1e3:.1f} ({found[f'flop, {what}'] / found[key] / 1e9:.0f})"
            for what in ("step", "infer")
            for key in (what, f"limit, {what}")
        ]
        + [f"{found['flop, step'] / found['convolutions'] / 1e9:.0f}", f"{found['square'] / 1e9:.0f}"]
        for (name, threads), found in ours.items()
    ]
    names = [key for key in ours["20k", 2] if key.startswith("part, ")]
    parts = [
        [key.removeprefix("part, ")]
        + [f"{ours[name, 2][key] * 1e3:.1f}" for name in SIZES]
        + [f"{ours[name, 2][key] / sum(ours[name, 2][each] for each in names):.0%}" for name in SIZES]
        for key in names
    ]
    file = save(folder, batches["150k"])
    levels = (0, 1, 2, 4)
    kept = [memory_apart(NET | {"recompute": n}, file, train=True, exact=True) for n in levels]
    memory = [
        [str(n), f"{each['kept'] / 1e6:.0f}", f"{each['peak'] / 1e6:.0f}", f"{each['peak'] / each['kept']:.2f}"]
        for n, each in zip(levels, kept, strict=True)
    ]
    grown = list(growth(events, folder))
    return f"""# How fast the network is on a CPU

Written by `python -m tests.benchmarks.bench_sparse --docs docs` on {time.strftime("%Y-%m-%d")}:
{machine_line("torch", "numba")}.

SparseCellNet with nChannels 16, nStrides 4, reps 2 on tiled voxels of simulated ProtoDUNE-SP events (threshold
{THRESHOLD:.0f} e a tick): {describe(build_model(NET), batches["60k"][0])}.

**thin products**: the same matrix products by `torch.mm(out=)`, inputs gathered already, one call a filter offset, best
of 5; nothing else of the network. **ours**: a whole training step (sites and rules, forward, backward, Adam), a whole
inference. In turns in one run, the best of {ROUNDS} rounds. In brackets GFlop/s, multiplications and additions of the
convolutions. It was not run on a GPU.

{
        markdown(
            [
                "voxels",
                "threads",
                "step, ms",
                "thin products, ms",
                "inference, ms",
                "thin products, ms",
                "convolutions alone, GFlop/s",
                "torch.mm of 1536³, GFlop/s",
            ],
            speed,
        )
    }

{bar_table(bars(ours, kept, float(grown[-1][-1])))}

**Where a training step goes**, two threads, ms and share:

{markdown(["", *SIZES, *SIZES], parts)}

**Other packages** with the same weights and two threads (spconv's convolutions with one, see `train/sparse/spconv.py`):

{markdown(["backend", "voxels", "training step", "inference"], list(others(batches, ours)))}

**Growth**, two threads; the memory is all of the process's, torch included:

{markdown(["voxels", "inference, ms", "µs a voxel", "step, ms", "µs a voxel", "peak of inference, GB"], grown)}

**Memory** of a training step of 150k voxels, by levels that compute their blocks again (`recompute`):

{markdown(["recompute", "activations kept, MB", "peak above the start, MB", "peak / kept"], memory)}
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder for network-speed.md")
    docs = parser.parse_args().docs
    with tempfile.TemporaryDirectory() as folder:
        text = page(Path(folder))
    if docs is None:
        print(text)
    else:
        (docs / "network-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
