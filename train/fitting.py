"""Train a network as a configuration says, from the stores it names into the directory of a run."""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from larstore.errors import ConfigError
from train.callbacks import PredictWhileTraining, ProgressBar, TimeLimit
from train.checkpoint import load_checkpoint, model_weights
from train.config import naming_file, with_inputs, with_planes
from train.description import describe
from train.epochs import EpochEnd
from train.folder import RunFolder
from train.loaders import count_planes, count_steps, describe_stores, first_coords, input_planes, make_loader
from train.models import SparseCellNet
from train.module import ImageModule
from train.resuming import EpochLoader, Start, choose_checkpoint, prepare_folder, read_start
from train.run_state import RunState
from train.runtime import compute_threads, device_of, log_to, log_to_stderr, machine, versions, without_remarks
from train.same_inputs import check_inputs
from train.saving import Checkpoints, SaveWithinEpochs
from train.schema import Config
from train.signals import Signals, Stopped, leave_to_parent
from train.sparse.backends import use_backend
from train.steps import StepTable
from train.stopping import Best, Stopping, make_best, make_stopping
from train.stream import StreamLoader

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class FitResult:
    """What a training left behind: the last checkpoint, and one summary row an epoch (as in the CSV)."""

    checkpoint: Path
    summaries: list[dict[str, Any]]


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
    remarks: list[str]
    backend: str
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

    Raises:
        ConfigError: settings that do not fit each other or the stores, a run directory that is in use already.
        TrainingError: a loss that is not finite, a last checkpoint that could not be written.
        KeyboardInterrupt: at Ctrl-C, SystemExit (128 + its number) at another signal; the run can be resumed.
    """
    with (
        naming_file(config),
        log_to_stderr(verbose),
        compute_threads(config.train.threads, config.train.backend) as threads,
    ):
        run = _prepare(config, choose_checkpoint(config, resume, epoch, auto))
        run.folder.start(run.config.plain())
        with log_to(run.folder.log_handler()):
            return _train(run, threads, progress)


def _prepare(config: Config, checkpoint: Path | None) -> _Run:
    if not config.data.sources("train"):
        raise ConfigError("data.train_i is missing. Fix: add it, or use larstore infer, which needs none")
    if config.data.full_y:
        raise ConfigError("data.full_y: no loss uses all truth voxels. Fix: remove it, or set it to false")
    train_loader, valid_loader = make_loader(config, "train"), make_loader(config, "valid")
    assert train_loader is not None
    if train_loader.num_workers and train_loader.worker_init_fn is None:
        train_loader.worker_init_fn = leave_to_parent
    n_planes = count_planes([train_loader, valid_loader])
    planes = input_planes(config, [train_loader, valid_loader])
    config = with_inputs(with_planes(config, planes), len(planes))
    torch.manual_seed(config.seed)
    module = ImageModule(config, count_steps(train_loader.stream, config.train.n_epochs))
    backend = use_backend(module.model, config.train.backend, device_of(config), training=True)
    start, remarks = Start(), []
    if checkpoint is not None:
        start = read_start(checkpoint, config, module, train_loader)
    elif config.train.transfer is not None:
        remarks = [_transfer(module.model, config, config.train.transfer)]
    judges = make_best(config), make_stopping(config)
    folder = RunFolder(config.output_dir)
    return _Run(config, folder, module, train_loader, valid_loader, start, n_planes, remarks, backend, judges)


def _train(run: _Run, threads: int, progress: bool) -> FitResult:
    config = run.config
    about: dict[str, Any] = {
        "config": config.plain(),
        "versions": versions(),
        "threads": threads,
        "machine": machine(config, threads),
        "stores": describe_stores([run.train_loader, run.valid_loader]),
        "n_planes": run.n_planes,
    }
    log.info(
        "%s: %d images, %d parameters, %d threads, epochs %d to %d",
        "resuming" if run.start.checkpoint else "training",
        len(run.train_loader.stream.keys),
        sum(p.numel() for p in run.module.parameters()),
        threads,
        run.start.first_epoch,
        config.train.n_epochs - 1,
    )
    log.info(run.backend)
    if isinstance(run.module.model, SparseCellNet):
        for line in str(describe(run.module.model, first_coords(run.train_loader.stream))).splitlines():
            log.info("network: %s", line)
    for remark in (*run.remarks, *run.start.remarks(about["machine"])):
        log.warning(remark)
    rows = prepare_folder(run.folder, run.start)
    signals, table = Signals(), StepTable(run.folder.step_file, run.start.steps_size)
    state = RunState(about, rows, run.train_loader, table, *run.judges)
    checkpoints = Checkpoints(run.folder, state, config.train, config.train.n_epochs)
    if run.start.ended_epoch is not None:
        checkpoints.prune(run.start.ended_epoch)
    callbacks: list[Callback] = [state, table]
    if config.train.max_minutes is not None:
        callbacks.append(TimeLimit(config.train.max_minutes))
    callbacks += [EpochEnd(run.folder, state, checkpoints), SaveWithinEpochs(checkpoints, signals)]
    if config.store_inference is not None:
        callbacks.append(PredictWhileTraining(checkpoints, config, run.start.ended_epoch))
    if progress:
        callbacks.append(ProgressBar())
    with without_remarks(), signals.noted():
        trainer = lightning.Trainer(
            accelerator=config.train.accelerator,
            devices=1,
            max_epochs=config.train.n_epochs,
            min_epochs=0,
            gradient_clip_val=config.train.gradient_clip,
            callbacks=callbacks,
            plugins=[checkpoints.io],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # The number of batches is another one each epoch: the voxel budget cuts a new order.
            reload_dataloaders_every_n_epochs=1,
        )
        try:
            batches = EpochLoader(run.train_loader, run.start.trained_through)
            trainer.fit(run.module, batches, run.valid_loader, ckpt_path=run.start.checkpoint, weights_only=True)
        except Stopped as stop:
            raise (KeyboardInterrupt if stop.number == signal.SIGINT else SystemExit(128 + stop.number)) from stop
        except SystemExit as stop:  # Lightning's answer to Ctrl-C, after which it ignores further ones
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
    checkpoints.check_last()
    return FitResult(run.folder.find_checkpoint(), rows)


def _transfer(model: torch.nn.Module, config: Config, origin: str) -> str:
    """Take over the weights whose names and shapes match, from a checkpoint file or the last one of a run.

    Returns what was taken over.
    """
    path = RunFolder(origin).find_checkpoint() if Path(origin).is_dir() else Path(origin)
    content = load_checkpoint(path)
    check_inputs(content, config, str(path))
    weights, own = model_weights(content), model.state_dict()
    matching = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not matching:
        raise ConfigError(f"{path}: none of its weights fits the model. Fix: correct train.transfer or model")
    model.load_state_dict(matching, strict=False)
    return f"{path}: {len(matching)} of {len(own)} tensors taken over"
