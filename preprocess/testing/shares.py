"""The areas of a face as one flat table: what tests and benchmarks compare the kernels' packed form with."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.areas import PERMILLE, TILE
from preprocess.overlap import PATCH, Overlaps


class Shares(NamedTuple):
    """One row for each (pixel, plane, column) with an area, (n,) each: NONE is column ``n_columns``.

    Sorted by tile, plane, column, pixel; ``area`` in thousandths.
    """

    y: npt.NDArray[np.uint16]
    z: npt.NDArray[np.uint16]
    plane: npt.NDArray[np.uint8]
    column: npt.NDArray[np.int32]
    area: npt.NDArray[np.uint16]


def all_shares(overlaps: Overlaps, n_z: int) -> Shares:
    """The table of a face whose grid has ``n_z`` pixels along z."""
    n_planes = overlaps.none.shape[1]
    starts = overlaps.tile_start.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    group = np.repeat(np.arange(len(counts)), counts)  # tile and plane of each entry
    tile = group // n_planes
    entry, bit = np.nonzero(overlaps.entry_pixels[:, None] >> np.arange(TILE * TILE, dtype=np.uint32) & 1)
    area = overlaps.area[overlaps.tile_layer[tile[entry]] + overlaps.entry_layer[entry], bit]
    rest = overlaps.entry_pixels[entry] >> (bit + TILE * TILE).astype(np.uint32) & 1
    tile = tile[entry]
    patch, place = tile // PATCH**2, tile % PATCH**2
    patches_z = -(-n_z // (TILE * PATCH))
    return Shares(
        (TILE * (PATCH * (patch // patches_z) + place // PATCH) + bit // TILE).astype(np.uint16),
        (TILE * (PATCH * (patch % patches_z) + place % PATCH) + bit % TILE).astype(np.uint16),
        (group[entry] % n_planes).astype(np.uint8),
        np.minimum(overlaps.entry_column, len(overlaps.column_plane)).astype(np.int32)[entry],
        np.where(rest, PERMILLE - area, area),
    )
