"""SIGKILL at random moments: what remains is resumed, and ends as a run that nobody killed."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


def configuration(store, out, **changes):
    return {
        "output_dir": str(out),
        "seed": 2,
        "trainer": {"name": "one_cycle"},
        "data": {
            "data_path": str(store),
            "train_i": [0, 5],
            "inference_i": [6, 7],
            "threshold": 0,
            "batch_size": 1,
            "charge": {"transform": "asinh"},
            "noise": {"sd": 50.0},
        },
        "model": {
            "name": "cellnet_binary",
            "spatial_size": [256, 64, 64],
            "nChannels": 4,
            "nStrides": 2,
            "n_2D": 0,
            "downsample_t": [2, 2],
            "momentum": 0.5,
        },
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "Adam", "lr": 0.01},
        "train": {
            "n_epochs": 5,
            "threads": 1,
            "accelerator": "cpu",
            "checkpoint_every": {"steps": 1},
            "keep": 2,
            **changes,
        },
        "metrics": {"acc": "BinAccuracy", "ap": "AveragePrecision"},
    }


def assert_equal_runs(a, b):
    assert (a / "steps_0.csv").read_text() == (b / "steps_0.csv").read_text()
    tables = [pd.read_csv(out / "summaries_0.csv", sep="\t") for out in (a, b)]
    pd.testing.assert_frame_equal(*(t.drop(columns=[name for name in t if name.endswith("_time")]) for t in tables))
    left, right = (load_checkpoint(RunFolder(out).find_checkpoint()) for out in (a, b))
    assert all(torch.equal(value, right["state_dict"][name]) for name, value in left["state_dict"].items())
    assert RunFolder(a).epochs() == RunFolder(b).epochs()
    assert not list(b.rglob("*.partial"))


def compare(store, tmp_path, n_kills, point_net, **changes):
    """Train undisturbed and with so many kills. Returns (kills, those after a checkpoint of the same start)."""
    paths = [tmp_path / f"{name}.yaml" for name in "ab"]
    for path in paths:
        path.write_text(yaml.safe_dump(configuration(store, tmp_path / path.stem, **changes)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LARSTORE_TEST_POINT_NET": "1" if point_net else ""}
    command = [sys.executable, "-m", "tests.train.killed_runs", *map(str, paths), str(n_kills), "7"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    return tuple(int(word) for word in done.stdout.split())


def test_killed_a_few_times(tmp_path, copy_of_store):
    store = copy_of_store(tmp_path / "s.zarr", n_voxels=60)
    kills, after_a_checkpoint = compare(store, tmp_path, 3, True, n_epochs=4)
    assert kills == 3
    assert after_a_checkpoint >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # 26 starts, which take a minute on an idle machine
def test_killed_twenty_times_and_more(tmp_path, copy_of_store):
    store = copy_of_store(tmp_path / "s.zarr", n_voxels=300)
    kills, after_a_checkpoint = compare(store, tmp_path, 24, False, n_epochs=12)
    assert kills >= 20
    assert after_a_checkpoint >= 10
