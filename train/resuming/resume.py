"""Where a training goes on from: which checkpoint, and what of it has to be known before Lightning reads it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from larstore.errors import ConfigError, InputError
from train.fitting.module import ImageModule
from train.fitting.signals import requeued
from train.records.folder import RunFolder
from train.resuming.checkpoint import (
    DamagedCheckpointError,
    link_checkpoint,
    load_checkpoint,
    load_weights,
    model_weights,
)
from train.resuming.run_state import trained_through
from train.resuming.same_inputs import check_inputs, check_resumable, check_same_steps
from train.resuming.transfer import freeze_again
from train.runtime import other_machine, other_versions
from train.schema import Config
from train.streaming.samples import Batch
from train.streaming.stream import StreamLoader

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class Start:
    """Where a run begins; by default at its beginning.

    Attributes:
        checkpoint: the file to go on from.
        first_epoch: that is trained, perhaps from its middle.
        ended_epoch: at whose end it goes on, None in the middle of an epoch.
        trained_through: all batches of that epoch were trained on, its end is still to come.
        summaries: rows of the epochs before; None = as in the run's table.
        steps_size: bytes of the table of steps that are of the run's past.
        versions, machine: what the checkpoint was made with.
        best_epoch: number of the best epoch so far, if there is one.
    """

    checkpoint: Path | None = None
    first_epoch: int = 0
    ended_epoch: int | None = None
    trained_through: bool = False
    summaries: list[dict[str, Any]] | None = field(default_factory=list)
    steps_size: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    best_epoch: int | None = None

    def remarks(self, machine: dict[str, Any]) -> list[str]:
        """What is another now than when the checkpoint was made, a line each."""
        return [*other_versions(self.versions), *other_machine(self.machine, machine)]


def choose_checkpoint(config: Config, resume: bool, epoch: int | None, auto: bool) -> Path | None:
    """The checkpoint that a start goes on from, None = it begins the run.

    ``resume``: of ``train.start_epoch``, else of ``epoch``, else the newest. ``auto``, and any start of a requeued
    Slurm job: the newest, or none where nothing was saved yet.

    Raises:
        ConfigError: there is no such checkpoint, or without any of these the directory holds a run already.
    """
    folder = RunFolder(config.output_dir)
    again = requeued()
    if auto or again:
        if auto and config.train.start_epoch is not None:
            raise ConfigError(
                f"train.start_epoch = {config.train.start_epoch}: --auto-resume would go back to it at each start. "
                "Fix: remove it, or --resume"
            )
        newest = folder.newest()
        if again and not auto:
            log.info("a requeued Slurm job: %s", f"going on from {newest}" if newest else "nothing was saved before")
        return newest
    if not resume:
        if folder.newest() is not None:
            raise ConfigError(f"{folder.path}: holds a run already. Fix: --resume, or another output_dir")
        return None
    wanted = epoch if config.train.start_epoch is None else config.train.start_epoch
    if wanted is not None:
        return folder.find_checkpoint(wanted)
    newest = folder.newest()
    if newest is None:
        raise ConfigError(
            f"{folder.path}: holds no checkpoint. Fix: correct output_dir, or --auto-resume, which begins the run then"
        )
    return newest


def read_start(checkpoint: Path, config: Config, module: ImageModule, loader: StreamLoader) -> Start:
    """Check a checkpoint against the run, and take over its weights and the stream's position.

    Raises:
        InputError: it cannot be read; names the newest epoch whose checkpoint can.
        ConfigError: it is of another network, other inputs, or in the middle of an epoch whose batches are others now.
    """
    content = _load(checkpoint, config)
    check_resumable(content, str(checkpoint))
    check_inputs(content, config, str(checkpoint))
    load_weights(module.model, model_weights(content), str(checkpoint))
    check_same_steps(content, config, str(checkpoint))
    about = content["larstore"]
    module.hold(freeze_again(module.model, about.get("frozen", []), config, str(checkpoint)))
    loader.load_state_dict(about["stream"])
    unfinished = about.get("unfinished")
    return Start(
        checkpoint,
        int(content["epoch"]) + (unfinished is None),
        int(content["epoch"]) if unfinished is None else None,
        trained_through(about, loader),
        about.get("summaries"),
        int(about.get("steps_size", 0)),
        about["versions"],
        about.get("machine", {"threads": about["threads"]}),
        (about.get("best") or {}).get("epoch"),
    )


def _load(checkpoint: Path, config: Config) -> dict[str, Any]:
    """The checkpoint that a run goes on from. Raises InputError, with the way out of one that is damaged."""
    try:
        return load_checkpoint(checkpoint)
    except DamagedCheckpointError as error:
        said = str(error).partition(" Fix: ")[0]
        raise DamagedCheckpointError(f"{said} Fix: {_way_out(RunFolder(config.output_dir), config)}") from error


def _way_out(folder: RunFolder, config: Config) -> str:
    """How to go on with a run whose checkpoint cannot be read. Files are read, none is changed."""
    try:
        rows = folder.read_summaries()
    except (ValueError, KeyError):  # the table met with the same accident
        rows = []
    own = int(rows[-1]["epoch"]) if rows else -1  # later ones may be left over from another course
    for epoch in sorted(folder.epochs(), key=lambda epoch: (epoch <= own, epoch), reverse=True):
        if _readable(folder.checkpoint(epoch)):
            begin = f"--resume {epoch}" if config.train.start_epoch is None else f"train.start_epoch: {epoch}"
            return f"{begin}{' in a new job' if requeued() else ''} goes on from the end of epoch {epoch}"
    again = f"begin again in another output_dir, or move {folder.last.parent} away"
    if folder.best.exists() and _readable(folder.best):
        return f"no epoch's checkpoint can be read: {again}, with the weights of train.transfer.from: {folder.best}"
    return f"no epoch's checkpoint can be read: {again}"


def _readable(checkpoint: Path) -> bool:
    try:
        load_checkpoint(checkpoint)
    except InputError:
        return False
    return True


def prepare_folder(folder: RunFolder, start: Start, rank: int = 0) -> list[dict[str, Any]]:
    """Bring a run's directory to where ``start`` is, so that a kill from now on is resumed from there; by rank 0.

    Returns the summaries so far. Raises ConfigError where a file cannot be written.
    """
    rows = start.summaries if start.summaries is not None else folder.read_summaries(start.first_epoch)
    if rank:
        return rows
    try:
        folder.sweep()
        if start.checkpoint is not None and start.checkpoint != folder.last:
            link_checkpoint(start.checkpoint, folder.last)
        if start.best_epoch is None:
            folder.best.unlink(missing_ok=True)
        elif start.checkpoint is not None and start.best_epoch == start.ended_epoch:
            link_checkpoint(start.checkpoint, folder.best)
        elif folder.checkpoint(start.best_epoch).exists():
            link_checkpoint(folder.checkpoint(start.best_epoch), folder.best)
        elif folder.best.exists() and not _readable(folder.best):
            log.warning("%s: cannot be read; epoch %d's is gone", folder.best, start.best_epoch)
        elif folder.best.exists() and load_checkpoint(folder.best)["epoch"] != start.best_epoch:
            log.warning("%s: of another course, removed; epoch %d's is gone", folder.best, start.best_epoch)
            folder.best.unlink()
        if rows:
            folder.write_summaries(rows)
        else:
            folder.summary_file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder.path}: {error.strerror or error}. Fix: make it writable, or free space") from error
    return rows


class EpochLoader:
    """What is left of the stream's epoch, for Lightning, to which it is a whole one.

    Args:
        loader: stands where the run goes on.
        trained_through: give an epoch without batches first.
    """

    def __init__(self, loader: StreamLoader, trained_through: bool) -> None:
        self.loader, self.trained_through = loader, trained_through

    def __len__(self) -> int:
        """Batches left for each rank; 1 for an epoch without any, since Lightning does not begin one of 0."""
        if self.trained_through:
            return 1
        return len(self.loader) - self.loader.stream.batches // self.loader.stream.n_ranks

    def __iter__(self) -> Iterator[Batch]:
        if self.trained_through:  # until the first batch is asked for
            self.trained_through = False
            return
        yield from self.loader
