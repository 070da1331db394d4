"""A network with the weights of a checkpoint that gives its outputs for images of a store, batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from larstore.errors import ConfigError, LarstoreError
from larstore.store import Store
from train.config import make_config, with_inputs
from train.models import build_model
from train.resuming.checkpoint import load_checkpoint, load_weights, model_weights, sha256
from train.resuming.research_checkpoint import check_tpcs
from train.runtime import device_of, other_versions, versions
from train.schema import Config
from train.sparse.backends import use_backend
from train.streaming.ahead import ReadAhead
from train.streaming.reading import read_voxels
from train.streaming.samples import Batch, as_batch
from train.streaming.steps import UNUSED, Sample, apply_all
from train.streaming.transforms import Transform, make_transforms

MAX_VOXELS = 1_000_000  # a batch, where the configuration has no budget
AHEAD = 2  # batches that are read while the network works on another

Rows = npt.NDArray[np.int64]  # of the store's index
Scores = npt.NDArray[np.float32]


class InferenceError(LarstoreError):
    """Images that cannot be predicted: the network's outputs are no numbers, memory, workers that died."""


@dataclass(frozen=True)
class Network:
    """A network on the CPU with its weights, what is done to an image before it, and where both come from.

    Attributes:
        max_voxels: of a batch; an image of more comes alone.
        attributes: what the store is told about a prediction: checkpoint, its hash and epoch, config, versions.
        remarks: what the user should know, a line each.
    """

    model: torch.nn.Module
    transforms: Sequence[Transform]
    config: Config
    max_voxels: int
    attributes: dict[str, Any]
    remarks: list[str]


def load_network(config: Config, checkpoint: str | Path, store: Store, tpcs: npt.NDArray[Any]) -> Network:
    """The network of a checkpoint for images of these TPCs of a store.

    Raises ConfigError where model, store and checkpoint do not fit each other, InputError for a file that is none.
    """
    content = load_checkpoint(checkpoint)
    about = content["larstore"]
    trained = make_config(about["config"], str(checkpoint))
    planes = store.attributes["planes"]
    transforms = make_transforms(trained.data, training=False, planes=planes, store=str(store.path))
    check_tpcs(about.get("imported", {}), store.attributes["detector"], tpcs, str(checkpoint))
    if len(planes) != about["n_planes"]:
        raise ConfigError(
            f"{store.path}: has {len(planes)} planes, {checkpoint} was trained on {about['n_planes']}. "
            "Fix: another checkpoint"
        )
    config_of_net = with_inputs(
        config.model_copy(update={"data": trained.data}), len(trained.data.input_planes or planes)
    )
    model = build_model(config_of_net.model.model_dump())
    load_weights(model, model_weights(content), str(checkpoint))
    attributes = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256(checkpoint),
        "epoch": None if content["epoch"] is None else int(content["epoch"]),  # not known of some imported ones
        "config": trained.plain(),
        "versions": versions(),
    }
    remarks = other_versions(about["versions"])
    if config.data.charge != trained.data.charge or config.data.z_segments != trained.data.z_segments:
        remarks.append("data.charge and data.z_segments are the checkpoint's, not the configuration's")
    if config.data.input_planes not in (None, trained.data.input_planes):
        remarks.append("data.input_planes are the checkpoint's, not the configuration's")
    units = {each["units"] for each in about["stores"]} or {"electrons"}  # input_scale of an import is from electrons
    if store.attributes["units"] not in units:
        remarks.append(f"{store.path}: charges are in {store.attributes['units']}, trained on {', '.join(units)}")
    return Network(model, transforms, config, config.data.max_voxels or MAX_VOXELS, attributes, remarks)


def cut(rows: Rows, voxels: npt.NDArray[np.int64], max_voxels: int) -> list[Rows]:
    """Consecutive images (rows of the index, and their voxels) up to the budget; one that exceeds it comes alone."""
    starts, held = [0] if len(rows) else [], 0
    for i, size in enumerate(voxels.tolist()):
        if i > starts[-1] and held + size > max_voxels:
            starts.append(i)
            held = 0
        held += size
    return [rows[a:b] for a, b in pairwise([*starts, len(rows)])]


def named(store: Store, rows: Rows) -> str:
    """The store and some of its images, for messages."""
    keys = [str(store.index_columns.keys(row)) for row in rows[:3].tolist()]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"{store.path}: image{'s' * (len(rows) > 1)} (file, event, tpc) {', '.join(keys)}{more}"


class Predictor:
    """A network in evaluation mode on its device; gives its outputs per voxel for images of one store."""

    def __init__(self, network: Network, store: Store, device: torch.device | None = None) -> None:
        self.network, self.store = network, store
        self.device = device_of(network.config) if device is None else device
        self.model = network.model.to(self.device).eval()
        self.backend = use_backend(self.model, network.config.train.backend, self.device)

    def __call__(self, batches: Iterable[Rows]) -> Iterator[Scores]:
        """(voxels, outputs) float32 of each batch in order, image after image; the next ones are read meanwhile.

        Raises InferenceError for outputs that are not finite, or a batch that does not fit the memory.
        """
        read = ReadAhead(batches, lambda rows: (rows, self.read(rows)), AHEAD, lambda _: 1, helped=False)
        with closing(read) as ready:
            for rows, batch in ready:
                yield self.outputs(rows, batch)

    @torch.no_grad()
    def outputs(self, rows: Rows, batch: Batch) -> Scores:
        """What the network says of one batch; see ``__call__``."""
        with self._fitting(rows):
            found = self.model(batch["coords"].to(self.device), batch["features"].to(self.device))
            values = np.asarray(found.float().cpu().numpy())
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            image = int(np.searchsorted(batch["offsets"].numpy(), int(np.argmax(wrong)), side="right")) - 1
            raise InferenceError(
                f"{named(self.store, rows[image : image + 1])}: the network gives NaN or infinity for it. "
                "Fix: the checkpoint of another epoch"
            )
        return values

    def read(self, rows: Rows) -> Batch:
        """Images in the order of the store as a batch; those that touch are read together."""
        with self._fitting(rows):
            return self._read(rows)

    @contextmanager
    def _fitting(self, rows: Rows) -> Iterator[None]:
        """InferenceError where a batch does not fit the memory."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError) as error:
            voxels = int(self.store.index_columns.places("voxel", rows)[1].sum())
            fix = f"data.max_voxels below {voxels}" if len(rows) > 1 else "leave it out with --query 'voxel_count < …'"
            raise InferenceError(
                f"{named(self.store, rows)}: {voxels} voxels do not fit the memory. Fix: {fix}"
            ) from error

    def _read(self, rows: Rows) -> Batch:
        columns = self.store.index_columns
        start, count = (part.astype(np.int64) for part in columns.places("voxel", rows))
        keys = [columns.keys(row) for row in rows.tolist()]
        coords, charge, _ = read_voxels(
            self.store, start, count, lambda image: f"{self.store.path}: image {keys[image]}"
        )
        unknown = np.zeros((len(coords), 1), np.float32)
        sample = Sample(coords, charge, unknown, unknown)
        # No transform of an inference is random.
        sample = apply_all(sample, self.network.transforms, [key[2] for key in keys], lambda: [UNUSED] * len(keys))
        return as_batch(sample, keys)
