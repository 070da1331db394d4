"""Train a network as a configuration says, from the stores it names into the directory of a run."""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from larstore.errors import ConfigError
from train.callbacks import EpochEnd, PredictWhileTraining, ProgressBar, TimeLimit
from train.checkpoint import load_checkpoint, load_weights, model_weights, write_checkpoint
from train.config import naming_file, with_inputs, with_planes
from train.description import describe
from train.distributed import (
    check_devices,
    check_precision,
    keeping_threads,
    set_batch_norm,
    share_losses,
    telling_losses_of_processes,
    trainer_arguments,
)
from train.folder import FitResult, RunFolder
from train.launch import launch
from train.loaders import count_planes, count_steps, describe_stores, first_coords, input_planes, make_loader
from train.models import SparseCellNet
from train.module import ImageModule
from train.ranks import Ranks, cores_of, find_ranks
from train.runtime import compute_threads, device_of, log_to, log_to_stderr, other_versions, versions, without_remarks
from train.same_inputs import check_inputs, check_resumable
from train.schema import Config
from train.sparse.backends import use_backend
from train.stream import StreamLoader

log = logging.getLogger("larstore.train")


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written as ours are."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        write_checkpoint(checkpoint, path)


@dataclass(frozen=True)
class _Run:
    """Everything a training needs, checked."""

    config: Config
    folder: RunFolder
    module: ImageModule
    train_loader: StreamLoader
    valid_loader: StreamLoader | None
    checkpoint: Path | None
    first_epoch: int
    n_planes: int
    remarks: list[str]
    backend: str
    ranks: Ranks


def fit(
    config: Config, resume: bool = False, epoch: int | None = None, *, verbose: bool = False, progress: bool = True
) -> FitResult:
    """Train; with ``resume`` go on after the checkpoint of ``epoch`` (default the last; ``train.start_epoch`` wins).

    Several ``train.devices`` are processes that are started here, unless torchrun or Slurm's srun did; also from a
    script or a notebook, which then waits for them.

    Raises:
        ConfigError: settings that do not fit each other or the stores, a run directory that is in use already.
        TrainingError: a loss that is not finite.
        LostProcessError: another process that trained with this one, or was started here, is gone.
    """
    with naming_file(config):
        ranks = find_ranks(config.train)
    if not ranks.started:
        return launch(ranks, config, resume=resume, epoch=epoch, verbose=verbose, progress=progress)
    with (
        naming_file(config),
        log_to_stderr(verbose, ranks.rank),
        compute_threads(config.train.threads or cores_of(ranks), config.train.backend) as threads,
    ):
        run = _prepare(config, resume, epoch, ranks)
        if not ranks.rank:
            run.folder.start(run.config.plain())
        with log_to(run.folder.log_handler(ranks.rank)), telling_losses_of_processes(ranks), keeping_threads(threads):
            return _train(run, threads, progress and not ranks.rank)


def _prepare(config: Config, resume: bool, epoch: int | None, ranks: Ranks) -> _Run:
    if not config.data.sources("train"):
        raise ConfigError("data.train_i is missing. Fix: add it, or use larstore infer, which needs none")
    if config.data.full_y:
        raise ConfigError("data.full_y: no loss uses all truth voxels. Fix: remove it, or set it to false")
    folder = RunFolder(config.output_dir)
    checkpoint = None
    if resume:
        wanted = config.train.start_epoch
        checkpoint = folder.find_checkpoint(epoch if wanted is None else wanted)
    elif folder.epochs():
        raise ConfigError(f"{folder.path}: holds a run already. Fix: --resume, or another output_dir")
    check_devices(config, ranks)
    train_loader = make_loader(config, "train", ranks.rank, ranks.n)
    valid_loader = make_loader(config, "valid", ranks.rank, ranks.n)
    assert train_loader is not None
    n_planes = count_planes([train_loader, valid_loader])
    planes = input_planes(config, [train_loader, valid_loader])
    config = with_inputs(with_planes(config, planes), len(planes))
    torch.manual_seed(config.seed)
    module = ImageModule(config, count_steps(train_loader.stream, config.train.n_epochs, config.train.accumulate))
    backend = use_backend(module.model, config.train.backend, device_of(config), training=True)
    check_precision(config, module.model)
    set_batch_norm(module.model, config.train.batch_norm)
    share_losses(module.loss)
    first_epoch = 0
    remarks: list[str] = []
    if checkpoint is not None:
        content = load_checkpoint(checkpoint)
        check_resumable(content, str(checkpoint))
        check_inputs(content, config, str(checkpoint))
        load_weights(module.model, model_weights(content), str(checkpoint))
        train_loader.load_state_dict(content["larstore"]["stream"])
        first_epoch = int(content["epoch"]) + 1
        remarks = other_versions(content["larstore"]["versions"])
    elif config.train.transfer is not None:
        remarks = [_transfer(module.model, config, config.train.transfer)]
    return _Run(
        config, folder, module, train_loader, valid_loader, checkpoint, first_epoch, n_planes, remarks, backend, ranks
    )


def _train(run: _Run, threads: int, progress: bool) -> FitResult:
    config = run.config
    about = {
        "config": config.plain(),
        "versions": versions(),
        "threads": threads,
        "stores": describe_stores([run.train_loader, run.valid_loader]),
        "n_planes": run.n_planes,
    }
    log.info(
        "%s: %d images, %d parameters, %d threads, rank %d of %d, epochs %d to %d",
        "resuming" if run.checkpoint else "training",
        len(run.train_loader.stream.keys),
        sum(p.numel() for p in run.module.parameters()),
        threads,
        run.ranks.rank,
        run.ranks.n,
        run.first_epoch,
        config.train.n_epochs - 1,
    )
    log.info(run.backend)
    if isinstance(run.module.model, SparseCellNet):
        for line in str(describe(run.module.model, first_coords(run.train_loader.stream))).splitlines():
            log.info("network: %s", line)
    for remark in run.remarks:
        log.warning(remark)
    rows = run.folder.read_summaries(run.first_epoch)
    callbacks: list[Callback] = [EpochEnd(run.folder, rows, run.train_loader, about)]
    if config.store_inference is not None:
        callbacks.append(PredictWhileTraining(run.folder, config))
    if progress:
        callbacks.append(ProgressBar())
    if config.train.max_minutes is not None:
        callbacks.append(TimeLimit(config.train.max_minutes))
    arguments = trainer_arguments(config, run.ranks)
    arguments["plugins"].append(SafeCheckpointIO())
    with without_remarks():
        trainer = lightning.Trainer(
            **arguments,
            max_epochs=config.train.n_epochs,
            min_epochs=0,
            gradient_clip_val=config.train.gradient_clip,
            gradient_clip_algorithm=config.train.gradient_clip_algorithm,
            accumulate_grad_batches=config.train.accumulate,
            callbacks=callbacks,
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
            trainer.fit(run.module, run.train_loader, run.valid_loader, ckpt_path=run.checkpoint, weights_only=True)
        except SystemExit as stop:  # Lightning's answer to Ctrl-C, after which it ignores further ones
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
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
