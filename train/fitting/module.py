"""The network in training: loss, metrics, optimiser and learning rate as a LightningModule."""

import math
import time
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from larstore.errors import ConfigError, LarstoreError
from train.models import build_model, check_scores
from train.objective.losses import make_loss
from train.objective.metrics import Metrics
from train.objective.optimisers import make_optimiser
from train.objective.schedules import Schedule, make_schedule, one_cycle
from train.processes.distributed import any_of, gather, gather_objects, size
from train.resuming.transfer import hold_norms
from train.schema import Config, OneCycleTrainer


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
            raise ConfigError(f"{missing} is missing. Fix: add it; 'larstore examples ghost3d' shows how")
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
        self.images = [0, 0]  # trained on in this epoch in this process, and those among them without a voxel
        self.waited = 0.0  # seconds of this epoch without a batch to work on
        self.base_rates: list[float] = []
        self.schedule: Schedule | None = None
        self.schedule_state: dict[str, Any] | None = None
        self.last_counted: tuple[int, int] | None = None  # epoch and batch whose loss is in the summaries already
        self.elapsed_before = 0.0  # seconds of earlier starts of this run
        self.started = time.monotonic()
        self.agreed: float | None = None  # seconds on the clock of rank 0, at the last batch of several processes
        if config.optimizer.name == "LBFGS" and config.train.accumulate > 1:
            # It asks for the loss of a batch again and again, and Lightning would add up the gradients of all times.
            raise ConfigError("train.accumulate: LBFGS cannot sum gradients of batches. Fix: 1, and larger batches")
        self.configure_optimizers()  # again when training starts; mistakes are told before anything is written
        if self.schedule is not None and self.schedule.metric is not None and not config.data.sources("inference"):
            raise ConfigError("trainer: a plateau needs validation. Fix: set data.inference_i")

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
        whole = self.config.train.precision == "32"  # else Lightning cannot clip gradients of a fused one
        optimizer = make_optimiser(section, (p for p in self.parameters() if p.requires_grad), fused=whole)
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
        if counts and not batch.get("repeated"):
            self.images[0] += len(batch["keys"])
            self.images[1] += int((torch.diff(batch["offsets"]) == 0).sum())
        return self._step(batch, "train", counts)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._step(batch, "valid")

    def _step(self, batch: dict[str, Any], part: str, counts: bool = True) -> Tensor:
        # A transform may have emptied it. No network is asked about nothing, unless other processes wait for its sums.
        if not len(batch["coords"]) and size() == 1:
            if counts:
                self.losses[part].append(math.nan)
            return sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), torch.zeros(()))
        output = self.model(batch["coords"], batch["features"]).float()
        # Checked before the loss: torch's binary cross-entropy answers to NaN with an error that names nothing.
        self._check_finite(bool(torch.isfinite(output).all()), "output", batch, part)
        with torch.autocast(output.device.type, enabled=False):
            loss: Tensor = self.loss(output, batch["target"], batch["weight"], batch)
        value = float(loss.detach())
        self._check_finite(math.isfinite(value), "loss", batch, part)
        if not counts:
            return loss
        self._note(value, batch["weight"], part)
        self.metrics[part].update(output, batch["target"], batch["weight"])
        return loss

    def _check_finite(self, finite: bool, what: str, batch: dict[str, Any], part: str) -> None:
        """Raise TrainingError on all processes where a number of one is not finite."""
        if not any_of(not finite):
            return
        about = f"epoch {self.current_epoch}, batch {batch['number']}, images (file, event, tpc) {batch['keys']}"
        wrong = [each for each in gather_objects(None if finite else about) if each is not None]
        raise TrainingError(
            f"the {part} {what} is not finite in {'; and in '.join(wrong)}. "
            "Fix: lower optimizer.lr, set train.gradient_clip, or look at these images"
        )

    def _note(self, value: float, weight: Tensor, part: str) -> None:
        """Keep the loss of a batch and its parts for the summary: in training those of the joint batch.

        Batches of validation are each their own, in the order of the ranks; a repeated one, of weight 0, is none. One
        in which nothing counts, on any process, has NaN, which means leave out.
        """
        parts = {name: float(tensor) for name, tensor in self.loss.parts.items()}
        counts = float(weight.sum()) > 0
        if size() == 1:
            rows = [[value, *parts.values()]] if counts else []
        else:
            table = gather([self.elapsed_before + time.monotonic() - self.started, counts, value, *parts.values()])
            self.agreed = table[0][0]
            rows = [row[2:] for row in table if row[1]]
            if rows and part == "train":
                rows = [[_joint(column, len(table)) for column in zip(*rows, strict=True)]]
        for row in rows or [[math.nan] * (1 + len(parts))]:
            self.losses[part].append(row[0])
            for name, number in zip(parts, row[1:], strict=True):
                self.loss_parts[part].setdefault(name, []).append(number)

    def summary(self, part: str) -> dict[str, float]:
        """Means over batches of the loss and its parts, and the metrics, since the last call; empty without a batch.

        Batches in which no voxel counts are left out; NaN where there is no other.
        """
        losses, self.losses[part] = self.losses[part], []
        parts, self.loss_parts[part] = self.loss_parts[part], {}
        if not losses:
            return {}
        means = {f"{name}_loss": _mean(values) for name, values in parts.items()}
        return {"loss": _mean(losses), **means, **self.metrics[part].compute()}

    def emptied(self) -> tuple[int, int]:
        """Images without a voxel, and all, that were trained on since the last call; in all processes."""
        rows, self.images = gather(self.images), [0, 0]
        images, empty = (int(sum(column)) for column in zip(*rows, strict=True))
        return empty, images

    def end_epoch(self, valid: dict[str, float]) -> None:
        """Let the scheduler know that an epoch is over, with the values of its validation."""
        if self.schedule is not None:
            self.schedule.after_epoch(valid)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs of the module beside weights and optimiser: time used, scheduler."""
        checkpoint.setdefault("larstore", {}).update(
            elapsed=self.elapsed,
            schedule=None if self.schedule is None else self.schedule.state_dict(),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what `on_save_checkpoint` added."""
        state = checkpoint["larstore"]
        self.elapsed_before, self.started = float(state["elapsed"]), time.monotonic()
        self.schedule_state = state["schedule"]  # the scheduler itself is made later, with the optimiser


def _joint(values: Sequence[float], n: int) -> float:
    """The mean over ``n`` processes, of which those that are not here have nothing to add; NaN if none has."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / n if counted else math.nan


def _mean(values: list[float]) -> float:
    """Of the batches in which something counted, NaN if there was none."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan
