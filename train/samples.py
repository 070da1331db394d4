"""From images to the tensors of a batch; training and inference use the same steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from larstore.errors import ConfigError, DamageError, LarstoreError
from train.steps import Sample

Batch = dict[str, Any]
Key = tuple[int, int, int]


@dataclass(frozen=True)
class Failure:
    """What a worker process hands over in place of a batch that could not be made."""

    error: LarstoreError


def to_sample(image: Any, where: str, need_truth: bool = False) -> Sample:
    """The arrays of a `larstore` image before any transform; voxels without known truth get weight 0.

    Args:
        image: with ``coords``, ``charge`` and ``truth``.
        where: names the image in errors.
        need_truth: refuse an image that has none at all.

    Raises:
        DamageError: a charge is not finite, which no store writes.
        ConfigError: truth is needed and missing.
    """
    charge, truth = np.asarray(image.charge, np.float32), image.truth
    refuse_nan(charge, where)
    if truth is None:
        if need_truth:
            raise ConfigError(f"{where} has no truth to train on. Fix: leave its file out of data.train_i")
        truth = np.full(len(charge), np.nan, np.float32)
    known = np.isfinite(truth)[:, None]
    target = np.where(known, truth[:, None], np.float32(0))
    return Sample(image.coords.astype(np.int64), charge, target, known.astype(np.float32))


def refuse_nan(charge: npt.NDArray[np.float32], where: str) -> None:
    """DamageError that names the image, unless all its charges are finite: no store writes others."""
    if not np.isfinite(charge).all():
        raise DamageError(f"{where}: charge holds NaN or infinity. Fix: run larstore verify on the store")


def as_batch(sample: Sample, keys: Sequence[Key]) -> Batch:
    """The tensors of images that are one after another already, without a copy; as `join` returns them.

    The fourth column of ``sample.coords`` is the image in the batch, ascending. Where there are truth voxels, they
    come as ``truth_coords`` (m, 4) int64 and ``truth_value`` (m, 1) float32.
    """
    batch = {
        "coords": torch.from_numpy(sample.coords),
        "features": torch.from_numpy(sample.features),
        "target": torch.from_numpy(sample.target),
        "weight": torch.from_numpy(sample.weight),
        "offsets": torch.from_numpy(sample.offsets(len(keys))),
        "keys": list(keys),
    }
    if sample.truth_coords is not None and sample.truth_value is not None:
        batch["truth_coords"] = torch.from_numpy(sample.truth_coords)
        batch["truth_value"] = torch.from_numpy(sample.truth_value)
    return batch


def join(samples: Sequence[Sample], keys: Sequence[Key]) -> Batch:
    """Put images into one batch.

    Returns a dict: ``coords`` (n, 4) int64 x, y, z, image in the batch; ``features`` (n, f), ``target`` and
    ``weight`` (n, 1) float32; ``offsets`` (images + 1,) int64 first voxel of each image; ``keys`` (file, event, tpc).
    """
    sizes = np.array([len(sample) for sample in samples], np.int64)
    image = np.repeat(np.arange(len(samples)), sizes)
    return {
        "coords": torch.from_numpy(np.column_stack([np.concatenate([s.coords for s in samples]), image])),
        "features": torch.from_numpy(np.concatenate([s.features for s in samples])),
        "target": torch.from_numpy(np.concatenate([s.target for s in samples])),
        "weight": torch.from_numpy(np.concatenate([s.weight for s in samples])),
        "offsets": torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        "keys": list(keys),
    }
