"""What happens beside the steps of a training: predictions, the time limit, the progress bar."""

import logging
import sys
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from larstore.errors import LarstoreError
from train.fitting.module import ImageModule
from train.inference.infer import predict
from train.inference.run import by_store, prediction_name, select
from train.processes.distributed import any_of
from train.resuming.saving import Checkpoints
from train.schema import Config

log = logging.getLogger("larstore.train")


class PredictWhileTraining(Callback):
    """``store_inference``: predictions of validation images, written into their stores as RUN-OUTDIR-EPOCH.

    What cannot be predicted or written does not stop the training; it is logged. Rank 0 predicts. A resumed run first
    completes what the last finished epoch's were when it was killed.
    """

    def __init__(self, checkpoints: Checkpoints, config: Config, ended_epoch: int | None) -> None:
        self.checkpoints, self.folder = checkpoints, checkpoints.folder
        self.config, self.ended_epoch = config, ended_epoch

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Complete the predictions of the epoch at whose end the run goes on."""
        if trainer.is_global_zero and self.ended_epoch is not None:
            self._predict(self.ended_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Predict with the checkpoint that was just written."""
        if trainer.is_global_zero:
            self._predict(trainer.current_epoch)

    def _predict(self, epoch: int) -> None:
        wanted = self.config.store_inference
        if wanted is None or epoch % wanted.everyNepoch or self.checkpoints.failed:
            return
        numbered = self.folder.checkpoint(epoch)
        checkpoint = numbered if numbered.exists() else self.folder.last
        name = prediction_name(self.folder.path, wanted.outdir, f"{epoch:03d}")
        for sources in by_store(self.config.data.sources("inference")).values():
            try:
                with torch.random.fork_rng(devices=[]):  # a new network is drawn, and the training must not notice
                    predict(self.config, checkpoint, select(sources, wanted.everyNsample), name, progress=False)
            except LarstoreError as error:
                log.warning("store_inference: %s", error)


class TimeLimit(Callback):
    """End the training after the step in which the run's time is over; validation and checkpoint still follow.

    A run whose time is over is over: resumed, it does nothing more.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.step = 0

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at the clock of a run that goes on at the end of an epoch."""
        state = checkpoint["larstore"]
        if not state.get("unfinished") and state["elapsed"] > 60 * self.minutes:
            trainer.should_stop = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the steps of earlier starts."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Look at the clock where the batch ended a step."""
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the clock after the validation."""
        self._look(trainer, pl_module)

    def _look(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The same on all ranks."""
        assert isinstance(module, ImageModule)
        over = any_of(module.elapsed > 60 * self.minutes)
        if over and not trainer.should_stop:
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
