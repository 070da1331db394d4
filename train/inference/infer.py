"""Scores (and charges, of a network of both) for every voxel of the chosen images, written into their store."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import larstore
from larstore.errors import ConfigError
from larstore.selection import Selection, expect_tpcs
from train.config import naming_file
from train.inference.pieces import Gathering, in_pieces, predict_here
from train.inference.predictor import InferenceError, Network, Predictor, load_network
from train.inference.workers import Work, predict_there
from train.models import outputs_of
from train.records.folder import RunFolder
from train.runtime import compute_threads, log_to_stderr
from train.schema import Config
from train.streaming.choosing import expect_images

__all__ = ["InferResult", "InferenceError", "infer", "predict"]

NAMED_EPOCHS = ("best", "last")

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class InferResult:
    """What an inference did: images and voxels it predicted now, those that were predicted already, seconds."""

    store: str
    name: str
    images: int
    voxels: int
    done_before: int
    seconds: float


def infer(
    config: Config,
    checkpoint: str | Path | int | None,
    store: str | Path,
    name: str,
    *,
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
    query: str | None = None,
    every: int = 1,
    workers: int = 1,
    verbose: bool = False,
    progress: bool = True,
) -> InferResult:
    """Write ``predictions/NAME`` of a store; what an earlier, interrupted call has written is kept.

    The charge of a network of scores and charges becomes a prediction of its own, ``NAME-charge``, in the unit of the
    target it was trained on (electrons × ``data.scale``).

    Args:
        config: its ``model`` block, ``data.max_voxels`` and ``train`` (threads, accelerator) count; which planes
            are inputs, in which order and how scaled, is taken from the checkpoint.
        checkpoint: a file, an epoch of the run in ``config.output_dir`` (a number, ``best`` or ``last``), or None for
            its last one.
        store: path of the store.
        name: of the prediction; one name belongs to one checkpoint.
        files, tpcs, query: which images, as in `Store.select`; all by default.
        every: only every n-th of these.
        workers: processes that predict, each on a GPU of its own in turn, or with its share of the cores.

    Raises:
        ConfigError: nothing is selected, or model, data and checkpoint do not fit each other.
        InputError: the checkpoint cannot be read.
        InferenceError: outputs that are not finite, too little memory, workers that died; what is done is kept.
        StoreError: the name is taken by another checkpoint, or another process is writing it.
    """
    with naming_file(config), log_to_stderr(verbose):
        found = find_checkpoint(config, checkpoint)
        opened = larstore.open(store)
        expect_tpcs(opened, tpcs, "--tpcs")
        selection = opened.select(files=files, tpcs=tpcs, query=query)
        selection = selection[::every] if every > 1 else selection
        return predict(config, found, selection, name, workers=workers, progress=progress)


def find_checkpoint(config: Config, checkpoint: str | Path | int | None) -> Path:
    """The file that ``infer`` is told of; see there."""
    epoch: Any = None if checkpoint == "last" else checkpoint
    if checkpoint is None or isinstance(checkpoint, int) or checkpoint in NAMED_EPOCHS:
        return RunFolder(config.output_dir).find_checkpoint(epoch)
    return Path(checkpoint)


def predict(
    config: Config,
    checkpoint: Path,
    selection: Selection,
    name: str,
    *,
    workers: int = 1,
    progress: bool = True,
) -> InferResult:
    """``infer`` for a selection, without a handler for its log."""
    began = time.monotonic()
    store, tpcs = selection.store, selection.column("tpc")
    expect_images(selection)
    if workers < 1:
        raise ConfigError(f"{workers} workers cannot predict. Fix: 1 or more")
    network = load_network(config, checkpoint, store, tpcs)
    outputs = outputs_of(config.model.model_dump())
    names = [name, *(f"{name}-{output}" for output in outputs[1:])]
    with ExitStack() as opened:
        writers = [
            opened.enter_context(larstore.PredictionWriter(store.path, each, network.attributes | {"output": output}))
            for each, output in zip(names, outputs, strict=True)
        ]
        for remark in network.remarks:
            log.warning(remark)
        # One of several may be ahead where a call was interrupted between two commits.
        lacking = [dict(writer.groups(selection)) for writer in writers]
        groups = {shard: images for each in lacking for shard, images in each.items()}
        sizes = np.array([len(image) for images in groups.values() for image in images], np.int64)
        _remark_on_sizes(network, sizes)
        pieces = in_pieces(groups, network.max_voxels)
        gathering = Gathering(groups, pieces)
        if workers > 1 and len(pieces) > 1:
            about, each_tpc = network.attributes, tuple(np.unique(tpcs).tolist())
            work = Work(config, str(checkpoint), about["checkpoint_sha256"], store, each_tpc)
            results = predict_there(work, workers, pieces)
            log.info("%s: %d voxels in %d pieces for %d workers", store.path, sizes.sum(), len(pieces), workers)
        else:
            opened.enter_context(compute_threads(config.train.threads, config.train.backend))
            predictor = Predictor(network, store)
            log.info(predictor.backend)
            results = predict_here(predictor, pieces)
        opened.enter_context(closing(results))  # ends workers and threads, also where a shard cannot be written
        with Progress(console=Console(stderr=True), disable=not (progress and sys.stderr.isatty())) as bar:
            task = bar.add_task(name, total=int(sizes.sum()))
            try:
                for piece, scores in results:
                    whole = gathering.add(piece, scores)
                    for column, (writer, shards) in enumerate(zip(writers, lacking, strict=True)):
                        if whole is not None and piece.shard in shards:
                            writer.write(piece.shard, [(image, values[:, column]) for image, values in whole])
                            writer.commit()
                    bar.advance(task, len(scores))
            except KeyboardInterrupt:
                log.warning("%s: stopped. What is done is kept, the same command does the rest", store.path)
                raise
        for writer, shards in zip(writers, lacking, strict=True):
            if not shards:
                writer.commit()
    if len(names) > 1:
        log.info("%s: %s", store.path, ", ".join(f"{o} in {n}" for o, n in zip(outputs, names, strict=True)))
    return InferResult(
        str(store.path), name, len(sizes), int(sizes.sum()), len(selection) - len(sizes), time.monotonic() - began
    )


def _remark_on_sizes(network: Network, sizes: np.ndarray[Any, Any]) -> None:
    over = int((sizes > network.max_voxels).sum())
    if over:
        log.warning(
            "%d images have more than data.max_voxels = %d voxels, the largest %d: each is predicted alone, whole",
            over,
            network.max_voxels,
            sizes.max(),
        )
