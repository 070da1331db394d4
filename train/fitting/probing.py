"""Short trainings that leave no run behind: what `larstore find-lr` and `larstore overfit` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from larstore.errors import ConfigError
from train.fitting.module import ImageModule
from train.fitting.preparing import plain_ctrl_c, prepare_network, stepping, take_over
from train.runtime import without_remarks
from train.schema import Config
from train.streaming.loaders import make_loader
from train.streaming.stream import StreamLoader


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
    config, module, _ = prepare_network(config, [loader], n_steps)
    take_over(module)
    return Probe(config, module, loader)


def train_steps(probe: Probe, batches: Any, n_steps: int, callbacks: Sequence[Callback]) -> None:
    """Train for so many steps, as often through ``batches`` as it takes; nothing is written.

    Raises TrainingError for a loss that is not finite.
    """
    with without_remarks(), plain_ctrl_c():
        trainer = lightning.Trainer(
            accelerator=probe.config.train.accelerator,
            devices=1,
            max_epochs=-1,
            max_steps=n_steps,
            **stepping(probe.config.train),
            callbacks=list(callbacks),
        )
        trainer.fit(probe.module, batches)
