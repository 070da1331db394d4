"""The network in training: loss, metrics, optimiser and learning rate as a LightningModule."""

import math
import time
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from larstore.errors import ConfigError, LarstoreError
from train.distributed import gather, gather_objects, size
from train.losses import MultiTaskLoss, make_loss
from train.metrics import Metrics
from train.models import build_model
from train.schema import Config, OneCycleTrainer, PlateauTrainer

FUSED = ("Adam", "AdamW", "SGD")  # of torch.optim: one kernel for all weights, on CPUs and GPUs


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
        if isinstance(self.loss, MultiTaskLoss) and config.data.threshold is not None:
            raise ConfigError(
                f"data.threshold = {config.data.threshold:g} leaves no charge to learn for MultiTaskLoss. "
                "Fix: remove it, and set loss.threshold"
            )
        self.metrics = {
            "train": Metrics(config.metrics, constant_memory=True, loss=self.loss),
            "valid": Metrics(config.metrics, loss=self.loss),
        }
        self.losses: dict[str, list[float]] = {"train": [], "valid": []}
        self.loss_parts: dict[str, dict[str, list[float]]] = {"train": {}, "valid": {}}
        self.base_rates: list[float] = []
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None
        self.elapsed_before = 0.0  # seconds of earlier starts of this run
        self.started = time.monotonic()
        self.agreed: float | None = None  # seconds on the clock of rank 0, at the last batch of several processes

    @property
    def elapsed(self) -> float:
        """Seconds this run has trained, earlier starts included; the same on all processes where several train."""
        if size() > 1:
            return self.elapsed_before if self.agreed is None else self.agreed
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
        kind = getattr(torch.optim, section.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ConfigError(f"optimizer: {section.name!r} is not in torch.optim. Fix: for example Adam, AdamW, SGD")
        arguments = section.arguments
        whole = self.config.train.precision == "32"  # else Lightning cannot clip gradients of a fused one
        if whole and section.name in FUSED and not {"foreach", "fused"} & set(arguments):
            arguments["fused"] = True
        try:
            optimizer = kind(filter(lambda p: p.requires_grad, self.parameters()), **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer: {section.name}: {error}. Fix: correct its arguments") from error
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        trainer = self.config.trainer
        if isinstance(trainer, PlateauTrainer):
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, "max", patience=trainer.patience, factor=trainer.factor
            )
            if self.plateau_state is not None:
                self.plateau.load_state_dict(self.plateau_state)
        return optimizer

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the learning rate of a one-cycle run."""
        if isinstance(self.config.trainer, OneCycleTrainer):
            factor = one_cycle(self.progress, self.config.trainer.warmup, self.config.trainer.final)
            for group, rate in zip(self.trainer.optimizers[0].param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch. Raises TrainingError with the images' keys where it is not finite."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._step(batch, "valid")

    def _step(self, batch: dict[str, Any], part: str) -> Tensor:
        # A transform may have emptied it. No network is asked about nothing, unless other processes wait for its sums.
        if not len(batch["coords"]) and size() == 1:
            self.losses[part].append(0.0)
            return sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
        output = self.model(batch["coords"], batch["features"]).float()
        # Checked before the loss: torch's binary cross-entropy answers to NaN with an error that names nothing.
        self._check_finite(bool(torch.isfinite(output).all()), "output", batch, part)
        with torch.autocast(output.device.type, enabled=False):
            loss: Tensor = self.loss(output, batch["target"], batch["weight"])
        value = float(loss.detach())
        self._check_finite(math.isfinite(value), "loss", batch, part)
        self._note(value, float(batch["weight"].sum()) > 0, part)
        self.metrics[part].update(output, batch["target"], batch["weight"])
        return loss

    def _check_finite(self, finite: bool, what: str, batch: dict[str, Any], part: str) -> None:
        """Raise TrainingError on all processes where a number of one is not finite."""
        if all(row[0] for row in gather([float(finite)])):
            return
        about = f"epoch {self.current_epoch}, batch {batch['number']}, images (file, event, tpc) {batch['keys']}"
        wrong = [each for each in gather_objects(None if finite else about) if each is not None]
        raise TrainingError(
            f"the {part} {what} is not finite in {'; and in '.join(wrong)}. "
            "Fix: lower optimizer.lr, set train.gradient_clip, or look at these images"
        )

    def _note(self, value: float, counts: bool, part: str) -> None:
        """Keep the loss of a batch and its parts for the summary: in training those of the joint batch.

        Batches of validation are each their own, in the order of the ranks; a repeated one, of weight 0, is none.
        """
        parts = {name: float(tensor) for name, tensor in self.loss.parts.items()}
        if size() == 1:
            rows = [[value, *parts.values()]]
        else:
            table = gather([self.elapsed_before + time.monotonic() - self.started, counts, value, *parts.values()])
            self.agreed = table[0][0]
            rows = [row[2:] for row in table if row[1]] or [row[2:] for row in table[:1]]
            if part == "train":
                rows = [[_joint(column, len(table)) for column in zip(*rows, strict=True)]]
        for row in rows:
            self.losses[part].append(row[0])
            for name, number in zip(parts, row[1:], strict=True):
                self.loss_parts[part].setdefault(name, []).append(number)

    def summary(self, part: str) -> dict[str, float]:
        """Means over batches of the loss and its parts, and the metrics, since the last call; empty without a batch."""
        losses, self.losses[part] = self.losses[part], []
        parts, self.loss_parts[part] = self.loss_parts[part], {}
        if not losses:
            return {}
        means = {f"{name}_loss": _mean(values) for name, values in parts.items()}
        return {"loss": _mean(losses), **means, **self.metrics[part].compute()}

    def end_epoch(self, valid: dict[str, float]) -> None:
        """Let a plateau scheduler see the epoch's validation metric."""
        if self.plateau is not None and isinstance(self.config.trainer, PlateauTrainer):
            value = valid.get(self.config.trainer.metric)
            if value is None:
                raise ConfigError("trainer: schedule_plateau needs validation. Fix: set data.inference_i")
            self.plateau.step(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs beside weights and optimiser: time used, scheduler, random numbers."""
        checkpoint.setdefault("larstore", {}).update(
            elapsed=self.elapsed,
            random=torch.get_rng_state(),
            plateau=None if self.plateau is None else self.plateau.state_dict(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what `on_save_checkpoint` added."""
        state = checkpoint["larstore"]
        self.elapsed_before, self.started = float(state["elapsed"]), time.monotonic()
        torch.set_rng_state(state["random"])
        self.plateau_state = state["plateau"]  # the scheduler itself is made later, with the optimiser


def _joint(values: Sequence[float], n: int) -> float:
    """The mean over ``n`` processes, of which those that are not here have nothing to add; NaN if none has."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / n if counted else math.nan


def _mean(values: list[float]) -> float:
    """Of the batches in which something counted, NaN if there was none."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


def one_cycle(progress: float, warmup: float, final: float) -> float:
    """Factor on the learning rate: linear from 0.1 to 1 over ``warmup``, then a cosine down to ``final`` at 1."""
    if progress < warmup:
        return 0.1 + 0.9 * progress / warmup
    fall = (progress - warmup) / (1.0 - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * fall))
