"""A training step of SparseCellNet on tiled coordinates, beside its matrix products alone (thin `torch.mm`)."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two thread pools share the cores

import tempfile

import numpy as np
import torch

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.side_by_side import machine_line, print_table, side_by_side
from train.models import build_model
from train.sparse import native, rulebook
from train.sparse.tensor import sort_sites

SIZE = (1024, 1024, 512)
NET = {"name": "cellnet_binary", "spatial_size": list(SIZE), "nChannels": 16, "nStrides": 4, "n_2D": 0}


def tiled_image() -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates (n, 4) and charges (n, 3) of a simulated event."""
    detector = load_detector("protodune-sp")
    tpc = detector.tpc(1)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = simulate(folder, detector, seed=3, config=SimulationConfig(muons=8.0))
        (event,) = open_source(path).events(tpc)
    voxels = Tiler(tpc)(event.waveform, 2000.0)
    coords = np.column_stack([voxels.coords.astype(np.int64), np.zeros(len(voxels), np.int64)])
    return torch.from_numpy(coords), torch.from_numpy(np.arcsinh(voxels.charge * 1e-3))


def main() -> None:
    """Print a table for convolutions and one for the training step."""
    print(machine_line("torch", "numba"))
    coords, features = tiled_image()
    sites, _ = sort_sites(coords, SIZE)
    rules = rulebook.submanifold(sites, (3, 3, 3))
    pairs = int((rules.gather >= 0).sum())
    for channels in (16, 32, 64):
        x, w = torch.randn(len(sites), channels), torch.randn(27, channels, channels)
        gathered = [x[torch.from_numpy(column[column >= 0].astype(np.int64))] for column in rules.gather.T]
        outs = [torch.empty_like(part) for part in gathered]

        def products(gathered=gathered, outs=outs, w=w) -> None:
            for part, out, weight in zip(gathered, outs, w, strict=True):
                torch.mm(part, weight, out=out)

        seconds = side_by_side(
            {
                "thin torch.mm, gathered already": products,
                "ours, forward": lambda x=x, w=w: native.multiply(x, w, rules.gather),
                "ours, weight gradient": lambda x=x: native.weight_gradient(x, x, rules.gather),
            }
        )
        title = f"3 x 3 x 3, {channels} channels, {len(sites):,} voxels, {pairs / len(sites):.1f} neighbours"
        print_table(title, seconds, "thin torch.mm, gathered already", "flop", 2.0 * pairs * channels**2)
    model = build_model(NET)
    optimizer = torch.optim.Adam(model.parameters())
    target = (features.sum(dim=1, keepdim=True) > features.sum(dim=1).median()).float()

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy(model(coords, features), target).backward()
        optimizer.step()

    def infer() -> None:
        with torch.no_grad():
            model(coords, features)

    def rulebooks() -> None:
        rulebook.submanifold(sort_sites(coords, SIZE)[0], (3, 3, 3))

    seconds = side_by_side({"training step": step, "inference": infer, "sites and rules of one level": rulebooks})
    print_table(f"SparseCellNet 16 x 4, {len(coords):,} voxels", seconds, "training step", "voxels", len(coords))


if __name__ == "__main__":
    main()
