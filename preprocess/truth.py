"""Truth points on the voxels of an image: sums, and what else is known about each voxel."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from larstore.coordinates import check_axis, check_downsample
from larstore.errors import InputError
from larstore.image import at_voxels
from larstore.truth_sums import TruthBlocks, truth_blocks

__all__ = ["TruthBlocks", "sum_runs", "truth_at", "truth_blocks", "voxelise_columns", "voxelise_truth"]


def voxelise_truth(
    truth: npt.ArrayLike, downsample: Sequence[int], shape: Sequence[int]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Sum truth points into voxels.

    Args:
        truth: (m, 4) tick, y pixel, z pixel at full resolution (floats are rounded down) and the value.
        downsample: as for the Tiler.
        shape: (ticks, y pixels, z pixels) at full resolution; points outside are left out.

    Returns:
        coords (n, 3) uint16, unique and sorted by (x, y, z), and value (n,) float32.
    """
    points, keys, order = _sorted_points(_check_points(truth), downsample, shape)
    unique, value = np.empty_like(keys), np.empty(len(keys), np.float64)
    n = sum_runs(order, keys, points[:, 3], unique, value)
    unique = unique[:n]
    coords = np.column_stack([unique >> 32, unique >> 16 & 0xFFFF, unique & 0xFFFF]).astype(np.uint16)
    return coords, value[:n].astype(np.float32)


def voxelise_columns(
    truth: npt.ArrayLike, columns: Mapping[str, npt.NDArray[Any]], downsample: Sequence[int], shape: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the truth points for the voxels of ``voxelise_truth``, which takes the same other arguments.

    ``collected`` (float32) is summed; ``pdg`` and ``track`` (int32) are those of the point with the largest value in
    the voxel, the first one of equals. InputError for a column that is not (m,) finite numbers.
    """
    if not columns:
        return {}
    points = _check_points(truth)
    for name, values in columns.items():
        if values.shape != (len(points),) or values.dtype.kind not in "fiu":
            raise InputError(
                f"Truth column {name} has shape {values.shape} and type {values.dtype}. "
                f"Fix: give one number for each of the {len(points)} truth points."
            )
    points, keys, order = _sorted_points(np.column_stack([points, *columns.values()]), downsample, shape)
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))  # where each voxel's points begin
    by_value = np.lexsort((-points[:, 3], keys))  # stable: the first of equals stays first
    found: dict[str, npt.NDArray[Any]] = {}
    for i, name in enumerate(columns, 4):
        if name == "collected":
            unique, total = np.empty_like(keys), np.empty(len(keys), np.float64)
            n = sum_runs(order, keys, points[:, i], unique, total)
            found[name] = total[:n].astype(np.float32)
        else:
            found[name] = points[by_value[first], i].astype(np.int32)
    return found


def _check_points(truth: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(truth, np.float64)
    if points.ndim != 2 or points.shape[1] != 4:
        raise InputError(f"Truth points have shape {points.shape}. Fix: give (m, 4): tick, y pixel, z pixel, value.")
    return points


def _sorted_points(
    points: npt.NDArray[np.float64], downsample: Sequence[int], shape: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The points inside the grid, each one's voxel as one number, and the order that sorts these."""
    steps = np.array(check_downsample(downsample))
    if not np.isfinite(points).all():
        raise InputError(
            f"Truth point {int(np.argwhere(~np.isfinite(points))[0, 0])} is not finite. Fix: repair the input."
        )
    for axis, what in enumerate(("ticks", "y pixels", "z pixels")):
        check_axis(what, int(shape[axis]), int(steps[axis]))
    inside = ((points[:, :3] >= 0) & (points[:, :3] < np.asarray(shape))).all(axis=1)
    points = points[inside]
    x, y, z = (points[:, :3].astype(np.int64) // steps).T
    keys = (x << 32) | (y << 16) | z
    return points, keys, np.argsort(keys, kind="stable")


def truth_at(
    coords: npt.NDArray[np.uint16], truth_coords: npt.NDArray[np.uint16], truth_value: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Truth (n,) at voxels (n, 3), 0 where there is none; ``truth_coords`` as ``voxelise_truth`` returns them."""
    return at_voxels(coords, truth_coords, truth_value)


@njit(cache=True, nogil=True)
def sum_runs(order, keys, values, out_keys, out_values):  # type: ignore[no-untyped-def]
    """Sum values of equal keys along ``order`` (which sorts the keys); returns the number of distinct keys."""
    n = -1
    for i in range(order.shape[0]):
        key = keys[order[i]]
        if n < 0 or out_keys[n] != key:
            n += 1
            out_keys[n] = key
            out_values[n] = 0.0
        out_values[n] += values[order[i]]
    return n + 1
