"""Images at full resolution: what of an event is kept for other downsamplings, and the kernel that makes these."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from larstore.coordinates import LARGEST, check_axis, check_downsample
from larstore.records import Pixels
from preprocess.scanning import lowest_bit
from preprocess.truth import voxelise_columns, voxelise_truth
from preprocess.voxels import Voxels

WHOLE_AXIS = 1 << 16  # steps of this size or more put an axis into one voxel
NOTHING_LEFT = 1 << 32  # more than any y pixel


def full_resolution(
    tiled: Voxels, truth: npt.ArrayLike | None, columns: Mapping[str, npt.NDArray[Any]], shape: Sequence[int]
) -> Pixels:
    """What a store keeps of an event: its pixels, and its truth points as read.

    Points, not their sums in pixels: which point gave most to a voxel is told by the points alone.

    Args:
        tiled: the Tiler's result with downsample (1, 1, 1).
        truth: (m, 4) finite tick, y pixel, z pixel, value, as for ``voxelise_truth``; None without truth.
        columns: what else is known of each point, as for ``voxelise_columns``.
        shape: (ticks, y pixels, z pixels); points outside are left out.

    Raises InputError where the grid reaches beyond 65,534 at full resolution.
    """
    if truth is None:
        return Pixels(tiled.coords, tiled.charge, tiled.live)
    for axis, what in enumerate(("ticks", "y pixels", "z pixels")):
        check_axis(what, int(shape[axis]), 1)
    points = np.asarray(truth, np.float64)
    inside = ((points[:, :3] >= 0) & (points[:, :3] < np.asarray(shape))).all(axis=1)
    kept = {
        name: values[inside].astype(np.float64 if name == "collected" else np.int32) for name, values in columns.items()
    }
    places = points[inside, :3].astype(np.uint16)  # rounded down, as all of them are positive
    return Pixels(tiled.coords, tiled.charge, tiled.live, places, points[inside, 3], kept)


def downsample_pixels(
    coords: npt.NDArray[np.uint16], charge: npt.NDArray[np.float32], live: npt.NDArray[np.uint8], steps: Sequence[int]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Sum pixels into voxels of ``steps`` ticks, y and z pixels, as the Tiler does; an axis may end with a short one.

    Args:
        coords: (n, 3) tick, y pixel, z pixel, sorted without doubles.
        charge: (n, planes), summed in float64.
        live: (n,), of which a voxel keeps the bits that all of its pixels have.

    Returns coords (k, 3), sorted, charge (k, planes) and live (k,). Takes time as (pixels + ticks × rows of voxels),
    and no memory but what it returns and a line of voxels. ConfigError for steps that are no downsampling.
    """
    tick_step, y_step, z_step = (min(step, WHOLE_AXIS) for step in check_downsample(steps))
    n, n_planes = charge.shape
    n_line = 0 if n == 0 else int(coords[:, 2].max()) // z_step + 1
    # Pages that are never written cost no memory, and shrinking in place copies nothing.
    out = np.empty((n, 3), np.uint16), np.empty((n, n_planes), np.float32), np.empty(n, np.uint8)
    count = merge_lines(
        coords, charge, live, tick_step, y_step, z_step,
        np.empty((tick_step, 2), np.int64), np.empty((n_line, n_planes), np.float64), np.empty(n_line, np.uint8),
        np.zeros(-(-n_line // 64), np.uint64), *out,
    )  # fmt: skip
    for array in out:
        array.resize((count, *array.shape[1:]), refcheck=False)
    return out


def voxelise_points(
    pixels: Pixels, steps: Sequence[int]
) -> tuple[npt.NDArray[np.uint16] | None, npt.NDArray[np.float32] | None, dict[str, npt.NDArray[Any]]]:
    """Truth voxels of the points kept with an image: coords, value and columns, or None, None, {} without truth."""
    if pixels.truth_coords is None or pixels.truth_value is None:
        return None, None, {}
    points = np.column_stack([pixels.truth_coords, pixels.truth_value])
    everywhere = (LARGEST + 1,) * 3  # points outside the grid were left out when they were kept
    coords, value = voxelise_truth(points, steps, everywhere)
    return coords, value, voxelise_columns(points, pixels.truth_columns, steps, everywhere)


@njit(cache=True, nogil=True)
def merge_lines(  # type: ignore[no-untyped-def]
    coords, charge, live, tick_step, y_step, z_step, ticks, line, line_live, used, out_coords, out_charge, out_live
):
    """Sum sorted pixels into voxels; returns how many rows of ``out`` these are.

    The ticks of a slab are read side by side, one line of voxels (all z of one y) after the other.
    ``ticks``: (ticks of a slab, 2) next row and end of each one; ``line``, ``line_live``: the line's voxels, ``used``:
    bit map of those that it has, all 0 before and after.
    """
    n, row = 0, 0
    while row < coords.shape[0]:
        slab = np.int64(coords[row, 0]) // tick_step
        end_of_slab = (slab + 1) * tick_step
        n_ticks = 0
        while row < coords.shape[0] and coords[row, 0] < end_of_slab:
            if n_ticks == 0 or coords[row, 0] != coords[row - 1, 0]:
                ticks[n_ticks, 0] = row
                n_ticks += 1
            row += 1
            ticks[n_ticks - 1, 1] = row
        while True:
            lowest = np.int64(NOTHING_LEFT)
            for k in range(n_ticks):
                if ticks[k, 0] < ticks[k, 1]:
                    lowest = min(lowest, np.int64(coords[ticks[k, 0], 1]))
            if lowest == NOTHING_LEFT:
                break
            y = lowest // y_step
            for k in range(n_ticks):
                ticks[k, 0] = add_row(
                    ticks[k, 0], ticks[k, 1], (y + 1) * y_step, z_step, coords, charge, live, line, line_live, used
                )
            n = write_line(slab, y, line, line_live, used, n, out_coords, out_charge, out_live)
    return n


@njit(cache=True, nogil=True)
def add_row(i, end, end_y, z_step, coords, charge, live, line, line_live, used):  # type: ignore[no-untyped-def]
    """Add a tick's pixels with y < ``end_y``, from row i on, to a line of voxels; returns the row to go on with."""
    while i < end and coords[i, 1] < end_y:
        z = np.int64(np.uint32(coords[i, 2]) // np.uint32(z_step))
        bit = np.uint64(1) << np.uint64(z & 63)
        if not used[z >> 6] & bit:
            used[z >> 6] |= bit
            line[z, :] = 0.0
            line_live[z] = 0xFF
        for p in range(charge.shape[1]):
            line[z, p] += charge[i, p]
        line_live[z] &= live[i]
        i += 1
    return i


@njit(cache=True, nogil=True)
def write_line(slab, y, line, line_live, used, n, out_coords, out_charge, out_live):  # type: ignore[no-untyped-def]
    """Write a line's voxels, sorted, from row n of ``out`` on, and clear ``used``; returns the next free row."""
    for word in range(used.shape[0]):
        bits = used[word]
        used[word] = np.uint64(0)
        while bits:
            z = 64 * word + np.int64(lowest_bit(bits))
            bits &= bits - np.uint64(1)
            out_coords[n, 0], out_coords[n, 1], out_coords[n, 2] = slab, y, z
            for p in range(line.shape[1]):
                out_charge[n, p] = line[z, p]
            out_live[n] = line_live[z]
            n += 1
    return n
