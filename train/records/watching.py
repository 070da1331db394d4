"""Callbacks that only look on: how long a training waits for data, and the page in the run's directory."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from larstore.errors import StoreError
from larstore.fs import replace
from train.fitting.module import ImageModule
from train.records.about import keep
from train.records.folder import RunFolder
from train.records.loggers import LogValues
from train.records.run_page import NAME, run_page
from train.schema import Config

log = logging.getLogger("larstore.train")


class DataWait(Callback):
    """Adds up, in ``module.waited``, the seconds of an epoch in which the next batch was not there yet.

    To be the last of the callbacks, so that what others do behind a step is not taken for waiting.
    """

    def __init__(self) -> None:
        self.since = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin anew."""
        assert isinstance(pl_module, ImageModule)
        pl_module.waited, self.since = 0.0, time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch has come."""
        assert isinstance(pl_module, ImageModule)
        pl_module.waited += time.monotonic() - self.since

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """The next one is asked for."""
        self.since = time.monotonic()


class RunPage(Callback):
    """Keeps ``about.json`` and ``index.html`` of a run; where they cannot be written, that is logged and nothing else.

    To come behind the callback that adds a row an epoch.

    Args:
        folder: the run's directory.
        config: of this start.
        rows: a summary an epoch; others add to it.
        start: as `train.records.about.describe_start` gives it.
    """

    def __init__(self, folder: RunFolder, config: Config, rows: list[dict[str, Any]], start: dict[str, Any]) -> None:
        self.folder, self.config, self.rows, self.start = folder, config, rows, start

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Describe the run before its first step."""
        if trainer.is_global_zero:
            keep(self.folder, self.start)
            self._write("training")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the epoch that is over."""
        if trainer.is_global_zero:
            self._write("training")

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The last page stays."""
        if trainer.is_global_zero:
            done = bool(self.rows) and int(self.rows[-1]["epoch"]) + 1 >= self.config.train.n_epochs
            self._write("finished" if done else "stopped before its last epoch", running=False)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Say why it ended."""
        if trainer.is_global_zero:
            reason = str(exception).strip().splitlines()
            self._write(f"stopped: {reason[0] if reason else type(exception).__name__}", running=False)

    def _write(self, state: str, running: bool = True) -> None:
        text = run_page(self.config, self.rows, self.start, state, running).text()
        try:
            replace(self.folder.path / NAME, text.encode("utf-8", "replace"))
        except StoreError as error:
            log.warning("%s", error)


def watchers(
    folder: RunFolder, config: Config, rows: list[dict[str, Any]], start: dict[str, Any], loggers: Sequence[Logger]
) -> list[Callback]:
    """The callbacks of this module and that of the configuration's loggers, in their order."""
    sending = [LogValues(loggers, config, rows, config.train.log_every_n_steps)] if loggers else []
    return [RunPage(folder, config, rows, start), *sending, DataWait()]
