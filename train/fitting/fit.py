"""Train a network as a configuration says, from the stores it names into the directory of a run."""

import logging
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from larstore.errors import ConfigError
from train.config import doubtful_units, naming_file
from train.fitting.callbacks import PredictWhileTraining, ProgressBar, TimeLimit
from train.fitting.module import ImageModule, TrainingError
from train.fitting.preparing import plain_ctrl_c, prepare_network, stepping, take_over
from train.fitting.signals import Signals, Stopped, leave_to_parent
from train.fitting.stopping import Best, Stopping, make_best, make_stopping
from train.models import SparseCellNet
from train.models.description import describe
from train.processes.distributed import (
    check_devices,
    check_precision,
    keeping_threads,
    share_losses,
    telling_losses_of_processes,
    trainer_arguments,
)
from train.processes.launch import launch
from train.processes.ranks import Ranks, cores_of, find_ranks
from train.records.about import describe_start
from train.records.folder import FitResult, RunFolder
from train.records.loggers import make_loggers
from train.records.run_lock import alone_in, saved
from train.records.step_table import StepTable
from train.records.watching import watchers
from train.resuming.epochs import EpochEnd
from train.resuming.resume import EpochLoader, Start, choose_checkpoint, prepare_folder, read_start
from train.resuming.run_state import RunState
from train.resuming.saving import Checkpoints, SaveWithinEpochs
from train.resuming.transfer import Transferred, log_transfer
from train.runtime import compute_threads, log_to, log_to_stderr, machine, versions, without_remarks
from train.schema import Config
from train.streaming.loaders import count_planes, count_steps, describe_stores, first_coords, make_loader
from train.streaming.stream import StreamLoader

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class _Run:
    """Everything a training needs, checked."""

    config: Config
    folder: RunFolder
    module: ImageModule
    train_loader: StreamLoader
    valid_loader: StreamLoader | None
    start: Start
    n_planes: int
    backend: str
    transferred: Transferred | None
    loggers: list[Logger]
    ranks: Ranks
    judges: tuple[Best | None, Stopping | None]


def fit(
    config: Config,
    resume: bool = False,
    epoch: int | None = None,
    *,
    auto: bool = False,
    verbose: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train; with ``resume`` go on from the checkpoint of ``epoch`` (default the newest; ``train.start_epoch`` wins).

    ``auto``: go on where the run stands, or begin it; so does any start of a requeued Slurm job.

    Several ``train.devices`` are processes that are started here, unless torchrun or Slurm's srun did; also from a
    script or a notebook, which then waits for them.

    Raises:
        ConfigError: settings that do not fit each other or the stores, a run directory that holds a run already, or
            that another process trains into.
        TrainingError: a loss that is not finite, a last checkpoint that could not be written.
        LostProcessError: another process that trained with this one, or was started here, is gone.
        KeyboardInterrupt: at Ctrl-C, SystemExit (128 + its number) at another signal; the run can be resumed.
    """
    with naming_file(config):
        if not config.data.sources("train"):
            raise ConfigError("data.train_i is missing. Fix: add it, or use larstore infer, which needs none")
        ranks = find_ranks(config.train)
    if not ranks.started:
        return launch(ranks, config, resume=resume, epoch=epoch, auto=auto, verbose=verbose, progress=progress)
    with (
        naming_file(config),
        log_to_stderr(verbose, ranks.rank),
        compute_threads(config.train.threads or cores_of(ranks), config.train.backend) as threads,
    ):
        before = saved(RunFolder(config.output_dir))
        run = _prepare(config, choose_checkpoint(config, resume, epoch, auto), ranks)
        with nullcontext() if ranks.rank else alone_in(run.folder, before):
            copy = None if ranks.rank else run.folder.start(run.config.plain())
            log_file = log_to(run.folder.log_handler(ranks.rank))
            with log_file, telling_losses_of_processes(ranks), keeping_threads(threads):
                return _train(run, threads, progress and not ranks.rank, copy)


def _prepare(config: Config, checkpoint: Path | None, ranks: Ranks) -> _Run:
    folder = RunFolder(config.output_dir)
    check_devices(config, ranks)
    train_loader = make_loader(config, "train", ranks.rank, ranks.n)
    valid_loader = make_loader(config, "valid", ranks.rank, ranks.n)
    assert train_loader is not None
    if train_loader.num_workers and train_loader.worker_init_fn is None:
        train_loader.worker_init_fn = leave_to_parent
    n_planes = count_planes([train_loader, valid_loader])
    n_steps = count_steps(train_loader.stream, config.train.n_epochs, config.train.accumulate)
    config, module, backend = prepare_network(config, [train_loader, valid_loader], n_steps)
    check_precision(config, module.model)
    share_losses(module.loss)
    start, transferred = Start(), None
    if checkpoint is not None:
        start = read_start(checkpoint, config, module, train_loader)
    else:
        transferred = take_over(module)
    judges = make_best(config), make_stopping(config)
    return _Run(
        config, folder, module, train_loader, valid_loader, start, n_planes, backend,
        transferred, make_loggers(config, folder), ranks, judges,
    )  # fmt: skip


def _train(run: _Run, threads: int, progress: bool, copy: Path | None) -> FitResult:
    config = run.config
    about: dict[str, Any] = {
        "config": config.plain(),
        "versions": versions(),
        "threads": threads,
        "machine": machine(config, threads, run.ranks.n),
        "stores": describe_stores([run.train_loader, run.valid_loader]),
        "n_planes": run.n_planes,
        "frozen": run.module.frozen,
    }
    log.info(
        "%s: %d images, %d parameters, %d threads, rank %d of %d, epochs %d to %d",
        "resuming" if run.start.checkpoint else "training",
        len(run.train_loader.stream.keys),
        sum(p.numel() for p in run.module.parameters()),
        threads,
        run.ranks.rank,
        run.ranks.n,
        run.start.first_epoch,
        config.train.n_epochs - 1,
    )
    if run.start.first_epoch >= config.train.n_epochs:
        log.info("all %d epochs are trained. More of them: train.n_epochs", config.train.n_epochs)
    log.info(run.backend)
    if isinstance(run.module.model, SparseCellNet):
        for line in str(describe(run.module.model, first_coords(run.train_loader.stream))).splitlines():
            log.info("network: %s", line)
    for remark in [*doubtful_units(config), *run.start.remarks(about["machine"])]:
        log.warning(remark)
    log_transfer(run.transferred, run.module.model, run.module.frozen, run.folder)
    rows = prepare_folder(run.folder, run.start, run.ranks.rank)
    signals, table = Signals(), StepTable(run.folder.step_file, run.start.steps_size)
    state = RunState(about, rows, run.train_loader, table, *run.judges)
    checkpoints = Checkpoints(run.folder, state, config.train, config.train.n_epochs)
    if run.start.ended_epoch is not None and not run.ranks.rank:
        checkpoints.prune(run.start.ended_epoch)
    callbacks: list[Callback] = [state, table]
    if config.train.max_minutes is not None:
        callbacks.append(TimeLimit(config.train.max_minutes))
    callbacks += [EpochEnd(run.folder, state, checkpoints), SaveWithinEpochs(checkpoints, signals)]
    if config.store_inference is not None:
        callbacks.append(PredictWhileTraining(checkpoints, config, run.start.ended_epoch))
    if progress:
        callbacks.append(ProgressBar())
    if copy is not None:
        callbacks += watchers(run.folder, config, rows, describe_start(copy, run.start.first_epoch, about), run.loggers)
    arguments = trainer_arguments(config, run.ranks)
    arguments["plugins"].append(checkpoints.io)
    with without_remarks(), signals.noted():
        trainer = lightning.Trainer(
            **arguments,
            max_epochs=config.train.n_epochs,
            min_epochs=0,
            **stepping(config.train),
            callbacks=callbacks,
        )
        try:
            batches = EpochLoader(run.train_loader, run.start.trained_through)
            with plain_ctrl_c():
                trainer.fit(run.module, batches, run.valid_loader, ckpt_path=run.start.checkpoint, weights_only=True)
        except Stopped as stop:
            raise (KeyboardInterrupt if stop.number == signal.SIGINT else SystemExit(128 + stop.number)) from stop
        except RuntimeError as error:
            said = str(error).strip()
            if not said.startswith("DataLoader worker"):
                raise
            raise TrainingError(
                f"a process of data.num_workers was lost ({said.splitlines()[0].strip(' .')}). Fix: find out who ended "
                "it (out of memory?), fewer workers or a smaller data.read_ahead_mb, then --resume"
            ) from error
    checkpoints.check_last()
    return FitResult(run.folder.find_checkpoint(), rows)
