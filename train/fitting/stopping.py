"""What an epoch's summary decides: whether it is the best one so far, whether the run ends early."""

import math
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping

from larstore.errors import ConfigError
from train.objective.metrics import keeps_all, make_metric
from train.schema import Config, EarlyStoppingConfig, JudgedBy

Mode = Literal["min", "max"]


def column_of(metric: str) -> str:
    """The summaries' column that a configuration's ``metric`` names: validation's, where it does not say."""
    return metric if metric.startswith(("train_", "valid_")) else f"valid_{metric}"


def mode_of(section: JudgedBy, config: Config, key: str) -> Mode:
    """Whether less or more is better. Raises ConfigError where neither the configuration nor the metric says."""
    if section.mode is not None:
        return section.mode
    name = column_of(section.metric).partition("_")[2]
    if name == "loss" or name.endswith("_loss"):
        return "min"
    higher = make_metric(config.metrics[name]).higher_is_better if name in config.metrics else None
    if higher is None:
        raise ConfigError(f"train.{key}: is less or more {section.metric} better? Fix: train.{key}.mode: min or max")
    return "max" if higher else "min"


def check_metric(section: JudgedBy, config: Config, key: str) -> None:
    """Refuse (ConfigError) a metric that no summary will have."""
    part, _, name = column_of(section.metric).partition("_")
    if part == "valid" and not config.data.sources("inference"):
        raise ConfigError(
            f"train.{key}.metric: {section.metric} is of the validation. Fix: set data.inference_i, or train_loss"
        )
    losses = ["loss", *(["score_loss", "charge_loss"] if config.loss and config.loss.name == "MultiTaskLoss" else [])]
    known = [*losses, *config.metrics]
    if part == "train":
        known = [*losses, *(name for name, block in config.metrics.items() if not keeps_all(make_metric(block)))]
    if name not in known:
        raise ConfigError(
            f"train.{key}.metric: {section.metric!r} is not in the summaries. Fix: one of "
            f"{', '.join(known if part == 'valid' else [f'train_{each}' for each in known])}"
        )


class Best:
    """The best epoch so far."""

    def __init__(self, column: str, mode: Mode) -> None:
        self.column, self.mode = column, mode
        self.epoch: int | None = None
        self.value = math.nan

    def take(self, row: dict[str, Any]) -> bool:
        """Whether this epoch is better than all before; an equal or NaN one is not."""
        value = float(row.get(self.column, math.nan))
        better = not math.isnan(value) and (
            self.epoch is None or (value < self.value if self.mode == "min" else value > self.value)
        )
        if better:
            self.epoch, self.value = int(row["epoch"]), value
        return better

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"column": self.column, "mode": self.mode, "epoch": self.epoch, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, unless it is of another column."""
        if (state["column"], state["mode"]) == (self.column, self.mode):
            self.epoch, self.value = state["epoch"], float(state["value"])


def make_best(config: Config) -> Best | None:
    """As configured; None for the default, the validation's loss, in a run without validation. Raises ConfigError."""
    best = config.train.best
    if best.metric is None and not config.data.sources("inference"):
        return None
    section = JudgedBy(metric=best.metric or "loss", mode=best.mode)
    check_metric(section, config, "best")
    return Best(column_of(section.metric), mode_of(section, config, "best"))


class Stopping:
    """Lightning's early stopping, looking at our summaries."""

    def __init__(self, section: EarlyStoppingConfig, mode: Mode) -> None:
        self.patience = section.patience
        self.rule = EarlyStopping(
            column_of(section.metric),
            min_delta=section.min_delta,
            patience=section.patience,
            mode=mode,
            check_finite=False,  # NaN, a metric without a true voxel, is an epoch that was not better
            check_on_train_epoch_end=True,
        )

    def take(self, trainer: lightning.Trainer, module: lightning.LightningModule, row: dict[str, Any]) -> bool:
        """Whether the run ends after this epoch; tells the trainer so. Called on all ranks."""
        value = torch.tensor(float(row.get(self.rule.monitor, math.nan)), dtype=torch.float64)
        trainer.callback_metrics[self.rule.monitor] = value
        self.rule.on_train_epoch_end(trainer, module)
        return self.over

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self.rule.wait_count >= self.patience

    @property
    def why(self) -> tuple[str, int]:
        """The column, and for how many epochs it has not got better."""
        return self.rule.monitor, self.rule.wait_count

    def state_dict(self) -> dict[str, Any]:
        """As Lightning keeps it, and of which column."""
        return {"column": self.rule.monitor, "mode": self.rule.mode, "rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, unless it is of another column; patience is the configuration's."""
        if (state["column"], state["mode"]) == (self.rule.monitor, self.rule.mode):
            self.rule.load_state_dict({**state["rule"], "patience": self.patience})


def make_stopping(config: Config) -> Stopping | None:
    """As configured. Raises ConfigError."""
    section = config.train.early_stopping
    if section is None:
        return None
    check_metric(section, config, "early_stopping")
    return Stopping(section, mode_of(section, config, "early_stopping"))
