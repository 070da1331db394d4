"""The least that tiling an event can take: one pass for lit samples, one multiply-add for each contribution.

A contribution is an (active pixel, plane, channel) with an area. Both loops are as simple as numba allows, over the
numbers that the Tiler itself comes to.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from preprocess.areas import PERMILLE
from preprocess.voxels import Tiler, Voxels

PATCH_PIXELS = 32


@njit(nogil=True)
def find_lit(flat, threshold, out):
    """Positions of the values above the threshold; returns their number."""
    n = 0
    for i in range(flat.shape[0]):
        if flat[i] > threshold:
            out[n] = i
            n += 1
    return n


@njit(nogil=True)
def scatter(target, source, area, density, out):
    """The multiply-adds."""
    for i in range(target.shape[0]):
        out[target[i]] += density[source[i]] * area[i]


@njit
def contributions(pixels, voxel, overlaps, patches_z, out_target, out_source, out_area):
    """Each pixel's (voxel and plane, tick and column, area); without room in ``out`` they are only counted."""
    n, n_planes, n_columns = 0, overlaps.none.shape[1], overlaps.column_plane.shape[0]
    for i in range(pixels.shape[0]):
        y, z = np.int64(pixels[i, 1]), np.int64(pixels[i, 2])
        tile = 64 * ((y >> 5) * patches_z + (z >> 5)) + 8 * ((y >> 2) & 7) + ((z >> 2) & 7)
        bit = 4 * (y & 3) + (z & 3)
        for p in range(n_planes):
            for entry in range(overlaps.tile_start[tile * n_planes + p], overlaps.tile_start[tile * n_planes + p + 1]):
                column, pixels_in = np.int64(overlaps.entry_column[entry]), np.int64(overlaps.entry_pixels[entry])
                if (pixels_in >> bit) & 1 and column < n_columns:
                    if out_target.shape[0]:
                        out_target[n] = voxel[i] * n_planes + p
                        out_source[n] = np.int64(pixels[i, 0]) * n_columns + column
                        area = overlaps.area[np.int64(overlaps.tile_layer[tile]) + overlaps.entry_layer[entry], bit]
                        out_area[n] = PERMILLE - area if (pixels_in >> (16 + bit)) & 1 else area
                    n += 1
    return n


class Floor:
    """The two loops for one event, ready to run; ``n`` contributions, ``n_pixels`` active pixels."""

    def __init__(self, tiler: Tiler, waveform: np.ndarray, voxels: Voxels, **settings) -> None:
        frame, n_planes = tiler.tpc.frame, len(tiler.tpc.planes)
        steps = np.array(settings.get("downsample", (8, 4, 4)), np.uint16)
        pixels = tiler(waveform, **settings | {"downsample": (1, 1, 1)}).coords
        shape = 0, -(-frame.n_y // int(steps[1])), -(-frame.n_z // int(steps[2]))
        voxel = np.searchsorted(_keys(voxels.coords, shape), _keys(pixels // steps, shape))
        nothing = np.empty(0, np.int64)
        given = pixels, voxel, tiler.overlaps, -(-frame.n_z // PATCH_PIXELS)
        self.n, self.n_pixels = contributions(*given, nothing, nothing, nothing), len(pixels)
        self.target, source = np.empty(self.n, np.int32), np.empty(self.n, np.int64)
        self.area = np.empty(self.n, np.uint16)
        contributions(*given, self.target, source, self.area)
        # Only (tick, channel) pairs that touch an active pixel have a density.
        used = np.unique(source)
        self.source = np.searchsorted(used, source).astype(np.int32)
        values = waveform[used // waveform.shape[1], used % waveform.shape[1]].astype(np.float64)
        self.density = values / np.bincount(self.source, self.area)
        self.flat = waveform.ravel(order="K")
        self.threshold = np.float32(settings.get("threshold", 1.0))
        self.lit = np.empty(self.flat.shape[0] + 1, np.int64)
        self.charge = np.zeros((len(voxels), n_planes))
        # Slabs own their voxels: a cut between two of them lets two threads write without meeting.
        middle = np.searchsorted(voxels.coords[:, 0], pixels[len(pixels) // 2, 0] // steps[0])
        self.cut = int(np.searchsorted(self.target, middle * n_planes)) if self.n else 0

    def find_lit(self, threads: int = 1) -> None:
        """The pass over the waveform."""
        half = self.flat.shape[0] // 2
        _both(
            lambda: find_lit(self.flat[:half], self.threshold, self.lit[:half]),
            lambda: find_lit(self.flat[half:], self.threshold, self.lit[half:]),
            threads,
        )

    def scatter(self, threads: int = 1) -> None:
        """The multiply-adds."""
        self.charge[:] = 0.0
        out = self.charge.reshape(-1)
        parts = [
            (self.target[part], self.source[part], self.area[part], self.density, out)
            for part in (slice(None, self.cut), slice(self.cut, None))
        ]
        _both(lambda: scatter(*parts[0]), lambda: scatter(*parts[1]), threads)

    def __call__(self, threads: int = 1) -> None:
        self.find_lit(threads)
        self.scatter(threads)


def _keys(coords, shape):
    return (coords[:, 0].astype(np.int64) * shape[1] + coords[:, 1]) * shape[2] + coords[:, 2]


def _both(first, second, threads: int) -> None:
    if threads == 1:
        first()
        second()
        return
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(first)
        second()
        other.result()
