"""From a configuration to the loaders of its training and validation images."""

from typing import Any, Literal

import numpy as np
import torch

import larstore
from larstore.errors import ConfigError
from train.schema import Config
from train.streaming.batches import local_batches
from train.streaming.choosing import choose
from train.streaming.extents import check_limits
from train.streaming.flips import make_flip
from train.streaming.stream import ImageStream, StreamLoader
from train.streaming.transforms import make_transforms


def make_loader(
    config: Config, part: Literal["train", "valid"], rank: int = 0, n_ranks: int = 1
) -> StreamLoader | None:
    """The loader of this process's training or validation images, None where the configuration names none.

    ``rank`` of ``n_ranks`` processes that train together gets its share. Validation sees every image once, in order,
    with the same crops in each epoch.

    Raises ConfigError for a range without images, limits that lie outside of them, or an image over the voxel budget.
    """
    data, training = config.data, part == "train"
    pairs, weights = [], []
    for source in data.sources("train" if training else "inference"):
        store = larstore.open(source.path)
        selection = choose(store, source, "train_i" if training else "inference_i")
        flip = None
        if training and data.coord_lim is not None:
            check_limits(data.coord_lim, store, np.unique(selection.column("tpc")).tolist())
        if training and data.flips is not None:
            flip = make_flip(data.flips, store, np.unique(selection.column("tpc")).tolist())
        planes = store.attributes["planes"]
        steps = make_transforms(
            data, training=training, scale=source.scale, planes=planes, store=source.path, flip=flip
        )
        pairs.append((selection, steps))
        weights.append(source.weight)
    if not pairs:
        return None
    stream = ImageStream(
        pairs,
        batch_size=data.batch_size,
        max_voxels=data.max_voxels,
        shuffle=training,
        seed=config.seed,
        weights=[weight for weight in weights if weight is not None] if training and data.weights else None,
        epoch_images=data.epoch_images if training else None,
        over_budget=data.over_budget,
        last=data.last if training else "pad",
        window=data.window,
        rank=rank,
        n_ranks=n_ranks,
        need_truth=True,
        full_y=data.full_y,
        vary=training,
        truth=data.truth,
    )
    pin = config.train.accelerator != "cpu" and torch.cuda.is_available()
    return StreamLoader(stream, data.num_workers if training else 0, data.start_method, pin, data.read_ahead_mb)


def count_steps(stream: ImageStream, n_epochs: int, accumulate: int = 1) -> int:
    """Steps of ``accumulate`` batches a process in all epochs; exact for the first ten, the others as their mean."""
    plans = (stream.plan(epoch) for epoch in range(min(n_epochs, 10)))
    counted = [-(-local_batches(len(plan), stream.n_ranks) // accumulate) for plan in plans]
    return round(float(np.mean(counted)) * n_epochs)


def describe_stores(loaders: list[StreamLoader | None]) -> list[dict[str, Any]]:
    """Path, commit, the root's sha256, geometry and units of each store, as a checkpoint keeps them."""
    found = {}
    for loader in loaders:
        for selection in loader.stream.selections if loader else ():
            attributes = selection.store.attributes
            found[str(selection.store.path)] = {
                "path": str(selection.store.path),
                "commit": attributes["commit"],
                "sha256": attributes["sha256"],
                "geometry_hash": attributes["geometry_hash"],
                "units": attributes["units"],
            }
    return list(found.values())


def count_planes(loaders: list[StreamLoader | None]) -> int:
    """Charges per voxel. Raises ConfigError where the stores differ."""
    planes = {
        str(selection.store.path): len(selection.store.attributes["planes"])
        for loader in loaders
        for selection in (loader.stream.selections if loader else ())
    }
    if len(set(planes.values())) > 1:
        raise ConfigError(f"data.data_path: the stores have different numbers of planes, {planes}. Fix: one detector")
    return next(iter(planes.values()))


def input_planes(config: Config, loaders: list[StreamLoader | None]) -> list[str]:
    """The planes in the order of the network's inputs: as configured, else the stores' own order.

    Raises ConfigError where that is another one in each store.
    """
    if config.data.input_planes is not None:
        return config.data.input_planes
    planes: dict[str, list[str]] = {
        str(selection.store.path): selection.store.attributes["planes"]
        for loader in loaders
        for selection in (loader.stream.selections if loader else ())
    }
    first = next(iter(planes.values()))
    if any(each != first for each in planes.values()):
        raise ConfigError(
            f"data.data_path: the stores have different planes, {planes}. Fix: data.input_planes: [{', '.join(first)}]"
        )
    return first


def first_coords(stream: ImageStream, most: int = 200_000) -> torch.Tensor | None:
    """coords (n, 4) of the first image of 1 to ``most`` voxels within the budget, as the network gets it; or None."""
    most = min(most, stream.max_voxels or most)
    usable = np.flatnonzero((stream.voxel_count > 0) & (stream.voxel_count <= most))
    return stream.load(usable[:1])["coords"] if len(usable) else None
