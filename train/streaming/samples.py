"""The tensors of a batch; training and inference make them alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from larstore.errors import LarstoreError
from train.streaming.steps import Sample

Batch = dict[str, Any]
Key = tuple[int, int, int]
Task = tuple[int, bool]  # a batch's number, and whether it is only there to make the ranks equal


@dataclass(frozen=True)
class Failure:
    """What a worker process hands over in place of a batch that could not be made."""

    error: LarstoreError


def as_batch(sample: Sample, keys: Sequence[Key]) -> Batch:
    """The tensors of images that are one after another already, without a copy.

    The fourth column of ``sample.coords`` is the image in the batch, ascending.

    Returns a dict: ``coords`` (n, 4) int64 x, y, z, image in the batch; ``features`` (n, f), ``target`` and
    ``weight`` (n, 1) float32; ``offsets`` (images + 1,) int64 first voxel of each image; ``keys`` (file, event, tpc).
    Where there are truth voxels, ``truth_coords`` (m, 4) int64 and ``truth_value`` (m, 1) float32.
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
