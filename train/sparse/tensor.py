"""A sparse tensor: features on sorted, unique sites, with the rules that its layers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from larstore.errors import InputError


@dataclass
class Sites:
    """The active sites of one resolution level, sorted by (event, x, y, z) and unique.

    Attributes:
        coords: (n, 4) int64 rows x, y, z, event.
        size: extent of the level in x, y, z; coordinates lie in [0, size).
        rules: what layers of this level have computed once, by kernel.
    """

    coords: npt.NDArray[np.int64]
    size: tuple[int, int, int]
    rules: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.coords)

    def keys(self, radius: int) -> npt.NDArray[np.int64]:
        """Sorted int64 keys, padded so that the end of one row of the grid is no neighbour of the next one's start."""
        known = self.rules.get(("keys", radius))
        if known is None:
            known = self.rules["keys", radius] = encode(self.coords, self.size, radius)
        return known


def strides(size: tuple[int, int, int], radius: int) -> tuple[int, int, int]:
    """Key distance of a step in x, y and z."""
    z = size[2] + 2 * radius
    return (size[1] + 2 * radius) * z, z, 1


def encode(coords: npt.NDArray[np.int64], size: tuple[int, int, int], radius: int) -> npt.NDArray[np.int64]:
    """Keys ((event · X + x) · Y + y) · Z + z with padded extents."""
    sx, sy, _ = strides(size, radius)
    return coords[:, 3] * (sx * (size[0] + 2 * radius)) + coords[:, 0] * sx + coords[:, 1] * sy + coords[:, 2]


@dataclass
class SparseTensor:
    """Features on the sites of one level.

    Attributes:
        features: (n, channels), one row per site.
        sites: where they are.
        inverse: (rows,) site of each of the caller's rows.
        finer: sites of the levels above this one, the nearest last. They are kept here because a level that knew its
            finer one would close a cycle, and both would outlive the batch.
    """

    features: torch.Tensor
    sites: Sites
    inverse: torch.Tensor
    finer: tuple[Sites, ...] = ()

    def replace(self, features: torch.Tensor) -> SparseTensor:
        """Other features on the same sites."""
        return SparseTensor(features, self.sites, self.inverse, self.finer)

    def below(self, features: torch.Tensor, coarse: Sites) -> SparseTensor:
        """Features on the sites of the next coarser level."""
        return SparseTensor(features, coarse, self.inverse, (*self.finer, self.sites))

    def above(self, features: torch.Tensor) -> SparseTensor:
        """Features on the sites of the next finer level."""
        return SparseTensor(features, self.finer[-1], self.inverse, self.finer[:-1])


def sort_sites(coords: torch.Tensor, size: tuple[int, int, int]) -> tuple[Sites, torch.Tensor]:
    """Unique, sorted sites of coords (rows, 4), and each row's site (rows,).

    Raises InputError for coords that are not whole numbers, of another shape, or outside ``size``.
    """
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        raise InputError(
            f"coords have shape {list(coords.shape)} and type {coords.dtype}. Fix: give integers (n, 4): x, y, z, event"
        )
    rows = coords.detach().cpu().numpy().astype(np.int64, copy=False)
    outside = ((rows[:, :3] < 0) | (rows[:, :3] >= np.asarray(size))).any(axis=1) | (rows[:, 3] < 0)
    if outside.any():
        first = rows[outside][0].tolist()
        raise InputError(
            f"{int(outside.sum())} of {len(rows)} voxels lie outside the spatial size {list(size)}, the first at "
            f"x, y, z, event = {first}. Fix: enlarge spatial_size in the model's settings"
        )
    _, first_row, inverse = np.unique(encode(rows, size, 0), return_index=True, return_inverse=True)
    return Sites(np.ascontiguousarray(rows[first_row]), size), torch.from_numpy(inverse.astype(np.int64))
