"""``steps_0.csv``: one row a batch that was trained on, which a resumed run cuts back to where it goes on."""

import io
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import lightning
from lightning.pytorch.callbacks import Callback

from train.fitting.module import ImageModule

log = logging.getLogger("larstore.train")

COLUMNS = ("step", "epoch", "batch", "loss", "lr", "images", "voxels")
FLUSH_SECONDS = 5.0  # rows are to be seen after this time, not only when a checkpoint is written


class StepTable(Callback):
    """Appends ``COLUMNS``, tab-separated, the loss with all its digits; of rank 0 only.

    ``step`` counts the optimiser's steps from 0, ``batch`` the epoch's batches of all ranks: it is the number by which
    an `ImageStream` finds the images of the batch again.

    Args:
        path: the table.
        size: bytes of it that belong to the run's past; what follows is of a course that is not gone on with.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.file: BinaryIO | None = None
        self.step = 0
        self.flushed = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the table, cut back."""
        if trainer.is_global_zero:
            self.file = open_cut(self.path, self.size)
            if not self.file.tell():
                self._write(COLUMNS)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which step the batch is part of."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add a row."""
        assert isinstance(pl_module, ImageModule)
        if self.file is None:
            return
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        loss = float(pl_module.losses["train"][-1])
        sizes = len(batch["keys"]), len(batch["coords"])
        self._write((self.step, trainer.current_epoch, batch["number"], repr(loss), f"{rate:.9g}", *sizes))

    def _write(self, values: tuple[object, ...]) -> None:
        if self.file is not None:
            try:
                self.file.write(("\t".join(map(str, values)) + "\n").encode())
                if time.monotonic() - self.flushed > FLUSH_SECONDS:
                    self.flush()
            except OSError as error:
                self._give_up(error)

    def flush(self) -> int:
        """Hand everything to the file; its size in bytes, for the checkpoint that is written next."""
        if self.file is not None:
            try:
                self.file.flush()
                self.size, self.flushed = self.file.tell(), time.monotonic()
            except OSError as error:
                self._give_up(error)
        return self.size

    def _give_up(self, error: OSError) -> None:
        """A full disk ends the table, not the training; a resumed run begins it again at the last whole size."""
        log.warning("%s: %s; no more rows are written until the run is resumed", self.path, error.strerror)
        file, self.file = self.file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the table."""
        self.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the table."""
        self.close()

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        if self.file is not None:
            self.file.close()
            self.file = None


def open_cut(path: Path, size: int) -> BinaryIO:
    """A file to append to, cut to ``size`` bytes and to whole lines."""
    with open(path, "ab"):
        pass
    file = open(path, "r+b")  # noqa: SIM115 - it stays open
    file.truncate(min(size, file.seek(0, io.SEEK_END)))
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    kept = file.read(end).rfind(b"\n") + 1
    file.truncate(kept)
    file.seek(kept)
    return file
