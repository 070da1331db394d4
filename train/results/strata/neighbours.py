"""How many voxels lie around each voxel: linear walks through sorted keys."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

BITS = 20  # of a coordinate in a key: 16, and room for what lies beyond the ends


def count_neighbours(
    coords: npt.NDArray[np.uint16], points: npt.NDArray[np.uint16], reach: int
) -> npt.NDArray[np.int32]:
    """(n,) how many of ``points`` (m, 3) differ by at most ``reach`` in x, in y and in z from each voxel (n, 3).

    Both are sorted by x, y, z, and no point is there twice.
    """
    step = np.arange(-reach, reach + 1, dtype=np.int64)
    shifts = ((step[:, None] << 2 * BITS) + (step << BITS)).ravel()
    found = np.zeros(len(coords), np.int32)
    _count(_keys(coords, reach), _keys(points, reach), shifts, reach, found)
    return found


def _keys(coords: npt.NDArray[Any], reach: int) -> npt.NDArray[np.int64]:
    x, y, z = coords.astype(np.int64).T + reach
    return np.asarray(x << 2 * BITS | y << BITS | z)


@njit(cache=True, nogil=True)
def _count(keys, points, shifts, reach, out):  # type: ignore[no-untyped-def]
    """Add to each key's entry the points in key + shift - reach … key + shift + reach, of all shifts; all ascend."""
    m = points.shape[0]
    for shift in shifts:
        first = end = 0
        for i in range(keys.shape[0]):
            low, high = keys[i] + shift - reach, keys[i] + shift + reach
            while first < m and points[first] < low:
                first += 1
            while end < m and points[end] <= high:
                end += 1
            out[i] += end - first
