"""When checkpoints are written, and what happens if one cannot be."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from train.fitting.module import TrainingError
from train.fitting.signals import Signals, Stopped, requeue
from train.processes.distributed import any_of, gather_objects
from train.records.folder import RunFolder
from train.resuming.checkpoint import link_checkpoint, write_checkpoint
from train.resuming.run_state import RunState
from train.schema import TrainConfig

log = logging.getLogger("larstore.train")


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written as ours are; a failure is kept, since only one of several ranks would see it."""

    failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        try:
            write_checkpoint(checkpoint, path)
            self.failure = None
        except OSError as error:
            self.failure = error


class Checkpoints:
    """Writes the checkpoints of a run. One that cannot be written is a warning; the older ones stay as they are.

    Its methods are called on all ranks, and the first one writes.
    """

    def __init__(self, folder: RunFolder, state: RunState, train: TrainConfig, n_epochs: int) -> None:
        self.folder, self.state, self.every, self.keep = folder, state, train.checkpoint_every, train.keep
        self.n_epochs = n_epochs
        self.io = SafeCheckpointIO()
        self.failed: str | None = None  # why the newest one is missing

    def within_epoch(self, trainer: lightning.Trainer, stage: str) -> None:
        """Replace ``last.pth.tar`` in the middle of an epoch."""
        self.state.stage = stage
        self._write(trainer, self.folder.last)
        self.state.stage = None

    def end_of_epoch(self, trainer: lightning.Trainer, epoch: int, best: bool, final: bool) -> None:
        """Write the epoch's checkpoint, which is also the last one, and may be the best one."""
        numbered = final or (epoch + 1) % self.every.epochs == 0
        path = self.folder.checkpoint(epoch) if numbered else self.folder.last
        if not self._write(trainer, path) or not trainer.is_global_zero:
            return
        try:
            if numbered:
                link_checkpoint(path, self.folder.last)
            if best:
                link_checkpoint(path, self.folder.best)
        except OSError as error:
            self._fail(path, error)
            return
        self.prune(epoch)

    def prune(self, epoch: int) -> None:
        """Remove what ``keep`` does not keep, of the epochs up to this one; later ones are of another course."""
        if isinstance(self.keep, int):
            for old in [each for each in self.folder.epochs() if each <= epoch][: -self.keep]:
                self.folder.checkpoint(old).unlink(missing_ok=True)

    def _write(self, trainer: lightning.Trainer, path: Path) -> bool:
        trainer.save_checkpoint(path, weights_only=False)
        if self.io.failure is not None:
            self._fail(path, self.io.failure)
            return False
        self.failed = None
        return True

    def _fail(self, path: Path, error: OSError) -> None:
        newest = self.folder.newest()
        good = "there is no older one" if newest is None else f"the last good one is {newest}"
        self.failed = f"{path}: could not be written ({error.strerror or error}); {good}"
        log.warning("%s; the training goes on", self.failed)

    def check_last(self) -> None:
        """Raise TrainingError if the newest state is not on disk."""
        if self.failed is not None:
            raise TrainingError(f"{self.failed}. Fix: free space, then --resume: what came after it is done again")


class SaveWithinEpochs(Callback):
    """Between two steps of the optimiser: checkpoints that are due, and the end that a signal asks for.

    Several ranks agree on both, and do it after the same step.
    """

    def __init__(self, checkpoints: Checkpoints, signals: Signals) -> None:
        self.checkpoints, self.every, self.signals = checkpoints, checkpoints.every, signals
        self.saved = time.monotonic()
        self.step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen to signals, after Lightning has."""
        self.signals.listen()
        self.step, self.saved = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save or stop if the batch ended a step. Raises Stopped."""
        if trainer.global_step == self.step:  # gradients are being accumulated
            return
        self.step = trainer.global_step
        due = bool(self.every.steps and self.step % self.every.steps == 0)
        if self.every.minutes:
            due = due or time.monotonic() - self.saved >= 60 * self.every.minutes
        signal = self._agreed(due)
        if signal is None:
            return
        self.checkpoints.within_epoch(trainer, "validation" if trainer.is_last_batch else "batches")
        self.saved = time.monotonic()
        if signal:
            self._stop(trainer, signal, f"in epoch {trainer.current_epoch} after batch {batch['number']}")

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within the validation, which is begun again then. Raises Stopped."""
        signal = self._agreed(False)
        if signal:
            self.checkpoints.within_epoch(trainer, "validation")
            self._stop(trainer, signal, f"in epoch {trainer.current_epoch} at its validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop if a signal came while the epoch's end was written, unless the run ends here. Raises Stopped."""
        if trainer.should_stop or trainer.current_epoch + 1 >= self.checkpoints.n_epochs:
            return
        signal = self._agreed(False)
        if signal:
            self._stop(trainer, signal, f"after epoch {trainer.current_epoch}")

    def _agreed(self, due: bool) -> int | None:
        """The signal that any rank got, 0 if there was none but a checkpoint is due, else None."""
        if not any_of(due or self.signals.received is not None):
            return None
        received: list[int] = gather_objects(self.signals.received or 0)
        return max(received)

    def _stop(self, trainer: lightning.Trainer, number: int, where: str) -> None:
        self.checkpoints.check_last()
        if trainer.is_global_zero:
            log.info("%s: stopped %s (step %d). Go on: --resume", Stopped(number), where, trainer.global_step)
            requeue(number)
        raise Stopped(number)
