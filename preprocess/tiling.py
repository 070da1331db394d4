"""Tiling kernels: bare loops over arrays, which write into their arguments and check nothing (see voxels.Tiler).

Per tick: the lit columns of each plane mark tiles, patch by patch; where all planes meet, a tile's pixels are
intersected as bit masks; each column's value is spread evenly over its share of the active pixels, and summed into
voxels at once. A slab (the ticks of one voxel) is written out, sorted, before the next one begins.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from preprocess.scanning import lowest_bit

REAL, STAND_IN, DEAD = 1, 2, 4  # bits of a column's state: above threshold; lit because bad or NONE; no signal known
# Elements of ``progress``.
ROW, WRITTEN, LIT, PENDING, TOTAL = range(5)
NEXT_CHANGE, CLOCK = 0, 1  # elements of ``marks``


class Scratch(NamedTuple):
    """Working memory of one thread; between events all is 0 but what is said below.

    Attributes:
        state: (columns + planes,) uint8 bits REAL, STAND_IN, DEAD; the last ones are each plane's NONE.
        marks: (2,) int64 tick at which the bad channels change next; a count of ticks, which is never set back.
        lit, n_lit, n_marked: (planes, columns) int32 and (planes,) int64 the tick's lit columns, then those that stand
            in. Arbitrary.
        opened: (patches,) int64 the tick count at which a patch was opened last. Never set back.
        reached: (patches, planes) uint64 tiles of an open patch that a plane has lit. Arbitrary.
        patches: (patches,) int32 the open ones. Arbitrary.
        at_least: (planes + 1,) uint64. Arbitrary.
        tiles, active: (tiles,) int32 and uint16 the tick's active tiles and their active pixels. Arbitrary.
        shares: (entries,) uint16 an entry's area over its tile's active pixels, entry by entry. Arbitrary.
        overlap: (columns + planes,) int64 a column's area over all active pixels, in thousandths.
        density: (columns + planes,) float64 value per thousandth. Arbitrary.
        touched: (columns + planes,) int32 the columns that have an overlap. Arbitrary.
        charge, live: (voxels of a slab, planes) float64 and (voxels of a slab,) uint8. Arbitrary.
        used, used_words: uint64 bit maps of the slab's voxels, and of the words of that map that are not 0.
        tile_voxel: (tiles,) int32 the one voxel in which a tile lies, -1 where there are several. It and the rest are
            constant.
        tile_y, tile_z: (tiles,) int32 first pixel row and column of a tile.
        voxel_y, voxel_z: (pixels,) int64: a pixel's voxel is the sum of its row's and its column's.
    """

    state: npt.NDArray[np.uint8]
    marks: npt.NDArray[np.int64]
    lit: npt.NDArray[np.int32]
    n_lit: npt.NDArray[np.int64]
    n_marked: npt.NDArray[np.int64]
    opened: npt.NDArray[np.int64]
    reached: npt.NDArray[np.uint64]
    patches: npt.NDArray[np.int32]
    at_least: npt.NDArray[np.uint64]
    tiles: npt.NDArray[np.int32]
    active: npt.NDArray[np.uint16]
    shares: npt.NDArray[np.uint16]
    overlap: npt.NDArray[np.int64]
    density: npt.NDArray[np.float64]
    touched: npt.NDArray[np.int32]
    charge: npt.NDArray[np.float64]
    live: npt.NDArray[np.uint8]
    used: npt.NDArray[np.uint64]
    used_words: npt.NDArray[np.uint64]
    tile_voxel: npt.NDArray[np.int32]
    tile_y: npt.NDArray[np.int32]
    tile_z: npt.NDArray[np.int32]
    voxel_y: npt.NDArray[np.int64]
    voxel_z: npt.NDArray[np.int64]


@intrinsic
def area_of(typing_context, areas, row, pixels, rest):  # type: ignore[no-untyped-def]
    """Sum of ``areas[row]`` over the bits of ``pixels``; where ``rest``, a part of them, is set, of 1000 − area.

    In one register; ``areas`` is the address of (rows, 16) uint16, as counting references would take longer.
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        number, lanes = ir.IntType(16), ir.VectorType(ir.IntType(16), 16)
        first = builder.gep(builder.inttoptr(args[0], number.as_pointer()), [builder.mul(args[1], ir.IntType(64)(16))])
        values = builder.load(builder.bitcast(first, lanes.as_pointer()), align=2)
        short = [builder.trunc(arg, number) for arg in args[2:]]
        pixels, rest = (builder.sext(builder.bitcast(bits, ir.VectorType(ir.IntType(1), 16)), lanes) for bits in short)
        # Two's complement: (x ^ -1) - -1 = -x.
        signed = builder.and_(builder.sub(builder.xor(values, rest), rest), pixels)
        kind = ir.FunctionType(number, [lanes])
        total = builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.add.v16i16"), [signed]
        )
        # 16 pixels of 1000 each: the sum fits.
        wholes = builder.mul(builder.ctpop(short[1]), number(1000))
        return builder.zext(builder.add(total, wholes), ir.IntType(64))

    return types.int64(types.uintp, types.int64, types.uint64, types.uint64), generate


@intrinsic
def fetch_areas(typing_context, areas, row):  # type: ignore[no-untyped-def]
    """Ask for the areas of a tile ahead of their use, as they are seldom in a near cache; ``areas`` is an address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, number, word = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        first = builder.add(args[0], builder.mul(args[1], word(32)))
        for line in (0, 64):  # three planes' layers are 96 bytes
            address = builder.inttoptr(builder.add(first, word(line)), byte)
            builder.call(fetch, [address, number(0), number(3), number(1)])  # to read, keep near, data
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64), generate


@njit(cache=True, nogil=True)
def set_bad(tick, bad, stands_in, work):  # type: ignore[no-untyped-def]
    """Set the state of the columns that are bad at a tick, and when to look again. Lit columns must be unset."""
    state, change = work.state, np.int64(2**62)
    for i in range(bad.shape[0]):
        state[bad[i, 0]] = 0
    for i in range(bad.shape[0]):
        if bad[i, 1] <= tick < bad[i, 2]:
            state[bad[i, 0]] = DEAD | STAND_IN if stands_in else DEAD
            change = min(change, bad[i, 2])
        elif tick < bad[i, 1]:
            change = min(change, bad[i, 1])
    work.marks[NEXT_CHANGE] = change


@njit(cache=True, nogil=True)
def take_lit(lit_column, begin, end, areas, work):  # type: ignore[no-untyped-def]
    """The good columns of this face among ``lit_column[begin:end]``: those of plane p to ``lit[p, :n_lit[p]]``."""
    for p in range(work.n_lit.shape[0]):
        work.n_lit[p] = 0
    for i in range(begin, end):
        column = lit_column[i]
        p = areas.column_plane[column]
        if p >= 0 and work.state[column] == 0:
            work.state[column] = REAL
            work.lit[p, work.n_lit[p]] = column
            work.n_lit[p] += 1


@njit(cache=True, nogil=True)
def add_stand_ins(tick, bad, areas, work):  # type: ignore[no-untyped-def]
    """Bad columns of a tick behind the lit ones: ``lit[p, n_lit[p] : n_marked[p]]``."""
    for p in range(work.n_lit.shape[0]):
        work.n_marked[p] = work.n_lit[p]
    for i in range(bad.shape[0]):
        p = areas.column_plane[bad[i, 0]]
        if p >= 0 and bad[i, 1] <= tick < bad[i, 2] and work.state[bad[i, 0]] & STAND_IN:
            work.lit[p, work.n_marked[p]] = bad[i, 0]
            work.n_marked[p] += 1


@njit(cache=True, nogil=True)
def open_patches(areas, work):  # type: ignore[no-untyped-def]
    """Mark the tiles of all listed columns; returns how many patches are open.

    A plane opens a patch only where the planes before it may light tiles without a wire: where they have NONE.
    """
    work.marks[CLOCK] += 1
    clock = work.marks[CLOCK]
    n_open = 0
    for p in range(work.n_lit.shape[0]):
        for k in range(work.n_marked[p]):
            column = work.lit[p, k]
            for i in range(areas.column_start[column], areas.column_start[column + 1]):
                patch = areas.column_patch[i]
                if work.opened[patch] != clock:
                    if areas.opens[patch] < p:
                        continue
                    work.opened[patch] = clock
                    work.patches[n_open] = patch
                    n_open += 1
                    for q in range(areas.none.shape[1]):
                        work.reached[patch, q] = areas.none[patch, q]
                work.reached[patch, p] |= areas.column_tiles[i]
    return n_open


@njit(cache=True, nogil=True)
def find_active(n_open, min_live, areas, work):  # type: ignore[no-untyped-def]
    """Active pixels of a tick: ``active[i]`` = mask of tile ``tiles[i]``, for i below the returned count."""
    n_planes = work.n_lit.shape[0]
    one = np.uint64(1)
    all_areas = areas.area.ctypes.data
    n_active = 0
    for i in range(n_open):
        patch = np.int64(work.patches[i])
        candidates = ~np.uint64(0)
        for p in range(n_planes):
            candidates &= work.reached[patch, p]
        while candidates:
            tile = 64 * patch + np.int64(lowest_bit(candidates))
            candidates &= candidates - one
            pixels = np.uint64(0xFFFF)
            # at_least[k]: pixels where k or more planes have a real signal.
            work.at_least[0] = pixels
            for k in range(1, n_planes + 1):
                work.at_least[k] = np.uint64(0)
            start = n_planes * tile
            for p in range(n_planes):
                real, lit = np.uint64(0), np.uint64(0)
                for entry in range(areas.tile_start[start + p], areas.tile_start[start + p + 1]):
                    state = np.uint64(work.state[areas.entry_column[entry]])
                    mask = np.uint64(areas.entry_pixels[entry])
                    real |= mask * (state & one)
                    lit |= mask * ((state | state >> one) & one)
                pixels &= lit
                if pixels == 0:
                    break
                for k in range(n_planes, 0, -1):
                    work.at_least[k] |= work.at_least[k - 1] & real
            pixels &= work.at_least[min_live]
            if pixels:
                fetch_areas(all_areas, areas.tile_layer[tile])
                work.tiles[n_active] = tile
                work.active[n_active] = pixels
                n_active += 1
    return n_active


@njit(cache=True, nogil=True)
def share_out(flat, at, stride, n_active, areas, work):  # type: ignore[no-untyped-def]
    """Each entry's area over the active pixels to ``shares``, and each touched column's value per area.

    The tick's values are ``flat[at + column * stride]``. Returns whether a bad channel or NONE has a share.
    """
    n_planes = work.n_lit.shape[0]
    n_touched, share = 0, 0
    all_areas = areas.area.ctypes.data
    for i in range(n_active):
        tile, active = np.int64(work.tiles[i]), np.uint64(work.active[i])
        row = np.int64(areas.tile_layer[tile])
        for entry in range(areas.tile_start[n_planes * tile], areas.tile_start[n_planes * (tile + 1)]):
            column, pixels = areas.entry_column[entry], np.uint64(areas.entry_pixels[entry])
            rest = (pixels >> np.uint64(16)) & active
            amount = area_of(all_areas, row + areas.entry_layer[entry], pixels & active, rest)
            work.shares[share] = amount
            share += 1
            before = work.overlap[column]
            if before == 0:
                work.touched[n_touched] = column
                n_touched += 1 if amount > 0 else 0
            work.overlap[column] = before + amount
    some_dead = False
    for i in range(n_touched):
        column = work.touched[i]
        if work.state[column] & DEAD:
            work.density[column] = 0.0
            some_dead = True
        else:
            work.density[column] = np.float64(flat[at + column * stride]) / np.float64(work.overlap[column])
        work.overlap[column] = 0
    return some_dead


@njit(cache=True, nogil=True)
def locate(n_active, all_live, work):  # type: ignore[no-untyped-def]
    """Open the voxels of the slab that active pixels lie in and that are new; returns their number."""
    one = np.uint64(1)
    n_new = 0
    for i in range(n_active):
        tile = np.int64(work.tiles[i])
        voxel = np.int64(work.tile_voxel[tile])
        # One pixel stands for all of a tile that lies in one voxel.
        rest = one if voxel >= 0 else np.uint64(work.active[i])
        while rest:
            if voxel < 0 or rest != one:
                bit = np.int64(lowest_bit(rest))
                voxel = work.voxel_y[work.tile_y[tile] + (bit >> 2)] + work.voxel_z[work.tile_z[tile] + (bit & 3)]
            rest &= rest - one
            word, flag = voxel >> 6, one << np.uint64(voxel & 63)
            if work.used[word] & flag == 0:
                work.used[word] |= flag
                work.used_words[word >> 6] |= one << np.uint64(word & 63)
                work.live[voxel] = all_live
                for p in range(work.charge.shape[1]):
                    work.charge[voxel, p] = 0.0
                n_new += 1
    return n_new


@njit(cache=True, nogil=True)
def spread(n_active, some_dead, areas, work):  # type: ignore[no-untyped-def]
    """Add the active tiles' charges to the slab's voxels."""
    n_planes = work.n_lit.shape[0]
    one = np.uint64(1)
    share = np.int64(0)
    for i in range(n_active):
        tile = np.int64(work.tiles[i])
        voxel = np.int64(work.tile_voxel[tile])
        start, first = n_planes * tile, share
        if voxel >= 0:
            for p in range(n_planes):
                charge = 0.0
                for entry in range(areas.tile_start[start + p], areas.tile_start[start + p + 1]):
                    charge += work.density[areas.entry_column[entry]] * work.shares[share]
                    share += 1
                work.charge[voxel, p] += charge
        else:
            share += np.int64(areas.tile_start[start + n_planes]) - np.int64(areas.tile_start[start])
        if voxel >= 0 and not some_dead:
            continue
        lane = -1
        for p in range(n_planes):
            keep = ~np.uint8(1 << p)
            for entry in range(areas.tile_start[start + p], areas.tile_start[start + p + 1]):
                lane += 1
                column = areas.entry_column[entry]
                dead = work.state[column] & DEAD
                if voxel >= 0:
                    if dead and work.shares[first + lane]:
                        work.live[voxel] &= keep
                    continue
                pixels = np.uint64(areas.entry_pixels[entry])
                rest = pixels & np.uint64(work.active[i])
                row = np.int64(areas.tile_layer[tile]) + areas.entry_layer[entry]
                while rest:
                    bit = np.int64(lowest_bit(rest))
                    rest &= rest - one
                    pixel = work.voxel_y[work.tile_y[tile] + (bit >> 2)] + work.voxel_z[work.tile_z[tile] + (bit & 3)]
                    if dead:
                        work.live[pixel] &= keep
                    area = np.int64(areas.area[row, bit])
                    if pixels >> np.uint64(16 + bit) & one:
                        area = 1000 - area
                    work.charge[pixel, p] += work.density[column] * area


@njit(cache=True, nogil=True)
def emit(slab, n_voxel_z, count_only, work, n, out_coords, out_charge, out_live):  # type: ignore[no-untyped-def]
    """Write the slab's voxels, sorted, from row n of ``out`` on, and close them."""
    one = np.uint64(1)
    for block in range(work.used_words.shape[0]):
        words = work.used_words[block]
        work.used_words[block] = np.uint64(0)
        while words:
            word = 64 * block + np.int64(lowest_bit(words))
            words &= words - one
            bits = work.used[word]
            work.used[word] = np.uint64(0)
            while bits and not count_only:
                voxel = 64 * word + np.int64(lowest_bit(bits))
                bits &= bits - one
                out_coords[n, 0] = slab
                out_coords[n, 1] = voxel // n_voxel_z
                out_coords[n, 2] = voxel % n_voxel_z
                for p in range(out_charge.shape[1]):
                    out_charge[n, p] = work.charge[voxel, p]
                out_live[n] = work.live[voxel]
                n += 1


@njit(cache=True, nogil=True)
def tile_slabs(  # type: ignore[no-untyped-def]
    flat, offset, row_stride, column_stride, lit_start, lit_column, n_rows, first_tick, slab_ticks, bad, min_live,
    n_voxel_z, count_only, areas, work, progress, out_coords, out_charge, out_live,
):  # fmt: skip
    """Tile slabs of ``slab_ticks`` ticks from row ``progress[ROW]`` on, as long as ``out`` has room for them.

    The value of a sample is ``flat[offset + row * row_stride + column * column_stride]``, and its row's lit columns
    are ``lit_column[lit_start[row] : lit_start[row + 1]]``. ``progress`` comes back as: ROW the row to go on with,
    WRITTEN rows of ``out``, LIT samples and TOTAL voxels so far, PENDING voxels of a finished slab that ``out`` lacks
    room for (call again with more). With ``count_only`` nothing is written.
    """
    n_planes = out_charge.shape[1]
    stands_in = n_planes > 2  # with two planes a bad channel is not lit
    all_live = np.uint8((1 << n_planes) - 1)
    if progress[PENDING] == 0:
        work.marks[NEXT_CHANGE] = 0
    while progress[ROW] < n_rows or progress[PENDING] > 0:
        if progress[PENDING] == 0:
            begin = progress[ROW]
            end = min(n_rows, ((first_tick + begin) // slab_ticks + 1) * slab_ticks - first_tick)
            for row in range(begin, end):
                tick = first_tick + row
                if tick >= work.marks[NEXT_CHANGE]:
                    set_bad(tick, bad, stands_in, work)
                take_lit(lit_column, lit_start[row], lit_start[row + 1], areas, work)
                seen = 0
                for p in range(n_planes):
                    seen += work.n_lit[p] > 0
                n_active = 0
                if seen >= min_live:
                    add_stand_ins(tick, bad, areas, work)
                    n_active = find_active(open_patches(areas, work), min_live, areas, work)
                if n_active:
                    progress[PENDING] += locate(n_active, all_live, work)
                    if not count_only:
                        at = offset + row * row_stride
                        some_dead = share_out(flat, at, column_stride, n_active, areas, work)
                        spread(n_active, some_dead, areas, work)
                for p in range(n_planes):
                    progress[LIT] += work.n_lit[p]
                    for i in range(work.n_lit[p]):
                        work.state[work.lit[p, i]] = 0
            progress[ROW] = end
        new = progress[PENDING]
        if new:
            if not count_only and out_coords.shape[0] - progress[WRITTEN] < new:
                return
            slab = (first_tick + progress[ROW] - 1) // slab_ticks
            emit(slab, n_voxel_z, count_only, work, progress[WRITTEN], out_coords, out_charge, out_live)
            progress[TOTAL] += new
            progress[WRITTEN] += 0 if count_only else new
            progress[PENDING] = 0
    for i in range(bad.shape[0]):
        work.state[bad[i, 0]] = 0
