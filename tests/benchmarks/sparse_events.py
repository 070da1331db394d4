"""Batches for the network's benchmarks: tiled voxels of simulated ProtoDUNE-SP events, several events to a batch."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from preprocess.detector import load_detector
from preprocess.simulation import SimulationConfig, simulate
from preprocess.sources import open_source
from preprocess.voxels import Tiler

MUONS = (2.0, 6.0, 12.0, 20.0)
EVENTS = 3  # of each number of muons
THRESHOLD = 300.0  # electrons a tick
SIZE = (1024, 1024, 512)  # voxels; events are some 750 × 150 × 58

Batch = tuple[torch.Tensor, torch.Tensor]


def tiled_events() -> list[Batch]:
    """Coordinates (n, 4) and inputs (n, 3) of each event, smallest first."""
    detector = load_detector("protodune-sp")
    tpc = detector.tpc(1)
    tiler = Tiler(tpc)
    events = []
    for muons in MUONS:
        with tempfile.TemporaryDirectory() as folder:
            config = SimulationConfig(muons=muons)
            paths = simulate(Path(folder), detector, seed=3, n_files=1, events_per_file=EVENTS, config=config)
            for event in open_source(paths[0]).events(tpc):
                voxels = tiler(event.waveform, THRESHOLD)
                coords = np.column_stack([voxels.coords.astype(np.int64), np.zeros(len(voxels), np.int64)])
                events.append((torch.from_numpy(coords), torch.from_numpy(np.arcsinh(voxels.charge * 1e-3))))
    return sorted(events, key=lambda event: len(event[0]))


def batch_of(events: list[Batch], voxels: int) -> Batch:
    """The largest events that fit into so many voxels, more or less, one after another."""
    chosen: list[Batch] = []
    for event in reversed(events):
        if len(event[0]) + sum(len(each[0]) for each in chosen) <= 1.02 * voxels:
            chosen.append(event)
    coords = [each[0] + torch.tensor([0, 0, 0, number]) for number, each in enumerate(chosen)]
    return torch.cat(coords), torch.cat([each[1] for each in chosen])
