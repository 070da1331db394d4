"""What happens around the steps of a training: summaries and checkpoints, the time limit, the progress bar."""

import logging
import sys
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from larstore.errors import LarstoreError
from train.folder import RunFolder
from train.inference import predict
from train.inference_run import by_store, prediction_name, select
from train.module import ImageModule
from train.schema import Config
from train.stream import StreamLoader

log = logging.getLogger("larstore.train")


class EpochEnd(Callback):
    """At the end of each epoch: a row of the summaries and a checkpoint.

    Args:
        folder: the run's directory.
        rows: summaries of earlier epochs; grows by one row an epoch.
        loader: its position becomes part of the checkpoint.
        about: plain values to keep in each checkpoint (configuration, versions, stores).
    """

    def __init__(
        self, folder: RunFolder, rows: list[dict[str, Any]], loader: StreamLoader, about: dict[str, Any]
    ) -> None:
        self.folder, self.rows, self.loader, self.about = folder, rows, loader, about
        self.started = self.valid_started = self.valid_seconds = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the epoch's clock."""
        self.started, self.valid_seconds = time.monotonic(), 0.0

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the validation's clock."""
        self.valid_started = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the validation's clock."""
        self.valid_seconds = time.monotonic() - self.valid_started

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's summary and its checkpoint."""
        assert isinstance(pl_module, ImageModule)
        parts = {part: pl_module.summary(part) for part in ("train", "valid")}
        parts["train"]["time"] = time.monotonic() - self.started - self.valid_seconds
        if parts["valid"]:
            parts["valid"]["time"] = self.valid_seconds
        pl_module.end_epoch(parts["valid"])
        epoch = trainer.current_epoch
        row: dict[str, Any] = {"epoch": epoch}
        row |= {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        row |= {"lr": trainer.optimizers[0].param_groups[0]["lr"], "wait_time": pl_module.waited}
        trainer.save_checkpoint(self.folder.checkpoint(epoch))
        self.rows.append(row)
        if trainer.is_global_zero:
            self.folder.write_summaries(self.rows)
        log.info("epoch %d: %s", epoch, " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch"))

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the stream's position and what the run is about."""
        checkpoint.setdefault("larstore", {}).update(self.about, stream=self.loader.state_dict())


class PredictWhileTraining(Callback):
    """``store_inference``: predictions of validation images, written into their stores as RUN-OUTDIR-EPOCH.

    What cannot be predicted or written does not stop the training; it is logged. Rank 0 predicts.
    """

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder, self.config = folder, config

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Predict with the checkpoint that was just written."""
        wanted, epoch = self.config.store_inference, trainer.current_epoch
        if wanted is None or epoch % wanted.everyNepoch or not trainer.is_global_zero:
            return
        name = prediction_name(self.folder.path, wanted.outdir, f"{epoch:03d}")
        for sources in by_store(self.config.data.sources("inference")).values():
            try:
                with torch.random.fork_rng(devices=[]):  # a new network is drawn, and the training must not notice
                    chosen = select(sources, wanted.everyNsample)
                    predict(self.config, self.folder.checkpoint(epoch), chosen, name, progress=False)
            except LarstoreError as error:
                log.warning("store_inference: %s", error)


class TimeLimit(Callback):
    """End the training after the batch in which the run's time is over; validation and checkpoint still follow."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Look at the clock."""
        assert isinstance(pl_module, ImageModule)
        if pl_module.elapsed > 60 * self.minutes and not trainer.should_stop:
            log.info("train.max_minutes = %g is over", self.minutes)
            trainer.should_stop = True


class ProgressBar(Callback):
    """A bar on stderr, drawn on a terminal only; the lines of the epochs come from the log."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.task: TaskID | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin a new bar."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.bar.start()
        total = trainer.num_training_batches
        self.task = self.bar.add_task(f"epoch {trainer.current_epoch}", total=total, loss=float("nan"))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move it on."""
        assert isinstance(pl_module, ImageModule)
        if self.task is not None:
            self.bar.update(self.task, completed=batch_idx + 1, loss=pl_module.losses["train"][-1])

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take it away, also after an error."""
        self.bar.stop()
