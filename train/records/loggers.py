"""Lightning's loggers by name (`loggers:`): summaries of epochs and losses of steps, beside the run's own table."""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import loggers as known
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from larstore.errors import ConfigError
from train.fitting.module import ImageModule
from train.records.folder import RunFolder
from train.schema import Config, NamedSection

log = logging.getLogger("larstore.train")
PACKAGES = {
    "TensorBoardLogger": "tensorboard",
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
    "CometLogger": "comet-ml",
    "LitLogger": "litlogger",
}
# Where a block does not say otherwise; save_dir is the run's directory. A resumed run gets the next version_N.
DEFAULTS: dict[str, dict[str, Any]] = {
    "TensorBoardLogger": {"name": "tensorboard", "default_hp_metric": False},
    "CSVLogger": {"name": "csv"},
}


def make_loggers(config: Config, folder: RunFolder) -> list[Logger]:
    """The loggers of a configuration; nothing is written or sent yet.

    Raises ConfigError for an unknown name, a missing package or a wrong argument.
    """
    return [_make(section, folder, f"loggers.{i}") for i, section in enumerate(config.loggers)]


def _make(section: NamedSection, folder: RunFolder, key: str) -> Logger:
    valid = sorted(name for name in known.__all__ if name != "Logger")
    if section.name not in valid:
        raise ConfigError(f"{key}: {section.name!r} is no logger of Lightning. Fix: one of {', '.join(valid)}")
    kind = getattr(known, section.name)
    defaults = {"save_dir": str(folder.path), **DEFAULTS.get(section.name, {})}
    arguments = {k: v for k, v in defaults.items() if k in inspect.signature(kind).parameters} | section.arguments
    try:
        made: Logger = kind(**arguments)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(section.name, error.name)
        raise ConfigError(
            f"{key}: {section.name} needs the package {package}. Fix: pip install {package}, or remove it from loggers"
        ) from error
    except (TypeError, ValueError, MisconfigurationException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: {section.name}: {reason}. Fix: correct its arguments") from error
    return made


class LogValues(Callback):
    """Sends values to loggers: each epoch's summary, and the loss and learning rate of every n-th step.

    A logger that cannot be started ends the run before its first step. One that fails later (a server, a disk) is
    told once an epoch, and the training goes on.

    Args:
        loggers: what `make_loggers` made.
        rows: a summary an epoch, as in the CSV; others add to it.
        every: steps.
    """

    def __init__(self, loggers: Sequence[Logger], config: Config, rows: list[dict[str, Any]], every: int) -> None:
        self.loggers, self.config, self.rows, self.every = list(loggers), config, rows, every
        self.told: set[int] = set()  # loggers whose failure was told in this epoch
        self.logged = -1  # the last step that was sent

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the loggers. Raises ConfigError for one that does not."""
        if not trainer.is_global_zero:
            self.loggers = []
        for logger in self.loggers:
            try:
                logger.log_hyperparams(self.config.plain())
                logger.save()
            except Exception as error:  # a third party's own, of any kind
                name = type(logger).__name__
                raise ConfigError(f"loggers: {name}: {_line(error)}. Fix: correct it, or remove it") from error

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Failures are told anew."""
        self.told = set()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Send what the step was."""
        assert isinstance(pl_module, ImageModule)
        step = trainer.global_step
        if step % self.every or step == self.logged:
            return
        self.logged = step
        values = {"step_loss": pl_module.losses["train"][-1], "step_lr": trainer.optimizers[0].param_groups[0]["lr"]}
        self._send({k: v for k, v in values.items() if math.isfinite(v)}, step)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Send the epoch's summary."""
        if not self.rows or int(self.rows[-1]["epoch"]) != trainer.current_epoch:
            return
        values = {name: float(value) for name, value in self.rows[-1].items()}
        self._send({k: v for k, v in values.items() if math.isfinite(v)}, trainer.global_step, save=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the loggers."""
        self._each(lambda logger: logger.finalize("success"))

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the loggers."""
        self._each(lambda logger: logger.finalize("failed"))

    def _send(self, values: dict[str, float], step: int, save: bool = False) -> None:
        def send(logger: Logger) -> None:
            logger.log_metrics(values, step)
            if save:
                logger.save()

        self._each(send)

    def _each(self, act: Any) -> None:
        for i, logger in enumerate(self.loggers):
            try:
                act(logger)
            except Exception as error:  # noqa: BLE001 - a third party's own, of any kind; days of training outlive it
                if i not in self.told:
                    log.warning(
                        "loggers: %s: %s: values of this epoch are missing there", type(logger).__name__, _line(error)
                    )
                self.told.add(i)


def _line(error: Exception) -> str:
    """An error of somebody else in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
