"""Short trainings that leave no run behind: what `larstore find-lr` and `larstore overfit` share."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from larstore.errors import ConfigError
from train.config import with_inputs, with_planes
from train.distributed import set_batch_norm
from train.loaders import input_planes, make_loader
from train.module import ImageModule
from train.runtime import device_of, without_remarks
from train.schema import Config
from train.sparse.backends import use_backend
from train.stream import StreamLoader
from train.transfer import freeze, transfer


@dataclass(frozen=True)
class Probe:
    """A network as a training of ``config`` would start with it, and the loader of its images."""

    config: Config
    module: ImageModule
    loader: StreamLoader


def make_probe(config: Config, n_steps: int, augmented: bool) -> Probe:
    """Draw the weights, or take them over, as `train.fit` does.

    Args:
        config: without a time limit, ``output_dir`` is not touched.
        n_steps: of the course of the learning rate.
        augmented: the training's images; else the same images in their order, without what is random or cut off.

    Raises ConfigError for settings that do not fit each other or the stores.
    """
    if not config.data.sources("train"):
        raise ConfigError("data.train_i is missing. Fix: add it; this command trains on its images")
    data = config.data if augmented else config.data.model_copy(update={"inference_i": config.data.train_i})
    train = config.train.model_copy(update={"max_minutes": None})
    config = config.model_copy(update={"data": data, "train": train})
    loader = make_loader(config, "train" if augmented else "valid")
    assert loader is not None
    planes = input_planes(config, [loader])
    config = with_inputs(with_planes(config, planes), len(planes))
    torch.manual_seed(config.seed)
    module = ImageModule(config, n_steps)
    use_backend(module.model, config.train.backend, device_of(config), training=True)
    set_batch_norm(module.model, config.train.batch_norm)
    if config.train.transfer is not None:
        taken = transfer(module.model, config, config.train.transfer).taken
        module.hold(freeze(module.model, config.train.transfer.freeze, taken))
    return Probe(config, module, loader)


def train_steps(probe: Probe, batches: Any, n_steps: int, callbacks: Sequence[Callback]) -> None:
    """Train for so many steps, as often through ``batches`` as it takes; nothing is written.

    Raises TrainingError for a loss that is not finite.
    """
    with without_remarks(), _ctrl_c():
        trainer = lightning.Trainer(
            accelerator=probe.config.train.accelerator,
            devices=1,
            max_epochs=-1,
            max_steps=n_steps,
            gradient_clip_val=probe.config.train.gradient_clip,
            gradient_clip_algorithm=probe.config.train.gradient_clip_algorithm,
            accumulate_grad_batches=probe.config.train.accumulate,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
        )
        trainer.fit(probe.module, batches)


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Lightning answers Ctrl-C with SystemExit, after which it ignores further ones."""
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stop
