"""All that a checkpoint of ours has beside Lightning's part, gathered when one is written and taken over from one."""

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from train.fitting.module import ImageModule
from train.fitting.stopping import Best, Stopping
from train.processes.distributed import gather_objects
from train.records.step_table import StepTable
from train.resuming.random_states import random_states, set_random_states
from train.resuming.unfinished import rewind, sums, take_sums
from train.streaming.stream import StreamLoader


def trained_through(state: dict[str, Any], loader: StreamLoader) -> bool:
    """Whether a checkpoint is in an epoch of which only validation and end are left.

    ``loader`` stands at the checkpoint; it is in the next epoch if too few batches are left for the processes of now.
    """
    unfinished = state.get("unfinished")
    return unfinished is not None and (unfinished["stage"] == "validation" or not loader.state_dict()["batches"])


class RunState(Callback):
    """Puts the run's state into each checkpoint, under ``larstore``, and takes it over from the one it resumes from.

    A step draws its random numbers as if nothing else had drawn any since the step before: their states are put back
    before the first step of each epoch and after a resume.

    Args:
        about: plain values that are the same in all checkpoints of a start (configuration, versions, stores).
        rows: the summaries so far; grows by one row an epoch.
        loader: its position is part of the state.
        table: the rows of the steps.
        best, stopping: what epochs are judged by, None = not.

    Attributes:
        stage: what the next checkpoint is in the middle of: "batches" of an epoch, its "validation", or None.
        resumed_stage: the same of the checkpoint that this start goes on from, until that epoch ends.
    """

    def __init__(
        self,
        about: dict[str, Any],
        rows: list[dict[str, Any]],
        loader: StreamLoader,
        table: StepTable,
        best: Best | None,
        stopping: Stopping | None,
    ) -> None:
        self.about, self.rows, self.loader, self.table = about, rows, loader, table
        self.best, self.stopping = best, stopping
        self.stage: str | None = None
        self.resumed_stage: str | None = None
        self.resumed_sums: list[dict[str, Any]] = []
        self.random: dict[str, Any] | None = None
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.number = 0

    @property
    def epoch_seconds(self) -> float:
        """Seconds this epoch has taken, earlier starts included."""
        return self.seconds_before + time.monotonic() - self.started

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the epoch's clock; take over the sums of one that was interrupted."""
        assert isinstance(pl_module, ImageModule)
        self.started = time.monotonic()
        if self.resumed_sums:
            take_sums(pl_module, self.resumed_sums, trainer.global_rank, trainer.world_size)
            self.resumed_sums = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the random numbers back to where the step before left them."""
        if self.random is not None:
            set_random_states(self.random)
            self.random = None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note which batch was the last one."""
        self.number = batch["number"]

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note how the epoch's steps left the random numbers."""
        self.random = self.random or random_states()

    def end_epoch(self) -> None:
        """The epoch is over; what is saved from here on is between two."""
        self.random = self.random or random_states()
        self.stage = self.resumed_stage = None
        self.seconds_before = 0.0

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state; called on all ranks, of which the first one writes."""
        assert isinstance(pl_module, ImageModule)
        unfinished = None
        if self.stage is not None:
            rewind(checkpoint["loops"], stepped=self.resumed_stage != "validation")
            unfinished = {"stage": self.stage, "sums": gather_objects(sums(pl_module)), "seconds": self.epoch_seconds}
        checkpoint.setdefault("larstore", {}).update(
            self.about,
            stream=self._position(trainer),
            random=gather_objects(self.random or random_states()),
            unfinished=unfinished,
            summaries=[dict(row) for row in self.rows],
            steps_size=self.table.flush(),
            best=None if self.best is None else self.best.state_dict(),
            stopping=None if self.stopping is None else self.stopping.state_dict(),
        )

    def _position(self, trainer: lightning.Trainer) -> dict[str, Any]:
        """Of the stream: behind the last batch that was trained on, and no batch was fetched ahead of it."""
        state = self.loader.state_dict()
        if self.stage is not None and trainer.global_rank == 0:
            trained = self.number + trainer.world_size
            if state["batches"] not in (trained, 0):
                raise AssertionError(f"{state['batches']} batches were fetched, {trained} trained on")
        return state

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the state over; sums follow when the epoch begins, random numbers with its first step."""
        state = checkpoint["larstore"]
        states = state["random"]
        if isinstance(states, list):
            self.random = states[trainer.global_rank % len(states)]
        else:  # a checkpoint of before they were kept for all ranks
            torch.set_rng_state(states)
        unfinished = state.get("unfinished")
        if unfinished is not None:
            self.resumed_sums = unfinished["sums"]
            self.resumed_stage = "validation" if trained_through(state, self.loader) else "batches"
            self.seconds_before = float(unfinished["seconds"])
        if self.best is not None and state.get("best"):
            self.best.load_state_dict(state["best"])
        if self.stopping is not None and state.get("stopping"):
            self.stopping.load_state_dict(state["stopping"])
            if self.stopping.over and unfinished is None:
                trainer.should_stop = True
