"""Whole runs of two processes on one node: as one process with the joint batch, and no hang when one ends."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from train.config import load_config
from train.fitting.fit import fit
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("ranks") / "s.zarr", n_files=3, n_voxels=200)


@pytest.fixture
def config(store, tmp_path):
    """A configuration of a real, tiny network; its six images make three steps of two."""
    values = {
        "output_dir": str(tmp_path / "run"),
        "seed": 3,
        "data": {
            "data_path": str(store), "train_i": [0, 2], "inference_i": [0, 2], "threshold": 0, "batch_size": 1,
            "charge": {"transform": "asinh"},
        },
        "model": {
            "name": "cellnet_binary", "spatial_size": [256, 64, 64], "nChannels": 4, "nStrides": 2, "n_2D": 0,
            "downsample_t": [2, 2], "momentum": 0.5,
        },
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "SGD", "lr": 0.3},
        "train": {"n_epochs": 2, "accelerator": "cpu", "batch_norm": "sync", "threads": 1},
        "metrics": {"acc": "BinAccuracy", "ap": "AveragePrecision"},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def command(config, *options):
    return [sys.executable, "-m", "larstore.cli", "train", str(config), "--devices", "2", *options]


def figures(rows):
    """Losses and metrics of each epoch."""
    return [[value for name, value in row.items() if not name.endswith("_time")] for row in rows]


def test_as_one_process_with_the_joint_batch(config, tmp_path):
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint\t") == 1
    run = RunFolder(tmp_path / "run")
    assert sorted(entry.name for entry in run.path.iterdir()) == [
        ".larstore", "about.json", "checkpoints", "configs", "index.html", "out_0.log", "out_1.log", "steps_0.csv",
        "summaries_0.csv",
    ]  # fmt: skip
    assert "rank 1 of 2" in (run.path / "out_1.log").read_text()
    assert "rank 1 of 2" not in done.stderr
    assert len(list((run.path / "configs").iterdir())) == 1

    alone = tmp_path / "alone"
    one = [f"output_dir={alone}", "data.batch_size=2"]
    single = fit(load_config(config, one))
    for two, one_row in zip(figures(run.read_summaries()), figures(single.summaries), strict=True):
        assert two == pytest.approx(one_row, abs=2e-5)  # a changed last bit may exchange two voxels in ap
    weights, other = (load_checkpoint(folder.find_checkpoint())["state_dict"] for folder in (run, RunFolder(alone)))
    for name, tensor in weights.items():
        assert tensor.numpy() == pytest.approx(other[name].numpy(), abs=1e-5), name

    # At the end of an epoch the number of processes may change, both ways; here from a script.
    fewer = fit(load_config(config, [*one[1:], "train.n_epochs=3"]), resume=True)
    more = fit(load_config(config, [one[0], "train.n_epochs=3", "train.devices=2"]), resume=True)
    assert [row["epoch"] for row in more.summaries] == [0, 1, 2]
    assert figures(more.summaries)[2] == pytest.approx(figures(fewer.summaries)[2], abs=2e-5)


def test_torchrun_and_equal_weights(config):
    """With normalisation of each process's own, in bfloat16, with steps of two batches, clipped."""
    options = ["train.batch_norm=local", "train.precision=bf16-mixed", "train.accumulate=2", "train.gradient_clip=0.1"]
    script = Path(__file__).with_name("torchrun_fit.py")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, str(script), str(config), *options], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_error_ends_all_in_one_line(config):
    options = ["--set", "optimizer.lr=1.0e+38", "--set", "train.batch_norm=local"]
    done = subprocess.run(command(config, *options), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("larstore: ")]
    assert len(said) == 1, done.stderr
    assert re.search(r"not finite in epoch 0, batch \d+, images .*\[\(\d, \d, 1\)\].*Fix: ", said[0])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, "1"), (signal.SIGINT, "")])
def test_the_end_of_one_is_the_end_of_all(config, tmp_path, number, victim):
    """A process that is killed takes the others with it; Ctrl-C reaches all of them."""
    process = subprocess.Popen(
        command(config, "--set", "train.n_epochs=100000"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        run, end = RunFolder(tmp_path / "run"), time.monotonic() + 200
        while not run.epochs():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        ids = workers(process.pid)
        assert len(ids) == 2
        if victim:
            (process_of_rank,) = (pid for pid, rank in ids.items() if rank == victim)
            subprocess.run(["kill", f"-{number.value}", str(process_of_rank)], check=True)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in ids)
    assert "Traceback" not in errors
    if victim:
        assert process.returncode == 1
        assert re.search(r"larstore: rank 1 was ended by SIGKILL, the others with it\. Fix: .*--resume", errors)
    else:
        assert process.returncode == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_processes_load_their_modules(config, number, code):
    process = subprocess.Popen(command(config), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 200
        while len(workers(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert "ended by" not in errors


def workers(parent):
    """Processes that ``parent`` started for the training, and the rank of each."""
    found = {}
    for pid in subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split():
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "train.processes.launch" in words:
            found[int(pid)] = words[words.index("train.processes.launch") + 2]
    return found
