"""Training as tasks of srun: they find each other, train as one, and end together."""

import sys
from pathlib import Path

import pytest
import yaml

from larstore import create, testing
from tests.slurm.small_slurm import SmallSlurm, until
from train.records.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def settings(folder: Path, **train: object) -> Path:
    """The configuration of a tiny training, and its store, in a folder."""
    store = folder / "s.zarr"
    create(store, geometry=testing.make_geometry((1,)), provenance={"made by": "larstore.testing"})
    testing.add_images(store, [testing.make_image(file, 0, 1, 150) for file in range(4)])
    values = {
        "output_dir": str(folder / "run"),
        "data": {"data_path": str(store), "train_i": [0, 3], "inference_i": [0, 3], "threshold": 0},
        "model": {
            "name": "cellnet_binary", "spatial_size": [256, 64, 64], "nChannels": 4, "nStrides": 2, "n_2D": 0,
            "downsample_t": [2, 2],
        },
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "Adam", "lr": 0.01},
        "train": {"n_epochs": 2, "accelerator": "cpu", "batch_norm": "sync", **train},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def submit(slurm: SmallSlurm, folder: Path, config: Path, srun: str) -> str:
    """Run a batch script whose last line is ``srun …`` before the command, and wait for it; its output."""
    script, output = folder / "job.sh", folder / "job.out"
    lines = [
        "#!/bin/bash",
        "#SBATCH --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=00:05:00",
        f"#SBATCH --output={output}",
        f"{srun} {sys.executable} -m larstore.cli train {config}",
    ]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    slurm.ask("sbatch", str(script))
    until(slurm.is_empty, "the end of the job", 300)
    return output.read_text(encoding="utf-8")


def test_two_tasks_train(slurm: SmallSlurm, tmp_path: Path):
    said = submit(slurm, tmp_path, settings(tmp_path), "srun --kill-on-bad-exit=1")
    run = RunFolder(tmp_path / "run")
    assert run.epochs() == [0, 1], said
    assert said.count("checkpoint\t") == 1, said
    for rank in range(2):
        assert f"1 threads, rank {rank} of 2" in (run.path / f"out_{rank}.log").read_text(encoding="utf-8")


def test_what_contradicts_slurm_is_said(slurm: SmallSlurm, tmp_path: Path):
    config = settings(tmp_path, devices=4)
    said = submit(slurm, tmp_path, config, "srun --kill-on-bad-exit=1")
    assert "train.devices = 4, but srun started 2 processes a node (SLURM_NTASKS = 2). Fix: --devices 2" in said
    assert "Traceback" not in said
    config.write_text(config.read_text(encoding="utf-8").replace("devices: 4", "devices: null"), encoding="utf-8")
    said = submit(slurm, tmp_path, config, "")
    assert "Slurm holds 2 tasks for this job, and larstore was started once. Fix: srun larstore train" in said
    assert not (tmp_path / "run").exists()
