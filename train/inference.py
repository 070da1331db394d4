"""Scores (and charges, of a network of both) for every voxel of the chosen images, written into their store."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

import larstore
from larstore.errors import ConfigError
from train.checkpoint import load_checkpoint, load_weights, model_weights, sha256
from train.config import make_config, naming_file, with_inputs
from train.folder import RunFolder
from train.models import build_model, outputs_of
from train.research_checkpoint import check_tpcs
from train.runtime import compute_threads, device_of, log_to_stderr, other_versions, versions
from train.samples import join, to_sample
from train.schema import Config
from train.sparse.backends import use_backend
from train.transforms import Transform, make_transforms

log = logging.getLogger("larstore.train")
MAX_VOXELS = 1_000_000  # a batch, where the configuration has no budget


@dataclass(frozen=True)
class InferResult:
    """What an inference did: images and voxels it predicted now, those that were predicted already, seconds."""

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
    verbose: bool = False,
    progress: bool = True,
) -> InferResult:
    """Write ``predictions/NAME`` of a store; what an earlier, interrupted call has written is kept.

    The charge of a network of scores and charges becomes a prediction of its own, ``NAME-charge``, in the unit of the
    target it was trained on (electrons × ``data.scale``).

    Args:
        config: its ``model`` block, ``data.max_voxels`` and ``train`` (threads, accelerator) count; which planes
            are inputs, in which order and how scaled, is taken from the checkpoint.
        checkpoint: a file, an epoch of the run in ``config.output_dir``, or None for its last one.
        store: path of the store.
        name: of the prediction; one name belongs to one checkpoint.
        files, tpcs, query: which images, as in `Store.select`; all by default.
        every: only every n-th of these.

    Raises:
        ConfigError: nothing is selected, or model, data and checkpoint do not fit each other.
        InputError: the checkpoint cannot be read.
        StoreError: the name is taken by another checkpoint.
    """
    began = time.monotonic()
    with naming_file(config):
        if checkpoint is None or isinstance(checkpoint, int):
            checkpoint = RunFolder(config.output_dir).find_checkpoint(checkpoint)
        selection = larstore.open(store).select(files=files, tpcs=tpcs, query=query)
        selection = type(selection)(selection.store, selection.row_numbers[::every])
        if not len(selection):
            raise ConfigError(
                f"{store}: no image in files {files or 'all'}, TPCs {tpcs or 'all'}. "
                f"Fix: choose among those that 'larstore index {store}' lists"
            )
        predictor, attributes, remarks = _load(config, checkpoint, selection)
    outputs = outputs_of(config.model.model_dump())
    names = [name, *(f"{name}-{output}" for output in outputs[1:])]
    with (
        log_to_stderr(verbose),
        compute_threads(config.train.threads, config.train.backend),
        ExitStack() as opened,
    ):
        writers = [
            opened.enter_context(larstore.PredictionWriter(store, each, attributes | {"output": output}))
            for each, output in zip(names, outputs, strict=True)
        ]
        log.info(predictor.backend)
        for remark in remarks:
            log.warning(remark)
        # One of several may be ahead where a call was interrupted between two commits.
        lacking = [dict(writer.groups(selection)) for writer in writers]
        groups = sorted({shard: images for each in lacking for shard, images in each.items()}.items())
        n_images = sum(len(images) for _, images in groups)
        with Progress(console=Console(stderr=True), disable=not (progress and sys.stderr.isatty())) as bar:
            task = bar.add_task("inference", total=n_images)
            for shard, images in groups:
                values = []
                for image, columns in predictor(images):
                    values.append((image, columns))
                    bar.advance(task)
                for column, (writer, shards) in enumerate(zip(writers, lacking, strict=True)):
                    if shard in shards:
                        writer.write(shard, [(image, columns[:, column]) for image, columns in values])
                        writer.commit()
        for writer, shards in zip(writers, lacking, strict=True):
            if not shards:
                writer.commit()
        if len(names) > 1:
            log.info("%s: %s", store, ", ".join(f"{o} in {n}" for o, n in zip(outputs, names, strict=True)))
    voxels = sum(len(image) for _, images in groups for image in images)
    return InferResult(name, n_images, voxels, len(selection) - n_images, time.monotonic() - began)


def _load(config: Config, checkpoint: str | Path, selection: Any) -> tuple["Predictor", dict[str, Any], list[str]]:
    """The network of a checkpoint, ready to predict; what the store is told about it; what the user should know."""
    store = selection.store
    content = load_checkpoint(checkpoint)
    about = content["larstore"]
    trained = make_config(about["config"], str(checkpoint))
    planes = store.attributes["planes"]
    transforms = make_transforms(trained.data, training=False, planes=planes, store=str(store.path))
    check_tpcs(about.get("imported", {}), store.attributes["detector"], selection.column("tpc"), str(checkpoint))
    n_planes = len(planes)
    if n_planes != about["n_planes"]:
        raise ConfigError(
            f"{store.path}: has {n_planes} planes, {checkpoint} was trained on {about['n_planes']}. "
            "Fix: another checkpoint"
        )
    remarks = other_versions(about["versions"])
    if config.data.charge != trained.data.charge or config.data.z_segments != trained.data.z_segments:
        remarks.append("data.charge and data.z_segments are the checkpoint's, not the configuration's")
    if config.data.input_planes not in (None, trained.data.input_planes):
        remarks.append("data.input_planes are the checkpoint's, not the configuration's")
    units = {each["units"] for each in about["stores"]} or {"electrons"}  # input_scale of an import is from electrons
    if store.attributes["units"] not in units:
        remarks.append(f"{store.path}: charges are in {store.attributes['units']}, trained on {', '.join(units)}")
    data = trained.data.model_copy(update={"max_voxels": config.data.max_voxels})
    config = with_inputs(config.model_copy(update={"data": data}), len(trained.data.input_planes or planes))
    model = build_model(config.model.model_dump())
    load_weights(model, model_weights(content), str(checkpoint))
    attributes = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256(checkpoint),
        "epoch": None if content["epoch"] is None else int(content["epoch"]),  # not known of some imported ones
        "config": trained.plain(),
        "versions": versions(),
    }
    return Predictor(model, transforms, config), attributes, remarks


class Predictor:
    """A network in evaluation mode that takes images and gives its outputs per voxel, in budgeted batches."""

    def __init__(self, model: torch.nn.Module, transforms: Sequence[Transform], config: Config) -> None:
        self.device = device_of(config)
        self.model = model.to(self.device).eval()
        self.backend = use_backend(self.model, config.train.backend, self.device)
        self.transforms = transforms
        self.max_voxels = config.data.max_voxels or MAX_VOXELS

    @torch.no_grad()
    def __call__(self, images: Sequence[Any]) -> Iterator[tuple[Any, npt.NDArray[np.float32]]]:
        """Each image with its (n, outputs) float32, in the order given."""
        unused = np.random.default_rng(0)  # no transform of an inference is random
        for batch in self._batches(images):
            samples = []
            for image in batch:
                sample = to_sample(image, f"{image.store.path}: image {image.key}")
                for transform in self.transforms:
                    sample = transform(sample, unused)
                samples.append(sample)
            joined = join(samples, [image.key for image in batch])
            output = self.model(joined["coords"].to(self.device), joined["features"].to(self.device))
            values = output.float().cpu().numpy()
            offsets = joined["offsets"].tolist()
            for image, start, stop in zip(batch, offsets[:-1], offsets[1:], strict=True):
                yield image, values[start:stop]

    def _batches(self, images: Sequence[Any]) -> Iterator[list[Any]]:
        """Consecutive images up to the budget; one that exceeds it comes alone."""
        batch: list[Any] = []
        voxels = 0
        for image in images:
            if batch and voxels + len(image) > self.max_voxels:
                yield batch
                batch, voxels = [], 0
            batch.append(image)
            voxels += len(image)
        if batch:
            yield batch
