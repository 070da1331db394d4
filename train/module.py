"""The network in training: loss, metrics, optimiser and learning rate as a LightningModule."""

import math
import time
from typing import Any

import lightning
import torch
from torch import Tensor

from larstore.errors import ConfigError, LarstoreError
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
        kind = getattr(torch.optim, section.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise ConfigError(f"optimizer: {section.name!r} is not in torch.optim. Fix: for example Adam, AdamW, SGD")
        arguments = section.arguments
        if section.name in FUSED and not {"foreach", "fused"} & set(arguments):
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
        if not len(batch["coords"]):  # a transform may have emptied it; no network is asked about nothing
            self.losses[part].append(0.0)
            return sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
        output = self.model(batch["coords"], batch["features"])
        # Checked before the loss: torch's binary cross-entropy answers to NaN with an error that names nothing.
        finite = bool(torch.isfinite(output).all())
        loss: Tensor = self.loss(output, batch["target"], batch["weight"]) if finite else output.sum()
        value = float(loss.detach())
        if not (finite and math.isfinite(value)):
            raise TrainingError(
                f"the {part} {'loss' if finite else 'output'} is not finite in epoch {self.current_epoch}, "
                f"batch {batch['number']}, images (file, event, tpc) {batch['keys']}. "
                "Fix: lower optimizer.lr, set train.gradient_clip, or look at these images"
            )
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
        """Let a plateau scheduler see the epoch's validation metric."""
        if self.plateau is not None and isinstance(self.config.trainer, PlateauTrainer):
            value = valid.get(self.config.trainer.metric)
            if value is None:
                raise ConfigError("trainer: schedule_plateau needs validation. Fix: set data.inference_i")
            self.plateau.step(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs of the module beside weights and optimiser: time used, scheduler."""
        checkpoint.setdefault("larstore", {}).update(
            elapsed=self.elapsed,
            plateau=None if self.plateau is None else self.plateau.state_dict(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what `on_save_checkpoint` added."""
        state = checkpoint["larstore"]
        self.elapsed_before, self.started = float(state["elapsed"]), time.monotonic()
        self.plateau_state = state["plateau"]  # the scheduler itself is made later, with the optimiser


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
