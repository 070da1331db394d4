"""`larstore overfit`: can the network learn a few images by heart? What cannot do that will not learn anything else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from larstore.errors import ConfigError, LarstoreError
from train.config import naming_file
from train.fitting.module import ImageModule
from train.fitting.probing import Probe, make_probe, train_steps
from train.models import outputs_of
from train.objective.losses import VoxelLoss
from train.runtime import compute_threads, log_to_stderr
from train.schema import BasicTrainer, Config, PlateauTrainer, ScheduleTrainer
from train.streaming.samples import Batch
from train.streaming.stream import ImageStream

LAST = 0.05  # of the steps, whose median loss is the last one


@dataclass(frozen=True)
class Overfit:
    """How it went.

    Attributes:
        losses: of each step.
        keys: (file, event, tpc) of the images.
        voxels: of them, and those among them whose target is above 0.
        constant: loss of the best answer that is the same for every voxel.
        last: median loss of the last steps.
    """

    losses: list[float]
    keys: list[tuple[int, int, int]]
    voxels: int
    true: int
    constant: float
    last: float

    @property
    def fell(self) -> float:
        """How many times lower the last loss is than the first and the best constant answer's."""
        start = min(self.losses[0], self.constant)
        return start / self.last if self.last > 0 else math.inf


class _Course(Callback):
    def __init__(self, tell: Callable[[int, float], None]) -> None:
        self.tell = tell
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        assert isinstance(pl_module, ImageModule)
        self.losses.append(pl_module.losses["train"][-1])
        self.tell(len(self.losses), self.losses[-1])


def overfit(
    config: Config,
    n_batches: int = 1,
    n_steps: int = 200,
    *,
    tell: Callable[[int, float], None] = lambda step, loss: None,
    verbose: bool = False,
) -> Overfit:
    """Train on the first ``n_batches`` batches of the training images again and again, without augmentation.

    Args:
        tell: called with number (from 1) and loss of each step.

    Raises ConfigError for settings that do not fit, or images from which nothing can be learnt.
    """
    if n_batches < 1 or n_steps < 10:
        raise ConfigError(f"overfit: {n_batches} batches, {n_steps} steps. Fix: a batch and 10 steps at least")
    if isinstance(config.trainer, PlateauTrainer | ScheduleTrainer):
        config = config.model_copy(update={"trainer": BasicTrainer()})
    with (
        naming_file(config),
        log_to_stderr(verbose),
        compute_threads(config.train.threads, config.train.backend),
    ):
        probe = make_probe(config, n_steps, augmented=False)
        batches = _first_batches(probe.loader.stream, n_batches)
        constant = float(np.mean([_constant_loss(probe, batch) for batch in batches]))
        course = _Course(tell)
        train_steps(probe, DataLoader(batches, batch_size=None), n_steps, [course])  # type: ignore[arg-type]
    target = torch.cat([batch["target"][batch["weight"] > 0] for batch in batches])
    return Overfit(
        losses=course.losses,
        keys=[key for batch in batches for key in batch["keys"]],
        voxels=len(target),
        true=int((target > 0).sum()),
        constant=constant,
        last=float(np.median(course.losses[-max(n_batches, round(LAST * n_steps)) :])),
    )


def check(result: Overfit, factor: float) -> None:
    """Raise LarstoreError with a diagnosis where the loss did not fall by ``factor``."""
    if result.fell >= factor:
        return
    first, last, constant = result.losses[0], result.last, result.constant
    if last > first:
        why = "it rose: optimizer.lr is too high. Fix: lower it; larstore find-lr suggests one"
    elif last > 0.95 * constant:
        why = (
            "the network answers the same for every voxel: it does not see its inputs, or learns too slowly. Fix: look "
            "at data.charge (inputs of about 1), then raise optimizer.lr (larstore find-lr) or --steps"
        )
    else:
        why = "it falls, but slowly. Fix: more --steps, another optimizer.lr (larstore find-lr), or a larger network"
    raise LarstoreError(
        f"overfit: the loss went from {first:.4g} to {last:.4g} in {len(result.losses)} steps, {result.fell:.3g} times "
        f"lower than it or the best constant answer ({constant:.4g}), not {factor:g} times; {why}"
    )


def _first_batches(stream: ImageStream, wanted: int) -> list[Batch]:
    """The first batches in which a voxel counts."""
    plan, found = stream.plan(0), []
    for number in range(len(plan)):
        batch = stream.load(plan[number], number=number)
        if bool((batch["weight"] > 0).any()):
            found.append(batch)
        if len(found) == wanted:
            return found
    raise ConfigError(f"data.train_i: {len(found)} batches hold voxels with truth. Fix: --batches {len(found) or 1}")


def _constant_loss(probe: Probe, batch: Batch) -> float:
    """The least loss that outputs which are the same for every voxel reach: scores in (0, 1), others unbounded."""
    loss: VoxelLoss = probe.module.loss
    scores = torch.tensor([name == "score" for name in outputs_of(probe.config.model.model_dump())])
    target, weight = batch["target"], batch["weight"]
    size = (target.abs() * weight).sum() / weight.sum()  # charges may be in electrons
    free = torch.zeros(len(scores), requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")

    def value() -> torch.Tensor:
        constant = torch.where(scores, torch.sigmoid(free), free * size.clamp(min=1e-6))
        result: torch.Tensor = loss(constant.expand(len(target), -1), target, weight, batch)
        return result

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        result = value()
        result.backward()  # type: ignore[no-untyped-call]
        return result

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(value().detach())
