"""Truth summed over blocks of voxels, and the block of each tiled voxel: what a loss on block sums needs.

Here, and not beside the tiling, since training needs it too and it knows nothing but voxels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from larstore.coordinates import LARGEST, check_downsample
from larstore.errors import InputError
from larstore.image import pack


class TruthBlocks(NamedTuple):
    """Blocks that hold truth.

    Attributes:
        coords: (b, 3) uint16 block coordinates (voxel // block size), unique and sorted by (x, y, z).
        sums: (b,) or (b, k) float32 sum over all truth voxels of a block, tiled or not.
        row: (n,) int64 for each tiled voxel the row of its block, −1 where its block holds no truth.
    """

    coords: npt.NDArray[np.uint16]
    sums: npt.NDArray[np.float32]
    row: npt.NDArray[np.int64]


def truth_blocks(
    coords: npt.ArrayLike, truth_coords: npt.ArrayLike, values: npt.ArrayLike, downsample: Sequence[int] = (5, 5, 5)
) -> TruthBlocks:
    """Sum truth over blocks of voxels, and find each tiled voxel's block.

    Args:
        coords: (n, 3) whole numbers, the tiled voxels of an image in any order.
        truth_coords: (m, 3) whole numbers, its truth voxels in any order.
        values: (m,) what is summed, or (m, k) several such columns; electrons as ``Image.truth_voxels`` has them.
        downsample: voxels of a block in x, y and z; blocks begin at coordinate 0.

    Takes (n + m) log m.

    Raises:
        ConfigError: ``downsample`` is not three whole numbers of 1 or more.
        InputError: arrays of other shapes or types, or coordinates outside 0 … 65,534.
    """
    steps = np.array([min(step, LARGEST + 1) for step in check_downsample(downsample)])
    tiled = pack(_voxels("coords", coords) // steps)
    keys = pack(_voxels("truth_coords", truth_coords) // steps)
    numbers = np.asarray(values)
    if numbers.ndim not in (1, 2) or len(numbers) != len(keys) or numbers.dtype.kind not in "fiu":
        raise InputError(
            f"values have shape {numbers.shape} and type {numbers.dtype}. "
            f"Fix: give a number, or some, for each of the {len(keys)} truth voxels"
        )
    order = np.argsort(keys, kind="stable")
    start = np.flatnonzero(np.diff(keys[order], prepend=-1))
    unique = keys[order[start]]
    sums = np.add.reduceat(numbers[order].astype(np.float64), start, axis=0)
    row = np.searchsorted(unique, tiled)
    found = row < len(unique)
    found[found] = unique[row[found]] == tiled[found]
    return TruthBlocks(
        np.column_stack([unique >> 32, unique >> 16 & 0xFFFF, unique & 0xFFFF]).astype(np.uint16),
        sums.astype(np.float32),
        np.where(found, row, -1),
    )


def _voxels(name: str, given: npt.ArrayLike) -> npt.NDArray[np.int64]:
    voxels = np.asarray(given)
    if voxels.ndim != 2 or voxels.shape[1] != 3 or voxels.dtype.kind not in "iu":
        raise InputError(
            f"{name} have shape {voxels.shape} and type {voxels.dtype}. Fix: give (voxels, 3) whole numbers x, y, z"
        )
    if voxels.size and not 0 <= int(voxels.min()) <= int(voxels.max()) <= LARGEST:
        raise InputError(
            f"{name} reach from {voxels.min()} to {voxels.max()}. Fix: give voxel coordinates, 0 to {LARGEST}"
        )
    return voxels.astype(np.int64)
