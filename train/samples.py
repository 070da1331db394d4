"""From images to the tensors of a batch; training and inference use the same steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from larstore.errors import ConfigError, DamageError
from train.transforms import Sample

Batch = dict[str, Any]
Key = tuple[int, int, int]


def to_sample(image: Any, where: str, need_truth: bool = False, truth_kind: str = "truth") -> Sample:
    """The arrays of a `larstore` image before any transform; voxels without known truth get weight 0.

    Args:
        image: with ``coords``, ``charge`` and ``truth``.
        where: names the image in errors.
        need_truth: refuse an image that has none at all.
        truth_kind: "truth", the electrons freed, or "collected", those that attachment lets reach the wires.

    Raises:
        DamageError: a charge is not finite, which no store writes.
        ConfigError: truth is needed and missing.
    """
    charge = np.asarray(image.charge, np.float32)
    truth = image.collected if truth_kind == "collected" else image.truth
    if truth_kind == "collected" and len(truth) and np.isnan(truth).all():
        truth = None
    if not np.isfinite(charge).all():
        raise DamageError(f"{where}: charge holds NaN or infinity. Fix: run larstore verify on the store")
    if truth is None:
        if need_truth:
            what, other = ("collected truth", ", or data.truth: truth") if truth_kind == "collected" else ("truth", "")
            raise ConfigError(f"{where} has no {what} to train on. Fix: leave its file out of data.train_i{other}")
        truth = np.full(len(charge), np.nan, np.float32)
    known = np.isfinite(truth)[:, None]
    target = np.where(known, truth[:, None], np.float32(0))
    return Sample(image.coords.astype(np.int64), charge, target, known.astype(np.float32))


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
