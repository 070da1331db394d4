"""Which share of each pixel lies on the strip of which channel: the geometry that tiling needs, as flat arrays.

Pixels are grouped into tiles of 4 × 4, so that a channel's pixels in a tile are one 16-bit mask; tiles into patches of
8 × 8, so that a channel's tiles in a patch are one 64-bit mask. An *entry* is a (tile, plane, column) with at least one
pixel. Areas are kept by *layer*: one number a pixel, as a border that cuts a pixel in two says both columns' areas.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from larstore.errors import ConfigError
from preprocess.areas import PERMILLE, TILE, fill_plane
from preprocess.detector.model import Tpc
from preprocess.strips import Strips

PATCH = 8  # tiles a side: 64 = the bits of a mask
MOST_LAYERS = 255  # of a tile: they are counted in a byte


class Grid(NamedTuple):
    """The pixels of a face: lower corner and edge in mm (z relative to the anode), and their numbers."""

    origin_y: float
    origin_z: float
    pixel: float
    n_y: int
    n_z: int

    @property
    def patches(self) -> tuple[int, int]:
        """Patches that cover the grid, along y and z."""
        return -(-self.n_y // (TILE * PATCH)), -(-self.n_z // (TILE * PATCH))

    @property
    def n_tiles(self) -> int:
        """Tiles of these patches."""
        return self.patches[0] * self.patches[1] * PATCH * PATCH


class Overlaps(NamedTuple):
    """Areas of all pixels of a face, tile by tile.

    Patch (y, z) has the number ``y * patches_z + z``, tile (y, z) in it is bit ``8 * y + z`` of the patch and has the
    number ``64 * patch + bit``; pixel (y, z) in a tile is bit ``4 * y + z``. Columns are those of the waveform;
    ``n_columns + p`` stands for NONE of plane p, the part that no wire covers.

    Attributes:
        tile_start: (tiles * planes + 1,) uint32; plane p's entries in a tile begin at ``[tile * planes + p]``, columns
            ascending.
        entry_column: (entries,) uint32 column.
        entry_pixels: (entries,) uint32 pixels of the tile with a share of the column: bits 0 … 15; bit 16 + i where
            pixel i's share is the rest of its layer, 1000 − area.
        entry_layer: (entries,) uint8 the entry's layer in the tile. Where pixels are cut into more than two parts, a
            column has several entries, with one layer each.
        tile_layer: (tiles + 1,) uint32 first row of ``area`` of a tile.
        area: (layers, 16) uint16 areas of the tile's pixels in thousandths, 0 … 1000.
        column_start: (columns + planes + 1,) uint32: the tiles once more, by column and patch.
        column_patch, column_tiles: uint32 and uint64 patch, and its tiles with a share of the column.
        none: (patches, planes) uint64 tiles with a part that no wire of the plane covers.
        opens: (patches,) uint8 the last plane that may be the first to light a tile: all before it have NONE there.
        column_plane: (columns,) int8 the plane that a column belongs to in this face, −1 = none.
    """

    tile_start: npt.NDArray[np.uint32]
    entry_column: npt.NDArray[np.uint32]
    entry_pixels: npt.NDArray[np.uint32]
    entry_layer: npt.NDArray[np.uint8]
    tile_layer: npt.NDArray[np.uint32]
    area: npt.NDArray[np.uint16]
    column_start: npt.NDArray[np.uint32]
    column_patch: npt.NDArray[np.uint32]
    column_tiles: npt.NDArray[np.uint64]
    none: npt.NDArray[np.uint64]
    opens: npt.NDArray[np.uint8]
    column_plane: npt.NDArray[np.int8]

    def pixel(self, n_z: int, y: int, z: int) -> Iterator[tuple[int, int, int]]:
        """(plane, column, area in thousandths) of a pixel, columns ascending, NONE as ``n_columns``; slow."""
        n_planes, n_columns = self.none.shape[1], len(self.column_plane)
        side = TILE * PATCH
        patch = (y // side) * -(-n_z // side) + z // side
        tile = patch * PATCH**2 + PATCH * (y % side // TILE) + z % side // TILE
        bit = TILE * (y % TILE) + z % TILE
        for plane in range(n_planes):
            start, stop = self.tile_start[n_planes * tile + plane : n_planes * tile + plane + 2]
            for entry in range(int(start), int(stop)):
                pixels = int(self.entry_pixels[entry])
                if pixels >> bit & 1:
                    area = int(self.area[int(self.tile_layer[tile]) + int(self.entry_layer[entry]), bit])
                    rest = pixels >> (bit + TILE * TILE) & 1
                    yield plane, min(int(self.entry_column[entry]), n_columns), PERMILLE - area if rest else area


def grid_of(tpc: Tpc) -> Grid:
    """The pixel grid of a TPC, relative to its anode."""
    frame = tpc.frame
    # Picometres: equal anodes get equal grids, whatever their shift does to the last digits.
    return Grid(frame.origin_y_mm, round(frame.origin_z_mm - tpc.shift_z_mm, 9), frame.pixel_mm, frame.n_y, frame.n_z)


def build_overlaps(strips: Sequence[Strips], grid: Grid, n_columns: int) -> Overlaps:
    """The areas of a face's pixel grid from its planes' strips.

    Two passes, as the areas of a large face fill most of the memory: count, then fill the arrays in place.
    """
    n_planes, n_tiles = len(strips), grid.n_tiles
    column_plane = np.full(n_columns, -1, np.int8)
    sizes, layers = np.zeros((2, n_tiles, n_planes), np.uint32)
    nothing = _new_areas(0, 0)
    for p, plane in enumerate(strips):
        column_plane[plane.column] = p
        _fill(plane, grid, n_columns + p, False, sizes[:, p], layers[:, p], layers[:, p], *nothing)
    most = int(layers.sum(axis=1).max(initial=0))
    if most > MOST_LAYERS:
        raise ConfigError(f"A pixel of {grid.pixel} mm is cut into some {most} parts by wires. Fix: smaller pixels.")
    tile_start, layer_start = (np.zeros(n_tiles * n_planes + 1, np.uint32) for _ in range(2))
    np.cumsum(sizes, out=tile_start[1:])
    np.cumsum(layers, out=layer_start[1:])
    entries = _new_areas(int(tile_start[-1]), int(layer_start[-1]))
    for p, plane in enumerate(strips):
        starts = tile_start[p:-1:n_planes], layer_start[p:-1:n_planes], layer_start[:-1:n_planes]
        _fill(plane, grid, n_columns + p, True, *starts, *entries)
    column, pixels, layer, area = entries
    tile_layer = layer_start[::n_planes].copy()
    column_start, patch, tiles = by_column = _by_column(tile_start, column, n_planes, n_columns)
    none, opens = _none(by_column, grid, n_planes, n_columns)
    return Overlaps(
        tile_start, column, pixels, layer, tile_layer, area, column_start, patch, tiles, none, opens, column_plane
    )


def _new_areas(n_entries: int, n_layers: int) -> tuple[npt.NDArray[Any], ...]:
    """Room for ``entry_column``, ``entry_pixels``, ``entry_layer`` and ``area``."""
    entries = (np.empty(n_entries, kind) for kind in (np.uint32, np.uint32, np.uint8))
    return *entries, np.zeros((n_layers, TILE * TILE), np.uint16)


def _by_column(
    tile_start: npt.NDArray[np.uint32], entry_column: npt.NDArray[np.uint32], n_planes: int, n_columns: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """``column_start``, ``column_patch`` and ``column_tiles``."""
    starts = tile_start[::n_planes]
    place, last = np.zeros(n_columns + n_planes, np.int64), np.empty(n_columns + n_planes, np.int64)
    last[:] = -1
    sort_tiles(starts, entry_column, place, last, np.empty(0, np.uint32), np.empty(0, np.uint64))
    column_start = np.zeros(n_columns + n_planes + 1, np.uint32)
    np.cumsum(place, out=column_start[1:])
    column_patch = np.empty(column_start[-1], np.uint32)
    column_tiles = np.zeros(column_start[-1], np.uint64)
    place[:], last[:] = column_start[:-1], -1
    sort_tiles(starts, entry_column, place, last, column_patch, column_tiles)
    return column_start, column_patch, column_tiles


def _none(
    by_column: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint64]],
    grid: Grid,
    n_planes: int,
    n_columns: int,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """``none`` and ``opens``."""
    column_start, column_patch, column_tiles = by_column
    none = np.zeros((grid.patches[0] * grid.patches[1], n_planes), np.uint64)
    for p in range(n_planes):
        here = slice(*column_start[n_columns + p : n_columns + p + 2])
        none[column_patch[here], p] = column_tiles[here]
    uncovered = np.logical_and.accumulate(none[:, : n_planes - 1] != 0, axis=1)
    return none, uncovered.sum(axis=1, dtype=np.uint8)


def _fill(
    plane: Strips,
    grid: Grid,
    none: int,
    write: bool,
    sizes: npt.NDArray[np.uint32],
    layers: npt.NDArray[np.uint32],
    first: npt.NDArray[np.uint32],
    *areas: npt.NDArray[Any],
) -> None:
    geometry = (*plane.normal, plane.low, plane.high, plane.begin, plane.end, plane.column, none)
    fill_plane(*geometry, grid, grid.patches[1], *_scratch(plane, grid), write, sizes, layers, first, *areas)


def _scratch(plane: Strips, grid: Grid) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Room for the columns of the fullest tile (and NONE), and for their areas."""
    y = grid.origin_y + grid.pixel * np.arange(0, grid.n_y, TILE)
    z = grid.origin_z + grid.pixel * np.arange(0, grid.n_z, TILE)
    corner = (y[:, None] * plane.normal[0] + z * plane.normal[1]).ravel()
    reach = TILE * grid.pixel * np.array(plane.normal)
    slack = 1e-6  # mm, so that rounding cannot make it too small
    least, most = corner + np.minimum(reach, 0).sum() - slack, corner + np.maximum(reach, 0).sum() + slack
    wires = np.searchsorted(plane.low, most) - np.searchsorted(plane.high, least)
    room = max(0, int(wires.max())) + 1
    return np.empty(room, np.uint32), np.empty((room, TILE * TILE), np.float64)


@njit(cache=True, nogil=True)
def sort_tiles(starts, entry_column, place, last, out_patch, out_tiles):  # type: ignore[no-untyped-def]
    """Each column's patches: ``place`` moves on by their number; without room in ``out`` they are only counted."""
    for tile in range(starts.shape[0] - 1):
        patch = tile >> 6
        for entry in range(starts[tile], starts[tile + 1]):
            column = entry_column[entry]
            # Tiles of a patch follow each other.
            if last[column] != patch:
                last[column] = patch
                place[column] += 1
                if out_patch.shape[0]:
                    out_patch[place[column] - 1] = patch
            if out_patch.shape[0]:
                out_tiles[place[column] - 1] |= np.uint64(1) << np.uint64(tile & 63)
