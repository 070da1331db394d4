"""Which share of each pixel lies on the strip of which channel: the geometry that tiling needs, as flat arrays.

Pixels are grouped into tiles of 8 × 8, so that a channel's pixels in a tile are one 64-bit mask and the kernels can
intersect planes with bit operations. An *entry* is a (plane, tile, column) with at least one pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from preprocess.detector.model import Plane, Tpc

TILE = 8  # pixels a side: 64 = the bits of a mask
PERMILLE = 1000  # areas are kept in thousandths of a pixel
SAME_LINE = 0.1  # of the pitch: wires nearer than this lie on one line
EVEN_SPACING = 0.05  # of the pitch: up to here a spacing other than the pitch is rounding, not a gap
EQUAL_SPACING = 1e-6  # mm: below this a spacing is the pitch itself


class Grid(NamedTuple):
    """The pixels of a face: lower corner and edge in mm (z relative to the anode), and their numbers."""

    origin_y: float
    origin_z: float
    pixel: float
    n_y: int
    n_z: int

    @property
    def n_tiles(self) -> int:
        """Tiles that cover the grid."""
        return -(-self.n_y // TILE) * -(-self.n_z // TILE)


class Overlaps(NamedTuple):
    """Areas of all pixels of a face in tile order.

    Pixel (y, z) is bit ``8 * (y % 8) + z % 8`` of tile ``(y // 8) * ceil(n_z / 8) + z // 8``.

    Attributes:
        tile_start: (planes, tiles + 1) int32; the entries of a plane in a tile, columns ascending.
        entry_column: (entries,) int32 waveform column; ``n_columns`` is NONE, the part that no wire covers.
        entry_mask: (entries,) uint64 pixels of the tile with a share of the column.
        entry_area: (entries + 1,) int32 where the entry's areas start: one for each set bit, in bit order.
        area: (areas,) uint16 thousandths of a pixel, 1 … 1000.
        column_start: (planes, columns + 2) int32: the entries once more, by column (the last one is NONE): they are
            column_tile (entries,) int32 and column_mask (entries,) uint64.
        column_plane: (columns,) int8 the plane that a column belongs to in this face, −1 = none.
    """

    tile_start: npt.NDArray[np.int32]
    entry_column: npt.NDArray[np.int32]
    entry_mask: npt.NDArray[np.uint64]
    entry_area: npt.NDArray[np.int32]
    area: npt.NDArray[np.uint16]
    column_start: npt.NDArray[np.int32]
    column_tile: npt.NDArray[np.int32]
    column_mask: npt.NDArray[np.uint64]
    column_plane: npt.NDArray[np.int8]

    def pixel(self, n_z: int, y: int, z: int) -> Iterator[tuple[int, int, int]]:
        """(plane, column, area in thousandths) of a pixel, columns ascending; slow."""
        tile = (y // TILE) * -(-n_z // TILE) + z // TILE
        bit = TILE * (y % TILE) + z % TILE
        for plane, start in enumerate(self.tile_start):
            for entry in range(int(start[tile]), int(start[tile + 1])):
                mask = int(self.entry_mask[entry])
                if mask >> bit & 1:
                    rank = (mask & ((1 << bit) - 1)).bit_count()
                    yield plane, int(self.entry_column[entry]), int(self.area[self.entry_area[entry] + rank])


@dataclass(frozen=True)
class Strips:
    """The strips of one plane in mm, sorted by pitch coordinate.

    ``low`` … ``high`` along the normal; ``begin`` … ``end`` along the wire, infinite where the strip is not cut off.
    """

    normal: tuple[float, float]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    begin: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    column: npt.NDArray[np.int32]


def grid_of(tpc: Tpc) -> Grid:
    """The pixel grid of a TPC, relative to its anode."""
    frame = tpc.frame
    # Picometres: equal anodes get equal grids, whatever their shift does to the last digits.
    return Grid(frame.origin_y_mm, round(frame.origin_z_mm - tpc.shift_z_mm, 9), frame.pixel_mm, frame.n_y, frame.n_z)


def strips_of(plane: Plane, shift_z_mm: float) -> Strips:
    """The strips of a plane's wires: centre line ± pitch/2, unbounded along the wire.

    Where the spacing differs from the pitch by rounding only, neighbours share the border half-way. Where another
    channel continues the line, a strip ends with its segment.
    """
    along = np.array([plane.normal[1], -plane.normal[0]])
    first = np.concatenate([[True], np.diff(plane.local_offset_mm) > SAME_LINE * plane.pitch_mm])
    line = np.cumsum(first) - 1
    centre = plane.local_offset_mm[first]
    low, high = centre - plane.pitch_mm / 2, centre + plane.pitch_mm / 2
    # Neighbours share their border, to the last digit: no slit of NONE opens between them.
    uneven = np.abs(np.diff(centre) - plane.pitch_mm)
    border = np.where(uneven < EQUAL_SPACING, low[1:], (centre[1:] + centre[:-1]) / 2)
    shared = uneven < EVEN_SPACING * plane.pitch_mm
    low[1:][shared] = border[shared]
    high[:-1][shared] = border[shared]
    ends = np.sort(np.stack([p[:, 1:] @ along for p in (plane.tail, plane.head)]) - shift_z_mm * along[1], axis=0)
    rows: list[tuple[int, float, float, int]] = []
    for members in np.split(np.arange(len(line)), np.flatnonzero(first)[1:]):
        rows.extend((int(line[members[0]]), *cut) for cut in _cut(members, ends, plane.column))
    lines = np.array([row[0] for row in rows])
    begin, end = (np.array([row[i] for row in rows]) for i in (1, 2))
    return Strips(plane.normal, low[lines], high[lines], begin, end, np.array([row[3] for row in rows], np.int32))


def _cut(
    members: npt.NDArray[np.intp], ends: npt.NDArray[np.float64], column: npt.NDArray[np.int32]
) -> list[tuple[float, float, int]]:
    """(begin, end, column) of the strips on one line; a channel's segments that follow each other are one strip."""
    members = members[np.argsort(ends[:, members].sum(axis=0), kind="stable")]
    runs: list[tuple[float, float, int]] = []
    for wire in members.tolist():
        begin, end, number = float(ends[0, wire]), float(ends[1, wire]), int(column[wire])
        if runs and runs[-1][2] == number:
            begin, end = min(begin, runs[-1][0]), max(end, runs[-1][1])
            runs.pop()
        runs.append((begin, end, number))
    last = len(runs) - 1
    return [
        (begin if i else -np.inf, end if i < last else np.inf, number) for i, (begin, end, number) in enumerate(runs)
    ]


def build_overlaps(strips: Sequence[Strips], grid: Grid, n_columns: int) -> Overlaps:
    """The areas of a face's pixel grid from its planes' strips.

    Two passes, as the areas of a large face fill most of the memory: count, then fill the arrays in place.
    """
    n_tiles = grid.n_tiles
    column_plane = np.full(n_columns, -1, np.int8)
    sizes = np.zeros((len(strips), n_tiles, 2), np.int64)
    nothing = (np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint16))
    for p, plane in enumerate(strips):
        column_plane[plane.column] = p
        _fill(plane, grid, n_columns, False, sizes[p], *nothing)
    n_entries, n_areas = (int(n) for n in sizes.sum(axis=(0, 1)))
    out = Overlaps(
        tile_start=np.zeros((len(strips), n_tiles + 1), np.int32),
        entry_column=np.empty(n_entries, np.int32),
        entry_mask=np.empty(n_entries, np.uint64),
        entry_area=np.zeros(n_entries + 1, np.int32),
        area=np.empty(n_areas, np.uint16),
        column_start=np.zeros((len(strips), n_columns + 2), np.int32),
        column_tile=np.empty(n_entries, np.int32),
        column_mask=np.empty(n_entries, np.uint64),
        column_plane=column_plane,
    )
    entry, area = 0, 0
    for p, plane in enumerate(strips):
        entries, areas = (int(n) for n in sizes[p].sum(axis=0))
        mine = slice(entry, entry + entries)
        column, mask = out.entry_column[mine], out.entry_mask[mine]
        count = out.entry_area[entry + 1 : entry + entries + 1]  # becomes a running sum below
        _fill(plane, grid, n_columns, True, sizes[p], column, mask, count, out.area[area : area + areas])
        out.tile_start[p, 0] = out.column_start[p, 0] = entry
        out.tile_start[p, 1:] = entry + np.cumsum(sizes[p, :, 0])
        out.column_start[p, 1:] = entry + np.cumsum(np.bincount(column, minlength=n_columns + 1))
        by_column = np.argsort(column, kind="stable")
        out.column_tile[mine] = np.repeat(np.arange(n_tiles, dtype=np.int32), sizes[p, :, 0])[by_column]
        out.column_mask[mine] = mask[by_column]
        entry, area = entry + entries, area + areas
    np.cumsum(out.entry_area, out=out.entry_area)
    return out


def _fill(
    plane: Strips,
    grid: Grid,
    n_columns: int,
    write: bool,
    sizes: npt.NDArray[np.int64],
    column: npt.NDArray[np.int32],
    mask: npt.NDArray[np.uint64],
    count: npt.NDArray[np.int32],
    area: npt.NDArray[np.uint16],
) -> None:
    geometry = (*plane.normal, plane.low, plane.high, plane.begin, plane.end, plane.column, n_columns, grid)
    fill_plane(*geometry, *_scratch(plane, grid), write, sizes, column, mask, count, area)


def _scratch(plane: Strips, grid: Grid) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Room for the columns of the fullest tile (and NONE), and for their areas."""
    y = grid.origin_y + grid.pixel * np.arange(0, grid.n_y, TILE)
    z = grid.origin_z + grid.pixel * np.arange(0, grid.n_z, TILE)
    corner = (y[:, None] * plane.normal[0] + z * plane.normal[1]).ravel()
    reach = TILE * grid.pixel * np.array(plane.normal)
    slack = 1e-6  # mm, so that rounding cannot make it too small
    least, most = corner + np.minimum(reach, 0).sum() - slack, corner + np.maximum(reach, 0).sum() + slack
    wires = np.searchsorted(plane.low, most) - np.searchsorted(plane.high, least)
    room = max(0, int(wires.max())) + 1
    return np.empty(room, np.int32), np.empty((room, TILE * TILE), np.float64)


@njit(cache=True, nogil=True)
def below(level, a, b):  # type: ignore[no-untyped-def]
    """Share of a square's area up to ``level`` along a normal on which its sides measure a, b ≥ 0."""
    if b > a:
        a, b = b, a
    if level <= 0.0:
        return 0.0
    if level >= a + b:
        return 1.0
    if b < 1e-12:
        return level / a
    if level < b:
        return level * level / (2.0 * a * b)
    if level <= a:
        return (level - 0.5 * b) / a
    rest = a + b - level
    return 1.0 - rest * rest / (2.0 * a * b)


@njit(cache=True, nogil=True)
def clip(ys, zs, n, ny, nz, level, out_y, out_z):  # type: ignore[no-untyped-def]
    """Sutherland–Hodgman: the part of polygon (ys, zs)[:n] where ny·y + nz·z ≤ level; returns its corner count."""
    m = 0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        here = ny * ys[i] + nz * zs[i] - level
        there = ny * ys[j] + nz * zs[j] - level
        if here <= 0.0:
            out_y[m], out_z[m] = ys[i], zs[i]
            m += 1
        if (here < 0.0 < there) or (there < 0.0 < here):
            f = here / (here - there)
            out_y[m], out_z[m] = ys[i] + f * (ys[j] - ys[i]), zs[i] + f * (zs[j] - zs[i])
            m += 1
    return m


@njit(cache=True, nogil=True)
def cut_area(y, z, pixel, ny, nz, low, high, begin, end, polygons):  # type: ignore[no-untyped-def]
    """Share of the pixel at (y, z) inside a strip that is cut off along the wire; ``polygons`` (4, 16) is scratch."""
    ay, az, by, bz = polygons[0], polygons[1], polygons[2], polygons[3]
    ay[0], ay[1], ay[2], ay[3] = y, y, y + pixel, y + pixel
    az[0], az[1], az[2], az[3] = z, z + pixel, z + pixel, z
    n = clip(ay, az, 4, ny, nz, high, by, bz)
    n = clip(by, bz, n, -ny, -nz, -low, ay, az)
    if end < np.inf:
        n = clip(ay, az, n, nz, -ny, end, by, bz)
        ay, az, by, bz = by, bz, ay, az
    if begin > -np.inf:
        n = clip(ay, az, n, -nz, ny, -begin, by, bz)
        ay, az, by, bz = by, bz, ay, az
    total = 0.0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        # Relative to the pixel, so that a large coordinate costs no digits.
        total += (ay[i] - y) * (az[j] - z) - (ay[j] - y) * (az[i] - z)
    return abs(0.5 * total) / (pixel * pixel)


@njit(cache=True, nogil=True)
def fill_plane(  # type: ignore[no-untyped-def]
    ny, nz, low, high, begin, end, column, n_columns, grid, columns, shares, write, sizes,
    out_column, out_mask, out_count, out_area,
):  # fmt: skip
    """Areas of one plane, tile by tile; with ``write`` false only ``sizes`` (tile, [entries, areas]) is filled."""
    origin_y, origin_z, pixel, n_y, n_z = grid
    a, b = pixel * abs(ny), pixel * abs(nz)
    shift = pixel * (min(ny, 0.0) + min(nz, 0.0))
    tiles_z = (n_z + TILE - 1) // TILE
    n_entries, n_areas = 0, 0
    polygons = np.empty((4, 16))
    for tile in range(sizes.shape[0]):
        y0, z0 = (tile // tiles_z) * TILE, (tile % tiles_z) * TILE
        rows, cols = min(TILE, n_y - y0), min(TILE, n_z - z0)
        least = (origin_y + pixel * y0) * ny + (origin_z + pixel * z0) * nz + TILE * shift
        most = least + TILE * (a + b)
        wire, last = np.searchsorted(high, least), np.searchsorted(low, most)
        used = 0
        for w in range(wire, last):
            # Keep the columns sorted; a channel may come with several segments.
            at = used
            while at > 0 and columns[at - 1] >= column[w]:
                at -= 1
            if at == used or columns[at] != column[w]:
                for i in range(used, at, -1):
                    columns[i] = columns[i - 1]
                    shares[i] = shares[i - 1]
                columns[at] = column[w]
                shares[at] = 0.0
                used += 1
            uncut = begin[w] == -np.inf and end[w] == np.inf
            for iy in range(rows):
                y = origin_y + pixel * (y0 + iy)
                for iz in range(cols):
                    z = origin_z + pixel * (z0 + iz)
                    corner = y * ny + z * nz + shift
                    if high[w] <= corner or low[w] >= corner + a + b:
                        continue
                    if uncut:
                        # Rounding the borders, not the shares: neighbours' areas sum to a whole pixel exactly.
                        share = np.rint(PERMILLE * below(high[w] - corner, a, b))
                        share -= np.rint(PERMILLE * below(low[w] - corner, a, b))
                    else:
                        share = PERMILLE * cut_area(y, z, pixel, ny, nz, low[w], high[w], begin[w], end[w], polygons)
                    shares[at, TILE * iy + iz] += share
        columns[used] = n_columns
        for y in range(TILE):
            for z in range(TILE):
                bit = TILE * y + z
                rest = float(PERMILLE)
                for i in range(used):
                    rest -= shares[i, bit]
                shares[used, bit] = rest if y < rows and z < cols else 0.0
        entries, areas = 0, 0
        for i in range(used + 1):
            mask = np.uint64(0)
            before = n_areas + areas
            for bit in range(TILE * TILE):
                permille = int(np.rint(shares[i, bit]))
                if permille > 0:
                    if write:
                        out_area[n_areas + areas] = permille
                    mask |= np.uint64(1) << np.uint64(bit)
                    areas += 1
            if mask:
                if write:
                    out_column[n_entries + entries] = columns[i]
                    out_mask[n_entries + entries] = mask
                    out_count[n_entries + entries] = n_areas + areas - before
                entries += 1
        sizes[tile, 0], sizes[tile, 1] = entries, areas
        n_entries += entries
        n_areas += areas
