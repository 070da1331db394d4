"""Working memory of the tiling kernels: made once, used by one thread at a time."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from preprocess import tiling
from preprocess.areas import TILE
from preprocess.detector.model import Tpc
from preprocess.overlap import PATCH, Overlaps, grid_of
from preprocess.scanning import list_columns, list_rows
from preprocess.tiling import Scratch
from preprocess.waveforms import Lit

FIRST_ROOM = 1 << 14  # samples


@dataclass
class Memory:
    """What a thread needs for a piece of an event: the kernels' scratch and the piece's lit samples.

    ``lit_column[lit_start[row] : lit_start[row + 1]]`` are a row's lit columns.
    """

    scratch: Scratch
    lit_start: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    lit_column: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(FIRST_ROOM, np.int32))

    def list_lit(self, lit: Lit, begin: int, end: int) -> None:
        """Fill ``lit_start`` and ``lit_column`` for the rows begin … end."""
        if len(self.lit_start) <= end - begin:
            self.lit_start = np.empty(end - begin + 1, np.int64)
        listed = list_rows if lit.by_row else list_columns
        n = listed(lit.bits, lit.some, begin, end, self.lit_start, self.lit_column)
        if n > len(self.lit_column):
            self.lit_column = np.empty(n, np.int32)
            listed(lit.bits, lit.some, begin, end, self.lit_start, self.lit_column)


def new_scratch(tpc: Tpc, overlaps: Overlaps, steps: tuple[int, int, int]) -> Scratch:
    """Clean working memory for a face and a downsampling."""
    frame, n_planes, n_columns = tpc.frame, len(tpc.planes), len(tpc.channels)
    grid = grid_of(tpc)
    patches_y, patches_z = grid.patches
    n_slab = -(-frame.n_y // steps[1]) * -(-frame.n_z // steps[2])
    n_words = -(-n_slab // 64)
    patch, tile = np.divmod(np.arange(grid.n_tiles, dtype=np.int32), PATCH**2)
    tile_y = (TILE * (PATCH * (patch // patches_z) + tile // PATCH)).astype(np.int32)
    tile_z = (TILE * (PATCH * (patch % patches_z) + tile % PATCH)).astype(np.int32)
    voxel_y = np.arange(patches_y * PATCH * TILE) // steps[1] * -(-frame.n_z // steps[2])
    voxel_z = np.arange(patches_z * PATCH * TILE) // steps[2]
    whole = (voxel_y[tile_y] == voxel_y[tile_y + TILE - 1]) & (voxel_z[tile_z] == voxel_z[tile_z + TILE - 1])
    return Scratch(
        state=np.concatenate(
            [np.zeros(n_columns, np.uint8), np.full(n_planes, tiling.STAND_IN | tiling.DEAD, np.uint8)]
        ),
        marks=np.zeros(2, np.int64),
        lit=np.zeros((n_planes, n_columns), np.int32),
        n_lit=np.zeros(n_planes, np.int64),
        n_marked=np.zeros(n_planes, np.int64),
        opened=np.zeros(patches_y * patches_z, np.int64),
        reached=np.zeros((patches_y * patches_z, n_planes), np.uint64),
        patches=np.zeros(patches_y * patches_z, np.int32),
        at_least=np.zeros(n_planes + 1, np.uint64),
        tiles=np.zeros(grid.n_tiles, np.int32),
        active=np.zeros(grid.n_tiles, np.uint16),
        shares=np.zeros(len(overlaps.entry_column), np.uint16),
        overlap=np.zeros(n_columns + n_planes, np.int64),
        density=np.zeros(n_columns + n_planes, np.float64),
        touched=np.zeros(n_columns + n_planes + 1, np.int32),  # one more: a kernel writes before it knows
        charge=np.zeros((n_slab, n_planes), np.float64),
        live=np.zeros(n_slab, np.uint8),
        used=np.zeros(64 * -(-n_words // 64), np.uint64),
        used_words=np.zeros(-(-n_words // 64), np.uint64),
        tile_voxel=np.where(whole, voxel_y[tile_y] + voxel_z[tile_z], -1).astype(np.int32),
        tile_y=tile_y,
        tile_z=tile_z,
        voxel_y=voxel_y,
        voxel_z=voxel_z,
    )
