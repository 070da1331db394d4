"""Checkpoints of small networks that were never trained: what inference needs, without a training."""

import torch

from train.config import make_config, with_inputs
from train.models import build_model
from train.resuming.checkpoint import write_checkpoint
from train.runtime import versions

MODEL = {
    "name": "cellnet_binary",
    "spatial_size": [256, 64, 64],
    "nChannels": 4,
    "nStrides": 2,
    "n_2D": 0,
    "downsample_t": [2, 2],
}


def inference_values(store, out, **changes):
    """The values of a configuration for inference, for ``make_config``; ``changes`` name keys as data__threshold."""
    values = {
        "output_dir": str(out),
        "data": {"data_path": str(store), "inference_i": [0, 99], "charge": {"transform": "asinh"}},
        "model": dict(MODEL),
        "train": {"threads": 1, "accelerator": "cpu"},
    }
    for key, value in changes.items():
        block, _, name = key.rpartition("__")
        (values[block] if block else values)[name] = value
    return values


def write_network(config, path, seed=0, epoch=0):
    """Write the checkpoint of a configuration's network as a training would; returns its path."""
    config = with_inputs(config, 3)
    torch.manual_seed(seed)
    model = build_model(config.model.model_dump())
    about = {"config": config.plain(), "versions": versions(), "n_planes": 3, "stores": []}
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    write_checkpoint({"state_dict": weights, "epoch": epoch, "larstore": about}, path)
    return path


def run_of(store, out, epochs=(0,), **changes):
    """The configuration of a run whose directory ``out`` holds checkpoints of these epochs."""
    config = make_config(inference_values(store, out, **changes))
    for epoch in epochs:
        write_network(config, out / "checkpoints" / f"checkpoint_{epoch:03d}.pth.tar", seed=epoch, epoch=epoch)
    return config
