"""A sparse tensor: features on sorted, unique sites, with the rules that its layers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from larstore.errors import InputError
from train.sparse import rule_kernels

Coords = npt.NDArray[np.int64]
Triple = tuple[int, int, int]
WIDEST = 64  # radius of a filter, for which keys have room
Convolve = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]


@dataclass
class Sites:
    """The active sites of one resolution level, sorted by (event, x, y, z) and unique.

    Attributes:
        coords: (n, 4) int64 rows x, y, z, event.
        size: extent of the level in x, y, z; coordinates lie in [0, size).
        rules: what layers of this level have computed once, by kernel.
    """

    coords: Coords
    size: Triple
    rules: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.coords)


def strides(size: Triple, radius: int) -> Triple:
    """Key distance of a step in x, y and z."""
    z = size[2] + 2 * radius
    return (size[1] + 2 * radius) * z, z, 1


def encode(coords: Coords, size: Triple, radius: int) -> npt.NDArray[np.int64]:
    """Keys ((event · X + x) · Y + y) · Z + z.

    Extents are padded by ``radius``, so that the end of one row of the grid is no neighbour of the next one's start.
    """
    sx, sy, _ = strides(size, radius)
    return coords[:, 3] * (sx * (size[0] + 2 * radius)) + coords[:, 0] * sx + coords[:, 1] * sy + coords[:, 2]


@dataclass
class SparseTensor:
    """Features on the sites of one level.

    Attributes:
        features: (n, channels), one row per site.
        sites: where they are.
        inverse: (rows,) site of each of the caller's rows; None if they are the sites, in order.
        convolve: the backend's convolution.
        finer: sites of the levels above this one, the nearest last. They are kept here because a level that knew its
            finer one would close a cycle, and both would outlive the batch.
    """

    features: torch.Tensor
    sites: Sites
    inverse: torch.Tensor | None
    convolve: Convolve
    finer: tuple[Sites, ...] = ()

    def having(self, features: torch.Tensor) -> SparseTensor:
        """Other features on the same sites."""
        return replace(self, features=features)

    def below(self, features: torch.Tensor, coarse: Sites) -> SparseTensor:
        """Features on the sites of the next coarser level."""
        return replace(self, features=features, sites=coarse, finer=(*self.finer, self.sites))

    def above(self, features: torch.Tensor) -> SparseTensor:
        """Features on the sites of the next finer level."""
        return replace(self, features=features, sites=self.finer[-1], finer=self.finer[:-1])


def sort_sites(coords: torch.Tensor, size: Triple) -> tuple[Sites, torch.Tensor | None]:
    """Unique, sorted sites of coords (rows, 4), and each row's site (rows,), None if the rows are the sites, in order.

    Raises InputError for coords that are not whole numbers, of another shape, or outside ``size``.
    """
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        raise InputError(
            f"coords have shape {list(coords.shape)} and type {coords.dtype}. Fix: give integers (n, 4): x, y, z, event"
        )
    rows = np.ascontiguousarray(coords.detach().cpu().numpy(), np.int64)
    n_outside, first = rule_kernels.count_outside(rows, np.asarray(size))
    if n_outside:
        raise InputError(
            f"{n_outside} of {len(rows)} voxels lie outside the spatial size {list(size)}, the first at "
            f"x, y, z, event = {rows[first].tolist()}. Fix: enlarge spatial_size in the model's settings"
        )
    events = int(rows[:, 3].max(initial=0)) + 1
    if events * math.prod(n + 2 * WIDEST for n in size) >= 2**62:
        raise InputError(f"spatial size {list(size)} × {events} events: more cells than 2^62. Fix: fewer of them")
    keys = encode(rows, size, 0)
    if (keys[1:] > keys[:-1]).all():  # as a store has them
        return Sites(rows, size), None
    inverse, firsts = number_sites(keys)
    return Sites(rows[firsts], size), torch.from_numpy(inverse)


def sum_rows(features: torch.Tensor, inverse: torch.Tensor, n_sites: int) -> torch.Tensor:
    """(n_sites, channels): the sum of each site's rows, in their order, so that it has the same bits on any device."""
    order = torch.argsort(inverse, stable=True)
    if n_sites == len(inverse):
        return features.index_select(0, order.to(features.device))
    sites = inverse[order]
    rank = torch.arange(len(order)) - torch.searchsorted(sites, sites)
    summed = features.new_zeros((n_sites, features.shape[1]))
    for number in range(int(rank.max()) + 1):
        among = rank == number  # no site twice
        rows, targets = order[among].to(features.device), sites[among].to(features.device)
        summed = summed.index_add(0, targets, features.index_select(0, rows))
    return summed


def number_sites(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number of each key's site, in ascending order of keys, and the first place of each site."""
    order = np.argsort(keys, kind="stable")  # linear where keys come sorted, as from a store, or nearly so
    numbers, firsts = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    return numbers, firsts[: rule_kernels.number_keys(keys, order, numbers, firsts)]
