"""Inference as a configuration says: of its ``inference_i`` images in all its stores, under the name of its run."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import larstore
from larstore.errors import ConfigError
from larstore.selection import Selection
from train.config import naming_file
from train.inference.infer import InferResult, predict
from train.records.folder import RunFolder, checkpoint_of
from train.resuming.checkpoint import load_checkpoint
from train.runtime import log_to, log_to_stderr
from train.schema import Config, SourceConfig
from train.streaming.choosing import choose

LONGEST = 64 - len("-charge")  # a store's names have up to 64 letters, and a network of both appends to one
# What tells a process that it is one of several copies -> how one alone is started.
COPIES = {
    "SLURM_STEP_NUM_TASKS": "srun -n 1",
    "OMPI_COMM_WORLD_SIZE": "mpirun -n 1",
    "PMI_SIZE": "mpirun -n 1",
    "WORLD_SIZE": "without torchrun,",
}

log = logging.getLogger("larstore.train")


def prediction_name(run: Path, *parts: str) -> str:
    """``RUN-PART-PART``, with the run directory's name, as a store takes it; a long one loses its beginning."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join([run.resolve().name, *parts]))
    return name[-LONGEST:].lstrip("_.-")


def by_store(sources: list[SourceConfig]) -> dict[str, list[SourceConfig]]:
    """The sources of each store; one that is named twice, with two ranges, is predicted at once."""
    found: dict[str, list[SourceConfig]] = {}
    for source in sources:
        found.setdefault(str(Path(source.path).resolve()), []).append(source)
    return {same[0].path: same for same in found.values()}


def select(sources: list[SourceConfig], every: int = 1) -> Selection:
    """The images that sources of one store choose, every n-th of each. Raises ConfigError for one without any."""
    store = larstore.open(sources[0].path)
    rows = [choose(store, source, "inference_i").row_numbers[::every] for source in sources]
    return store.select(where=np.isin(store.index_columns.live, np.concatenate(rows)))


def infer_configured(
    config: Config, epoch: int | None = None, *, workers: int = 1, verbose: bool = False, progress: bool = True
) -> list[InferResult]:
    """What ``larstore train`` does with a configuration without ``train_i``: predict ``inference_i`` in each store.

    The checkpoint is that of ``train.start_epoch``, of ``epoch``, or the last one in ``output_dir``; where that holds
    none, ``train.transfer``'s. The prediction is named RUN-EPOCH after the directory and the checkpoint's epoch. Needs
    neither loss nor optimiser; ``output_dir`` gets a copy of the configuration and the log.

    Raises ConfigError where there is no image or no checkpoint; else as `train.inference.infer.infer`.
    """
    with naming_file(config), log_to_stderr(verbose):
        folder = RunFolder(config.output_dir)
        checkpoint = _checkpoint(config, folder, epoch)
        known = load_checkpoint(checkpoint)["epoch"]
        name = prediction_name(folder.path, *([] if known is None else [f"{int(known):03d}"]))
        chosen = [select(sources) for sources in by_store(config.data.sources("inference")).values()]
        folder.start(config.plain())
        with log_to(folder.log_handler()):
            log.info(
                "no data.train_i: inference only, of %d images with %s, written as prediction %r into %s",
                sum(map(len, chosen)),
                checkpoint,
                name,
                ", ".join(str(each.store.path) for each in chosen),
            )
            results = []
            for selection in chosen:
                result = predict(config, checkpoint, selection, name, workers=workers, progress=progress)
                results.append(result)
                log.info("%s: %d images predicted, %d before", result.store, result.images, result.done_before)
            return results


def _checkpoint(config: Config, folder: RunFolder, epoch: int | None) -> Path:
    wanted = config.train.start_epoch if config.train.start_epoch is not None else epoch
    if folder.epochs() or wanted is not None:
        return folder.find_checkpoint(wanted)
    if config.train.transfer is None:
        raise ConfigError(
            f"{folder.path}: holds no checkpoint to predict with. Fix: output_dir of a trained run, or train.transfer: "
            "a run or a checkpoint file; to train instead, add data.train_i"
        )
    return checkpoint_of(config.train.transfer.path)


def refuse_copies(environment: Mapping[str, str] = os.environ) -> None:
    """ConfigError in a process that is one of several that a launcher started with one command.

    All of them would predict the same images, and only one can have the prediction's lock.
    """
    for variable, alone in COPIES.items():
        number = environment.get(variable, "1")
        if number.isdecimal() and int(number) > 1:
            raise ConfigError(
                f"{variable} = {number}: all of these processes would predict the same images. Fix: "
                f"{alone} larstore … --workers {number}, or, where each has a --store or --name of its own, "
                f"{variable}=1 larstore …"
            )
