"""What a training and the short ones of `train.fitting.probing` start with: the network, Lightning's ways."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train.config import with_inputs, with_planes
from train.fitting.module import ImageModule
from train.processes.distributed import set_batch_norm
from train.resuming.transfer import Transferred, freeze, transfer
from train.runtime import device_of
from train.schema import Config, TrainConfig
from train.sparse.backends import use_backend
from train.streaming.loaders import input_planes
from train.streaming.stream import StreamLoader


def prepare_network(
    config: Config, loaders: Sequence[StreamLoader | None], n_steps: int
) -> tuple[Config, ImageModule, str]:
    """Draw a network for the images of ``loaders``.

    Returns the configuration with its inputs filled in, the module, and what is to be said of the backend. Raises
    ConfigError for settings that do not fit each other or the stores.
    """
    planes = input_planes(config, list(loaders))
    config = with_inputs(with_planes(config, planes), len(planes))
    torch.manual_seed(config.seed)
    module = ImageModule(config, n_steps)
    backend = use_backend(module.model, config.train.backend, device_of(config), training=True)
    set_batch_norm(module.model, config.train.batch_norm)
    return config, module, backend


def take_over(module: ImageModule) -> Transferred | None:
    """Do what ``train.transfer`` asks for, if anything; raises as `transfer` and `freeze`."""
    wanted = module.config.train.transfer
    if wanted is None:
        return None
    transferred = transfer(module.model, module.config, wanted)
    module.hold(freeze(module.model, wanted.freeze, transferred.taken))
    return transferred


def stepping(train: TrainConfig) -> dict[str, Any]:
    """Arguments of `lightning.Trainer`: how steps are made, and that the rest is ours."""
    return {
        "gradient_clip_val": train.gradient_clip,
        "gradient_clip_algorithm": train.gradient_clip_algorithm,
        "accumulate_grad_batches": train.accumulate,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        # The number of batches is another one each epoch: the voxel budget cuts a new order.
        "reload_dataloaders_every_n_epochs": 1,
    }


@contextmanager
def plain_ctrl_c() -> Iterator[None]:
    """Lightning answers Ctrl-C with SystemExit, after which it ignores further ones: a KeyboardInterrupt instead."""
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stop
