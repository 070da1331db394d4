"""The end of an epoch: a row of the summaries, what it decides, and its checkpoint."""

import json
import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from train.fitting.module import ImageModule
from train.records.folder import RunFolder
from train.resuming.run_state import RunState
from train.resuming.saving import Checkpoints

log = logging.getLogger("larstore.train")


class EpochEnd(Callback):
    """Ends each epoch, in this order: row, learning rate, early stopping, best epoch, checkpoint, table.

    The checkpoint holds the row, so that a kill between it and the table loses nothing.
    """

    def __init__(self, folder: RunFolder, state: RunState, checkpoints: Checkpoints) -> None:
        self.folder, self.state, self.checkpoints = folder, state, checkpoints
        self.valid_started = self.valid_seconds = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set the validation's clock to zero."""
        self.valid_seconds = 0.0

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the validation's clock."""
        self.valid_started = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the validation's clock."""
        self.valid_seconds = time.monotonic() - self.valid_started

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's summary and its checkpoint."""
        assert isinstance(pl_module, ImageModule)
        state, epoch = self.state, trainer.current_epoch
        if state.resumed_stage == "validation":  # no batch was left, and Lightning validates after batches only
            validate(trainer)
        row = self._row(trainer, pl_module)
        self._tell_emptied(trainer, pl_module)
        stopping = state.stopping is not None and state.stopping.take(trainer, pl_module, row)
        best = state.best is not None and state.best.take(row)
        state.rows.append(row)
        state.end_epoch()
        final = trainer.should_stop or epoch + 1 >= self.checkpoints.n_epochs
        self.checkpoints.end_of_epoch(trainer, epoch, best, final)
        if not trainer.is_global_zero:
            return
        self.folder.write_summaries(state.rows)
        log.info("epoch %d: %s", epoch, " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch"))
        if stopping and state.stopping is not None:
            log.info("early stopping: %s has not got better for %d epochs", *state.stopping.why)

    def _tell_emptied(self, trainer: lightning.Trainer, module: ImageModule) -> None:
        """Warn of an epoch in which most images were nothing to learn from."""
        empty, images = module.emptied()
        if 2 * empty <= images or not trainer.is_global_zero:
            return
        limits = module.config.data.coord_lim
        why, fix = "in the store", "leave them out of data.train_i"
        if limits is not None:
            why, fix = f"inside data.coord_lim = {json.dumps(limits)}", "larger limits"
        text = "epoch %d: %d of %d training images had no voxel %s, and trained nothing. Fix: %s"
        log.warning(text, trainer.current_epoch, empty, images, why, fix)

    def _row(self, trainer: lightning.Trainer, module: ImageModule) -> dict[str, Any]:
        parts = {part: module.summary(part) for part in ("train", "valid")}
        parts["train"]["time"] = self.state.epoch_seconds - self.valid_seconds
        if parts["valid"]:
            parts["valid"]["time"] = self.valid_seconds
        module.end_epoch(parts["valid"])
        row: dict[str, Any] = {"epoch": trainer.current_epoch}
        row |= {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        row |= {"lr": trainer.optimizers[0].param_groups[0]["lr"], "wait_time": module.waited}
        return row


def validate(trainer: lightning.Trainer) -> None:
    """Run the validation as Lightning does behind an epoch's last batch."""
    if trainer.enable_validation:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
