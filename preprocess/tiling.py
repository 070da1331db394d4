"""Tiling kernels: bare loops over arrays, which write into their arguments and check nothing (see voxels.Tiler).

Per tick: the lit columns of each plane mark pixels in 8 × 8 tiles, planes are intersected as bit masks, each
column's charge is spread evenly over its share of the active pixels, and pixels are summed into voxels at once.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


class Scratch(NamedTuple):
    """Working memory of one event. ``state``, ``stage`` and ``seen`` must start at −1, ``overlap`` at 0.

    Attributes:
        state: (columns,) int64 tick at which a column was last bad.
        stage: (tiles,) int64 how far the planes have come with a tile.
        live_mask, lit_mask: (tiles, planes) uint64 pixels lit by a real signal; by that, a bad channel or NONE.
        at_least: (planes + 1,) uint64.
        lit, n_lit: (planes, columns) int32 and (planes,) int64 the tick's lit columns.
        tiles, active: (tiles,) int32 and uint64 the tick's active tiles and their active pixels.
        overlap: (columns + 1,) int64 a column's area over the active pixels, in thousandths.
        seen: (voxels of a slab,) int64 slab in which a voxel was last touched.
        charge, live: (voxels of a slab, planes) float64 and (voxels of a slab,) uint8.
        touched: (voxels of a slab,) int32.
        voxel_y, voxel_z: (pixels,) int64 voxel of a pixel row and column.
    """

    state: npt.NDArray[np.int64]
    stage: npt.NDArray[np.int64]
    live_mask: npt.NDArray[np.uint64]
    lit_mask: npt.NDArray[np.uint64]
    at_least: npt.NDArray[np.uint64]
    lit: npt.NDArray[np.int32]
    n_lit: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int32]
    active: npt.NDArray[np.uint64]
    overlap: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]
    charge: npt.NDArray[np.float64]
    live: npt.NDArray[np.uint8]
    touched: npt.NDArray[np.int32]
    voxel_y: npt.NDArray[np.int64]
    voxel_z: npt.NDArray[np.int64]


@intrinsic
def popcount(typing_context, value):  # type: ignore[no-untyped-def]
    """Number of set bits of a uint64."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@intrinsic
def lowest_bit(typing_context, value):  # type: ignore[no-untyped-def]
    """Position of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def first_not_finite(bits):  # type: ignore[no-untyped-def]
    """Flat position of the first NaN or infinity in float32 values seen as (rows, columns) uint32, else −1."""
    exponent = np.uint32(0x7F800000)
    for row in range(bits.shape[0]):
        found = False
        for column in range(bits.shape[1]):
            found |= (bits[row, column] & exponent) == exponent
        if found:
            for column in range(bits.shape[1]):
                if (bits[row, column] & exponent) == exponent:
                    return row * bits.shape[1] + column
    return -1


@njit(cache=True, nogil=True)
def find_lit(row, tick, threshold, bad, areas, work):  # type: ignore[no-untyped-def]
    """Lit columns of one tick: those of plane p to ``lit[p, :n_lit[p]]``; returns their number."""
    state, lit, n_lit = work.state, work.lit, work.n_lit
    for i in range(bad.shape[0]):
        if bad[i, 1] <= tick < bad[i, 2]:
            state[bad[i, 0]] = tick
    n_lit[:] = 0
    total = 0
    for start in range(0, row.shape[0], 64):
        stop = min(start + 64, row.shape[0])
        # Most of a waveform is dark: this loop has no branch, so that it runs on vectors.
        found = False
        for column in range(start, stop):
            found |= row[column] > threshold
        if not found:
            continue
        for column in range(start, stop):
            p = areas.column_plane[column]
            if row[column] > threshold and p >= 0 and state[column] != tick:
                lit[p, n_lit[p]] = column
                n_lit[p] += 1
                total += 1
    return total


@njit(cache=True, nogil=True)
def mark(p, column, step, real, areas, work, n_tiles):  # type: ignore[no-untyped-def]
    """Light a column's pixels in the tiles that all planes before it have reached; plane 0 opens tiles."""
    stage, live_mask, lit_mask = work.stage, work.live_mask, work.lit_mask
    for i in range(areas.column_start[p, column], areas.column_start[p, column + 1]):
        tile = areas.column_tile[i]
        if stage[tile] != step:
            if p == 0:
                work.tiles[n_tiles] = tile
                n_tiles += 1
            elif stage[tile] != step - 1:
                continue
            stage[tile] = step
            live_mask[tile, p] = 0
            lit_mask[tile, p] = 0
        lit_mask[tile, p] |= areas.column_mask[i]
        if real:
            live_mask[tile, p] |= areas.column_mask[i]
    return n_tiles


@njit(cache=True, nogil=True)
def active_pixels(row_number, tick, min_live, bad, areas, work):  # type: ignore[no-untyped-def]
    """Active pixels of one tick: ``active[i]`` = mask of tile ``tiles[i]``, for i below the returned count."""
    n_planes = work.n_lit.shape[0]
    none = areas.column_plane.shape[0]
    seen = 0
    for p in range(n_planes):
        seen += work.n_lit[p] > 0
    if seen < min_live:
        return 0
    n_tiles = 0
    step = np.int64(row_number) * n_planes
    for p in range(n_planes):
        step += 1
        for i in range(work.n_lit[p]):
            n_tiles = mark(p, work.lit[p, i], step, True, areas, work, n_tiles)
        if n_planes > 2:  # with two planes a bad channel is not lit
            for i in range(bad.shape[0]):
                if bad[i, 1] <= tick < bad[i, 2] and areas.column_plane[bad[i, 0]] == p:
                    n_tiles = mark(p, bad[i, 0], step, False, areas, work, n_tiles)
        n_tiles = mark(p, none, step, False, areas, work, n_tiles)
    n_active = 0
    at_least = work.at_least
    for i in range(n_tiles):
        tile = work.tiles[i]
        if work.stage[tile] != step:
            continue
        pixels = ~np.uint64(0)
        # at_least[k]: pixels where k or more planes have a real signal.
        at_least[0] = pixels
        at_least[1:] = 0
        for p in range(n_planes):
            pixels &= work.lit_mask[tile, p]
            for k in range(n_planes, 0, -1):
                at_least[k] |= at_least[k - 1] & work.live_mask[tile, p]
        pixels &= at_least[min_live]
        if pixels:
            work.tiles[n_active] = tile
            work.active[n_active] = pixels
            n_active += 1
    return n_active


@njit(cache=True, nogil=True)
def sum_overlaps(n_active, areas, work):  # type: ignore[no-untyped-def]
    """Add each column's area over the active pixels to ``overlap``."""
    one = np.uint64(1)
    for p in range(areas.tile_start.shape[0]):
        for i in range(n_active):
            tile = work.tiles[i]
            for entry in range(areas.tile_start[p, tile], areas.tile_start[p, tile + 1]):
                mask = areas.entry_mask[entry]
                rest = mask & work.active[i]
                start = areas.entry_area[entry]
                total = np.int64(0)
                while rest:
                    below = (one << lowest_bit(rest)) - one
                    total += areas.area[start + np.int64(popcount(mask & below))]
                    rest &= rest - one
                work.overlap[areas.entry_column[entry]] += total


@njit(cache=True, nogil=True)
def clear_overlaps(n_active, areas, work):  # type: ignore[no-untyped-def]
    """Set ``overlap`` back to 0 for the columns of the active tiles."""
    for p in range(areas.tile_start.shape[0]):
        for i in range(n_active):
            tile = work.tiles[i]
            for entry in range(areas.tile_start[p, tile], areas.tile_start[p, tile + 1]):
                work.overlap[areas.entry_column[entry]] = 0


@njit(cache=True, nogil=True)
def touch(n_active, slab, tiles_z, n_voxel_z, all_live, work, n_touched):  # type: ignore[no-untyped-def]
    """Open the voxels of the active pixels that the slab has not touched yet; returns the number of touched ones."""
    one = np.uint64(1)
    for i in range(n_active):
        y0, z0 = 8 * (work.tiles[i] // tiles_z), 8 * (work.tiles[i] % tiles_z)
        rest = work.active[i]
        while rest:
            bit = np.int64(lowest_bit(rest))
            rest &= rest - one
            voxel = work.voxel_y[y0 + (bit >> 3)] * n_voxel_z + work.voxel_z[z0 + (bit & 7)]
            if work.seen[voxel] != slab:
                work.seen[voxel] = slab
                work.touched[n_touched] = voxel
                n_touched += 1
                work.live[voxel] = all_live
                work.charge[voxel, :] = 0.0
    return n_touched


@njit(cache=True, nogil=True)
def spread(row, tick, n_active, tiles_z, n_voxel_z, areas, work):  # type: ignore[no-untyped-def]
    """Spread the columns' values over the active pixels into the slab's voxels."""
    none = row.shape[0]
    one = np.uint64(1)
    for i in range(n_active):
        tile = work.tiles[i]
        y0, z0 = 8 * (tile // tiles_z), 8 * (tile % tiles_z)
        for p in range(areas.tile_start.shape[0]):
            for entry in range(areas.tile_start[p, tile], areas.tile_start[p, tile + 1]):
                mask = areas.entry_mask[entry]
                rest = mask & work.active[i]
                if not rest:
                    continue
                column = areas.entry_column[entry]
                dead = column == none or work.state[column] == tick
                density = 0.0 if dead else np.float64(row[column]) / work.overlap[column]
                keep = ~np.uint8(1 << p)
                start = areas.entry_area[entry]
                while rest:
                    bit = np.int64(lowest_bit(rest))
                    rest &= rest - one
                    voxel = work.voxel_y[y0 + (bit >> 3)] * n_voxel_z + work.voxel_z[z0 + (bit & 7)]
                    if dead:
                        work.live[voxel] &= keep
                    else:
                        rank = np.int64(popcount(mask & ((one << np.uint64(bit)) - one)))
                        work.charge[voxel, p] += density * areas.area[start + rank]


@njit(cache=True, nogil=True)
def emit(slab, n_touched, n_voxel_z, work, n, out_coords, out_charge, out_live):  # type: ignore[no-untyped-def]
    """Write the slab's voxels, sorted, from row n of ``out`` on; returns the next free row."""
    touched = work.touched[:n_touched]
    touched.sort()
    for i in range(n_touched):
        voxel = touched[i]
        out_coords[n, 0] = slab
        out_coords[n, 1] = voxel // n_voxel_z
        out_coords[n, 2] = voxel % n_voxel_z
        for p in range(out_charge.shape[1]):
            out_charge[n, p] = work.charge[voxel, p]
        out_live[n] = work.live[voxel]
        n += 1
    return n


@njit(cache=True, nogil=True)
def tile_slabs(  # type: ignore[no-untyped-def]
    waveform, first_tick, row_number, slab_ticks, threshold, bad, min_live, tiles_z, n_voxel_z, areas, work, counts,
    out_coords, out_charge, out_live,
):  # fmt: skip
    """Tile whole slabs of ``slab_ticks`` ticks from row ``row_number`` on, while ``out`` has room for a full one.

    ``counts`` = [voxels written, lit samples], both added to; returns the row to go on with.
    """
    all_live = np.uint8((1 << out_charge.shape[1]) - 1)
    while row_number < waveform.shape[0] and out_coords.shape[0] - counts[0] >= work.seen.shape[0]:
        slab = (first_tick + row_number) // slab_ticks
        end = min(waveform.shape[0], (slab + 1) * slab_ticks - first_tick)
        n_touched = 0
        while row_number < end:
            row = waveform[row_number]
            tick = first_tick + row_number
            counts[1] += find_lit(row, tick, threshold, bad, areas, work)
            n_active = active_pixels(row_number, tick, min_live, bad, areas, work)
            if n_active:
                sum_overlaps(n_active, areas, work)
                n_touched = touch(n_active, slab, tiles_z, n_voxel_z, all_live, work, n_touched)
                spread(row, tick, n_active, tiles_z, n_voxel_z, areas, work)
                clear_overlaps(n_active, areas, work)
            row_number += 1
        counts[0] = emit(slab, n_touched, n_voxel_z, work, counts[0], out_coords, out_charge, out_live)
    return row_number
