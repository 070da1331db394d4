"""Tiling as its users call it: checked input, one event at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from preprocess.cache import overlaps_of
from preprocess.coordinates import check_axis, check_downsample
from preprocess.detector.model import Tpc
from preprocess.overlap import TILE
from preprocess.tiling import Scratch, first_not_finite, tile_slabs

NO_BAD_CHANNELS = np.empty((0, 3), np.int64)


@dataclass(frozen=True)
class Voxels:
    """A tiled image, sorted by (x, y, z).

    Attributes:
        coords: (n, 3) uint16 downsampled tick, y pixel, z pixel.
        charge: (n, planes) float32, planes in drift order, in the waveform's unit.
        live: (n,) uint8, bit p set where plane p is covered by working wires in all pixels and ticks that contribute;
            not set where a bad channel or a part without wires has a share in one of them, so that the charge of
            plane p may be incomplete there.
        lit_samples: good samples above the threshold on wires of this face.
    """

    coords: npt.NDArray[np.uint16]
    charge: npt.NDArray[np.float32]
    live: npt.NDArray[np.uint8]
    lit_samples: int

    def __len__(self) -> int:
        return len(self.coords)


class Tiler:
    """Tiles waveforms of one TPC. Building it loads the pixel areas (from the disk cache, after the first time)."""

    def __init__(self, tpc: Tpc) -> None:
        self.tpc = tpc
        self.overlaps = overlaps_of(tpc)

    def __call__(
        self,
        waveform: npt.ArrayLike,
        threshold: float = 1.0,
        downsample: Sequence[int] = (8, 4, 4),
        bad_channels: npt.ArrayLike = (),
        min_live_planes: int = 2,
        first_tick: int = 0,
    ) -> Voxels:
        """Tile one event.

        Args:
            waveform: (tick, channel) charge, columns as ``tpc.channels``; any real number type.
            threshold: a sample is lit above it; in the waveform's unit.
            downsample: ticks, y pixels and z pixels of a voxel. The last voxel of an axis may be short.
            bad_channels: (n, 3) rows [column, first tick, end tick) with absolute ticks (row 0 is ``first_tick``),
                or (n,) columns that are bad throughout.
            min_live_planes: planes that must be lit by a real signal; the others may be bad or without wires.
            first_tick: tick of row 0; coordinates count from tick 0.

        Raises:
            InputError: a waveform of another shape or type, NaN or infinity in it, coordinates beyond 65,534.
            ConfigError: a setting out of range.
        """
        frame, areas = self.tpc.frame, self.overlaps
        n_planes = len(self.tpc.planes)
        steps = check_downsample(downsample)
        if not 1 <= min_live_planes <= n_planes:
            raise ConfigError(f"min_live_planes = {min_live_planes}. Fix: choose 1 … {n_planes}, the number of planes.")
        if not np.isfinite(threshold):
            raise ConfigError(f"threshold = {threshold}. Fix: give a finite number.")
        values = self._check_waveform(waveform, first_tick)
        bad = self._check_bad(bad_channels)
        check_axis("ticks", first_tick + len(values), steps[0])
        check_axis("y pixels", frame.n_y, steps[1])
        check_axis("z pixels", frame.n_z, steps[2])
        work = self._scratch(steps)
        n_slab, n_voxel_z = len(work.seen), -(-frame.n_z // steps[2])
        coords = np.empty((n_slab, 3), np.uint16)
        charge = np.empty((n_slab, n_planes), np.float32)
        live = np.empty(n_slab, np.uint8)
        counts = np.zeros(2, np.int64)
        row = 0
        while row < len(values):
            needed = int(counts[0]) + n_slab
            if needed > len(coords):
                # Growing in place moves pages, not data, and pages that are never written cost no memory.
                for array in (coords, charge, live):
                    array.resize((max(needed, needed * 3 // 2), *array.shape[1:]), refcheck=False)
            row = tile_slabs(
                values, first_tick, row, steps[0], _float32_below(threshold), bad, min_live_planes,
                -(-frame.n_z // TILE), n_voxel_z, areas, work, counts, coords, charge, live,
            )  # fmt: skip
        for array in (coords, charge, live):
            array.resize((int(counts[0]), *array.shape[1:]), refcheck=False)
        return Voxels(coords, charge, live, int(counts[1]))

    def _scratch(self, steps: tuple[int, int, int]) -> Scratch:
        frame, n_planes, n_columns = self.tpc.frame, len(self.tpc.planes), len(self.tpc.channels)
        tiles_y, tiles_z = -(-frame.n_y // TILE), -(-frame.n_z // TILE)
        n_tiles = tiles_y * tiles_z
        n_slab = -(-frame.n_y // steps[1]) * -(-frame.n_z // steps[2])
        return Scratch(
            state=np.full(n_columns, -1, np.int64),
            stage=np.full(n_tiles, -1, np.int64),
            live_mask=np.zeros((n_tiles, n_planes), np.uint64),
            lit_mask=np.zeros((n_tiles, n_planes), np.uint64),
            at_least=np.zeros(n_planes + 1, np.uint64),
            lit=np.zeros((n_planes, n_columns), np.int32),
            n_lit=np.zeros(n_planes, np.int64),
            tiles=np.zeros(n_tiles, np.int32),
            active=np.zeros(n_tiles, np.uint64),
            overlap=np.zeros(n_columns + 1, np.int64),
            seen=np.full(n_slab, -1, np.int64),
            charge=np.zeros((n_slab, n_planes), np.float64),
            live=np.zeros(n_slab, np.uint8),
            touched=np.zeros(n_slab, np.int32),
            voxel_y=np.arange(tiles_y * TILE) // steps[1],
            voxel_z=np.arange(tiles_z * TILE) // steps[2],
        )

    def _check_waveform(self, waveform: npt.ArrayLike, first_tick: int) -> npt.NDArray[np.float32]:
        given = np.asarray(waveform)
        channels = self.tpc.channels
        if given.ndim != 2 or given.shape[1] != len(channels):
            raise InputError(
                f"The waveform has shape {given.shape}, but TPC {self.tpc.number} of {self.tpc.detector} has "
                f"{len(channels)} channels. Fix: give (ticks, {len(channels)}), columns as tpc.channels."
            )
        if given.dtype.kind not in "fiu":
            raise InputError(f"The waveform has type {given.dtype}. Fix: give real numbers, float32 at best.")
        if first_tick < 0:
            raise InputError(f"first_tick = {first_tick} is negative. Fix: ticks count from 0.")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            values = np.ascontiguousarray(given, np.float32)
        found = first_not_finite(values.view(np.uint32))
        if found >= 0:
            row, column = divmod(int(found), len(channels))
            raise InputError(
                f"The waveform is {given[row, column]} at tick {first_tick + row}, channel {channels[column]} "
                f"(column {column}). Fix: repair the input, or mark the channel bad and set it to 0."
            )
        return values

    def _check_bad(self, bad_channels: npt.ArrayLike) -> npt.NDArray[np.int64]:
        given = np.asarray(bad_channels)
        if given.size == 0:
            return NO_BAD_CHANNELS
        if given.dtype.kind not in "iu" or not (given.ndim == 1 or (given.ndim == 2 and given.shape[1] == 3)):
            raise ConfigError(
                f"bad_channels has shape {given.shape} and type {given.dtype}. "
                "Fix: give integer rows [column, first tick, end tick), or a list of columns."
            )
        rows = given.astype(np.int64)
        if rows.ndim == 1:
            rows = np.column_stack([rows, np.zeros_like(rows), np.full_like(rows, np.iinfo(np.int64).max)])
        n = len(self.tpc.channels)
        outside = (rows[:, 0] < 0) | (rows[:, 0] >= n)
        if outside.any():
            raise ConfigError(f"bad_channels names column {rows[outside][0, 0]}. Fix: columns are 0 … {n - 1}.")
        return np.ascontiguousarray(rows)


def _float32_below(threshold: float) -> np.float32:
    """The largest float32 ≤ threshold: float32 values lie above both or above none."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))
