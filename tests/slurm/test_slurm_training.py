"""Training as tasks of srun: they find each other, train as one, and end together."""

import sys
from pathlib import Path

import pandas as pd
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


def queued(slurm: SmallSlurm, folder: Path, config: Path, srun: str, *options: str) -> tuple[str, Path]:
    """A batch script whose last line is ``srun …`` before the command: number of its job, and where its output goes."""
    script, output = folder / "job.sh", folder / "job.out"
    lines = [
        "#!/bin/bash",
        "#SBATCH --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --time=00:05:00",
        f"#SBATCH --output={output}",
        *(f"#SBATCH {option}" for option in options),
        f"{srun} {sys.executable} -m larstore.cli train {config}",
    ]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return slurm.ask("sbatch", "--parsable", str(script)), output


def submit(slurm: SmallSlurm, folder: Path, config: Path, srun: str) -> str:
    """The output of such a job, when it has ended."""
    _, output = queued(slurm, folder, config, srun)
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


def losses(folder: Path) -> pd.DataFrame:
    """Epochs and losses of a run, without its times."""
    table = pd.read_csv(folder / "run" / "summaries_0.csv", sep="\t")
    return table[["epoch", "train_loss", "valid_loss"]]


def test_a_requeued_job_goes_on_with_the_same_losses(slurm: SmallSlurm, tmp_path: Path):
    """The controller's signal before the time is over, its requeueing and its second start; two processes."""
    folders = tmp_path / "undisturbed", tmp_path / "requeued"
    for folder in folders:
        folder.mkdir()
    submit(slurm, folders[0], settings(folders[0], n_epochs=40), "srun --kill-on-bad-exit=1")
    job, output = queued(
        slurm, folders[1], settings(folders[1], n_epochs=40), "srun --kill-on-bad-exit=1",
        "--requeue", "--open-mode=append",
    )  # fmt: skip
    run = RunFolder(folders[1] / "run")
    until(lambda: len(run.epochs()) > 1, "the first epochs of the job")
    slurm.ask("scancel", "--signal=USR1", job)  # to the steps, as `sbatch --signal` does
    until(lambda: slurm.queue("PENDING"), "the job in the queue again")
    done_before = run.epochs()
    assert done_before[-1] < 39
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # else Slurm lets it wait for two minutes
    until(slurm.is_empty, "the end of the job", 300)
    said = output.read_text(encoding="utf-8")
    assert f"Slurm job {job} is requeued" in said
    assert "Traceback" not in said
    assert run.epochs()[-1] == 39, said
    pd.testing.assert_frame_equal(losses(folders[1]), losses(folders[0]), check_exact=True)
