"""The network in training: loss, metrics, optimiser and learning rate as a LightningModule."""

import math
import time
from typing import Any

import lightning
import torch
from torch import Tensor

from larstore.errors import ConfigError, LarstoreError
from train.losses import make_loss
from train.metrics import Metrics
from train.models import build_model, check_scores
from train.optimisers import make_optimiser
from train.schedules import Schedule, make_schedule, one_cycle
from train.schema import Config, OneCycleTrainer
from train.transfer import hold_norms


class TrainingError(LarstoreError):
    """Training cannot go on."""


class ImageModule(lightning.LightningModule):
    """Trains the network of a configuration on batches of an `ImageStream`.

    Args:
        config: the whole configuration; ``loss`` and ``optimizer`` are needed.
        n_steps: steps that the run is expected to take, for the learning rate's course.
    """

    def __init__(self, config: Config, n_steps: int) -> None:
        super().__init__()
        if config.loss is None or config.optimizer is None:
            missing = "loss" if config.loss is None else "optimizer"
            raise ConfigError(f"{missing} is missing. Fix: add it; configs/ghost3d.yaml shows how")
        self.config, self.n_steps = config, n_steps
        self.model = build_model(config.model.model_dump())
        self.loss = make_loss(config.loss)
        self.loss.check_data(config.data, config.loss.name)
        check_scores(config.model.model_dump(), config.loss.name, self.loss.takes_scores)
        self.metrics = {
            "train": Metrics(config.metrics, constant_memory=True, loss=self.loss),
            "valid": Metrics(config.metrics, loss=self.loss),
        }
        self.losses: dict[str, list[float]] = {"train": [], "valid": []}
        self.loss_parts: dict[str, dict[str, list[float]]] = {"train": {}, "valid": {}}
        self.frozen: list[str] = []  # parameters of the model that are not trained
        self.waited = 0.0  # seconds of this epoch without a batch to work on
        self.base_rates: list[float] = []
        self.schedule: Schedule | None = None
        self.schedule_state: dict[str, Any] | None = None
        self.last_counted: tuple[int, int] | None = None  # epoch and batch whose loss is in the summaries already
        self.elapsed_before = 0.0  # seconds of earlier starts of this run
        self.started = time.monotonic()
        self.configure_optimizers()  # again when training starts; mistakes are told before anything is written

    def train(self, mode: bool = True) -> "ImageModule":
        """Training or evaluation mode; what is frozen stays in evaluation."""
        super().train(mode)
        hold_norms(self.model, self.frozen)
        return self

    def hold(self, frozen: list[str]) -> None:
        """Note which parameters are frozen, and keep their normalisations in evaluation from now on."""
        self.frozen = frozen
        self.train(self.training)

    @property
    def elapsed(self) -> float:
        """Seconds this run has trained, earlier starts included."""
        return self.elapsed_before + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Fraction of the run that is over, by steps or by the time limit, whichever is further."""
        minutes = self.config.train.max_minutes
        by_time = self.elapsed / (60 * minutes) if minutes else 0.0
        return min(1.0, max(self.global_step / max(1, self.n_steps), by_time))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of torch.optim that the configuration names. Raises ConfigError."""
        section = self.config.optimizer
        assert section is not None
        optimizer = make_optimiser(section, (p for p in self.parameters() if p.requires_grad))
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.schedule = make_schedule(self.config.trainer, optimizer, self.n_steps, self.config.train.n_epochs)
        if self.schedule is not None and self.schedule_state is not None:
            self.schedule.load_state_dict(self.schedule_state)
        return optimizer

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, and of a scheduler that goes by steps: before anything is saved."""
        super().optimizer_step(*args, **kwargs)
        if self.schedule is not None:
            self.schedule.after_step()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the learning rate of a one-cycle run."""
        if isinstance(self.config.trainer, OneCycleTrainer):
            factor = one_cycle(self.progress, self.config.trainer.warmup, self.config.trainer.final)
            for group, rate in zip(self.trainer.optimizers[0].param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch. Raises TrainingError with the images' keys where it is not finite.

        Some optimisers (LBFGS) ask for it several times a step: the first one counts in the summaries.
        """
        counts = self.last_counted != (self.current_epoch, batch_idx)
        self.last_counted = (self.current_epoch, batch_idx)
        return self._step(batch, "train", counts)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._step(batch, "valid")

    def _step(self, batch: dict[str, Any], part: str, counts: bool = True) -> Tensor:
        if not len(batch["coords"]):  # a transform may have emptied it; no network is asked about nothing
            if counts:
                self.losses[part].append(0.0)
            return sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
        output = self.model(batch["coords"], batch["features"])
        # Checked before the loss: torch's binary cross-entropy answers to NaN with an error that names nothing.
        finite = bool(torch.isfinite(output).all())
        loss: Tensor = self.loss(output, batch["target"], batch["weight"], batch) if finite else output.sum()
        value = float(loss.detach())
        if not (finite and math.isfinite(value)):
            raise TrainingError(
                f"the {part} {'loss' if finite else 'output'} is not finite in epoch {self.current_epoch}, "
                f"batch {batch['number']}, images (file, event, tpc) {batch['keys']}. "
                "Fix: lower optimizer.lr, set train.gradient_clip, or look at these images"
            )
        if not counts:
            return loss
        self.losses[part].append(value)
        for name, tensor in self.loss.parts.items():
            self.loss_parts[part].setdefault(name, []).append(float(tensor))
        self.metrics[part].update(output, batch["target"], batch["weight"])
        return loss

    def summary(self, part: str) -> dict[str, float]:
        """Means over batches of the loss and its parts, and the metrics, since the last call; empty without a batch."""
        losses, self.losses[part] = self.losses[part], []
        parts, self.loss_parts[part] = self.loss_parts[part], {}
        if not losses:
            return {}
        means = {f"{name}_loss": _mean(values) for name, values in parts.items()}
        return {"loss": _mean(losses), **means, **self.metrics[part].compute()}

    def end_epoch(self, valid: dict[str, float]) -> None:
        """Let the scheduler know that an epoch is over, with the values of its validation."""
        if self.schedule is not None:
            self.schedule.after_epoch(valid)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs beside weights and optimiser: time used, scheduler, random numbers."""
        checkpoint.setdefault("larstore", {}).update(
            elapsed=self.elapsed,
            random=torch.get_rng_state(),
            schedule=None if self.schedule is None else self.schedule.state_dict(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what `on_save_checkpoint` added."""
        state = checkpoint["larstore"]
        self.elapsed_before, self.started = float(state["elapsed"]), time.monotonic()
        torch.set_rng_state(state["random"])
        self.schedule_state = state["schedule"]  # the scheduler itself is made later, with the optimiser


def _mean(values: list[float]) -> float:
    """Of the batches in which something counted, NaN if there was none."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan
