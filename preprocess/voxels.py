"""Tiling as its users call it: checked input, one event at a time."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.coordinates import check_axis, check_downsample
from larstore.errors import ConfigError, InputError
from preprocess import tiling
from preprocess.bad_channels import disjoint
from preprocess.cache import overlaps_of
from preprocess.detector.model import Tpc
from preprocess.memory import Memory, new_scratch
from preprocess.threads import default_threads, in_order
from preprocess.tiling import tile_slabs
from preprocess.waveforms import Lit, NotFiniteError, Rows, Waveform, find_lit

NO_BAD_CHANNELS = np.empty((0, 3), np.int64)
FIRST_ROOM = 4096  # voxels
MOST_SPARE = 1 << 20  # voxels that an image's arrays may be too long for: numpy fills them with zeros, in memory
MOST_VOXELS = 2**31 - 1  # the store counts an image's voxels in int32
MOST_MEMORY = 150_000_000  # bytes of all threads' working memory: more threads than it allows are not used
KEPT_SCRATCH = 2  # downsamplings whose working memory a tiler keeps


class TooManyVoxelsError(InputError):
    """An image has more voxels than it may have: ``total``."""

    def __init__(self, total: int, most: int) -> None:
        super().__init__(
            f"The image has {total:,} voxels, more than max_voxels = {most:,}. Fix: mark noisy channels bad, raise "
            "the threshold, downsample further, or raise max_voxels"
        )
        self.total, self.most = total, most

    def __reduce__(self) -> tuple[Any, ...]:
        return TooManyVoxelsError, (self.total, self.most)


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
    """Tiles waveforms of one TPC. Building it loads the pixel areas (from the disk cache, after the first time).

    It may be called from several threads at once: the kernels run without Python's lock and without numba's threads,
    so that numba's threading layer does not matter.
    """

    def __init__(self, tpc: Tpc) -> None:
        self.tpc = tpc
        self.overlaps = overlaps_of(tpc)
        self._free: dict[tuple[int, int, int], deque[Memory]] = {}

    def __reduce__(self) -> tuple[type["Tiler"], tuple[Tpc]]:
        return Tiler, (self.tpc,)  # the areas are found again on the other side

    def __call__(
        self,
        waveform: Any,
        threshold: float = 1.0,
        downsample: Sequence[int] = (8, 4, 4),
        bad_channels: npt.ArrayLike = (),
        min_live_planes: int = 2,
        first_tick: int = 0,
        *,
        scale: float = 1.0,
        max_voxels: int | None = None,
        threads: int | None = None,
    ) -> Voxels:
        """Tile one event.

        Args:
            waveform: (tick, channel) charge, columns as ``tpc.channels``; any real number type, or a scipy.sparse
                matrix (regions of interest), which is never made dense as a whole.
            threshold: a sample is lit above it; in the waveform's unit, after ``scale``.
            downsample: ticks, y pixels and z pixels of a voxel. The last voxel of an axis may be short.
            bad_channels: (n, 3) rows [column, first tick, end tick) with absolute ticks (row 0 is ``first_tick``),
                or (n,) columns that are bad throughout.
            min_live_planes: planes that must be lit by a real signal; the others may be bad or without wires.
            first_tick: tick of row 0; coordinates count from tick 0.
            scale: factor of the waveform's values, as for digitised int16.
            max_voxels: the most that an image may have; None = what the store can count.
            threads: how many to use; None = NUMBA_NUM_THREADS, else 1. Fewer are used where their working memory
                would be too much, as at full resolution. The image does not depend on it, to the last bit.

        Memory: the output, and at most 200 MB, whatever the event.

        Raises:
            InputError: a waveform of another shape or type, NaN or infinity in it, coordinates beyond 65,534.
            TooManyVoxelsError: more than ``max_voxels``, with their number.
            ConfigError: a setting out of range.
        """
        frame, n_planes = self.tpc.frame, len(self.tpc.planes)
        steps = check_downsample(downsample)
        most = MOST_VOXELS if max_voxels is None else max_voxels
        threads = default_threads() if threads is None else threads
        for name, value, highest in (
            ("min_live_planes", min_live_planes, n_planes),
            ("max_voxels", most, MOST_VOXELS),
            ("threads", threads, 4096),
        ):
            if not 1 <= value <= highest or value != int(value):
                raise ConfigError(f"{name} = {value}. Fix: choose a whole number, 1 … {highest:,}.")
        if not np.isfinite(threshold):
            raise ConfigError(f"threshold = {threshold}. Fix: give a finite number.")
        if first_tick < 0 or first_tick != int(first_tick):
            raise InputError(f"first_tick = {first_tick}. Fix: ticks count from 0, in whole numbers.")
        # Plain numbers from here on, so that one compiled kernel serves all.
        min_live_planes, most, threads, first_tick = (int(n) for n in (min_live_planes, most, threads, first_tick))
        values = Waveform(waveform, self.tpc, scale)
        bad = self._check_bad(bad_channels)
        check_axis("ticks", first_tick + len(values), steps[0])
        check_axis("y pixels", frame.n_y, steps[1])
        check_axis("z pixels", frame.n_z, steps[2])
        # Voxels of a slab, at full resolution a whole face: the part of the working memory that grows.
        n_slab = -(-frame.n_y // steps[1]) * -(-frame.n_z // steps[2])
        threads = max(1, min(threads, MOST_MEMORY // (n_slab * (8 * n_planes + 1))))
        job = _Job(self, values, _float32_below(threshold), steps, bad, min_live_planes, first_tick, most)
        if values.as_it_is:
            job.whole = values.rows(0, len(values))
            job.lit = job.find_lit(job.whole, 0, threads)
        pieces = values.pieces(first_tick, steps[0], threads, job.lit)
        image = _Piece.empty(n_planes)

        def work(i: int) -> _Piece:
            # One thread writes to the image itself: its arrays grow in place, and no piece is there beside it.
            piece = image if threads == 1 else _Piece.empty(n_planes)
            job.tile(*pieces[i], piece)
            if piece is not image:
                job.finish(piece)
            return piece

        for piece in in_order(work, len(pieces), threads):
            if piece is not image:
                image.append(piece)
            if image.progress[tiling.TOTAL] > most:
                image.drop()
            del piece  # before the next one is made
        if image.progress[tiling.TOTAL] > most:
            raise TooManyVoxelsError(int(image.progress[tiling.TOTAL]), most)
        image.trim()
        return Voxels(image.coords, image.charge, image.live, int(image.progress[tiling.LIT]))

    def memory(self, steps: tuple[int, int, int]) -> Memory:
        """Working memory that nobody else uses; to be given back if, and only if, the kernels have left it clean."""
        free = self._free.get(steps)
        if free:
            try:
                return free.pop()
            except IndexError:  # another thread was faster
                pass
        return Memory(new_scratch(self.tpc, self.overlaps, steps))

    def give_back(self, steps: tuple[int, int, int], memory: Memory) -> None:
        """Keep working memory for the next call."""
        self._free.setdefault(steps, deque(maxlen=256)).append(memory)
        for old in list(self._free)[:-KEPT_SCRATCH]:  # a list, as other threads may change the dictionary
            self._free.pop(old, None)

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
        return disjoint(rows)


@dataclass
class _Piece:
    """Voxels of some slabs, in arrays that may be longer, and the kernel's ``progress``."""

    coords: npt.NDArray[np.uint16]
    charge: npt.NDArray[np.float32]
    live: npt.NDArray[np.uint8]
    progress: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, np.int64))

    @classmethod
    def empty(cls, n_planes: int) -> "_Piece":
        return cls(np.empty((0, 3), np.uint16), np.empty((0, n_planes), np.float32), np.empty(0, np.uint8))

    def resize(self, rows: int) -> None:
        # In place: that moves pages, not data.
        for array in (self.coords, self.charge, self.live):
            array.resize((rows, *array.shape[1:]), refcheck=False)

    def make_room(self, rows: int) -> None:
        # Half as much again, so that small arrays grow in few steps.
        self.resize(max(FIRST_ROOM, rows, min(len(self.coords) * 3 // 2, len(self.coords) + MOST_SPARE)))

    def trim(self) -> None:
        self.resize(int(self.progress[tiling.WRITTEN]))

    def drop(self) -> None:
        self.progress[tiling.WRITTEN] = 0
        self.resize(0)

    def append(self, other: "_Piece") -> None:
        begin = int(self.progress[tiling.WRITTEN])
        self.progress += other.progress
        if self.progress[tiling.WRITTEN] > len(self.coords):
            self.make_room(int(self.progress[tiling.WRITTEN]))
        for mine, theirs in ((self.coords, other.coords), (self.charge, other.charge), (self.live, other.live)):
            mine[begin : begin + len(theirs)] = theirs


@dataclass
class _Job:
    """One event's tiling: what its pieces share."""

    tiler: Tiler
    waveform: Waveform
    threshold: np.float32
    steps: tuple[int, int, int]
    bad: npt.NDArray[np.int64]
    min_live_planes: int
    first_tick: int
    max_voxels: int
    count_only: bool = False
    whole: Rows | None = None
    lit: Lit | None = None
    total: int = 0  # voxels of finished pieces
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find_lit(self, rows: Rows, first_row: int, threads: int = 1) -> Lit:
        """The lit samples of some rows. Raises InputError for a NaN or infinity."""
        try:
            return find_lit(rows, self.threshold, threads)
        except NotFiniteError as error:
            row, column = first_row + error.row, error.column
            raise InputError(
                f"The waveform is {self.waveform.values[row, column]} at tick {self.first_tick + row}, channel "
                f"{self.tiler.tpc.channels[column]} (column {column}). Fix: repair the input, or mark the channel bad "
                "and set it to 0."
            ) from error

    def tile(self, begin: int, end: int, piece: _Piece) -> None:
        """Tile rows begin … end, behind what the piece holds."""
        tiler, steps, n_rows = self.tiler, self.steps, end - begin
        memory = tiler.memory(steps)
        if self.whole is not None and self.lit is not None:
            rows, offset = self.whole, self.whole.offset + begin * self.whole.row
            memory.list_lit(self.lit, begin, end)
        else:
            rows = self.waveform.rows(begin, end)
            offset = rows.offset
            memory.list_lit(self.find_lit(rows, begin), 0, n_rows)
        count_only, progress = self.count_only, piece.progress
        progress[tiling.ROW] = 0
        while True:
            tile_slabs(
                rows.flat, offset, rows.row, rows.column, memory.lit_start, memory.lit_column, n_rows,
                self.first_tick + begin, steps[0], self.bad, self.min_live_planes,
                -(-tiler.tpc.frame.n_z // steps[2]), count_only, tiler.overlaps, memory.scratch, progress,
                piece.coords, piece.charge, piece.live,
            )  # fmt: skip
            if not progress[tiling.PENDING]:
                break
            needed = int(progress[tiling.WRITTEN] + progress[tiling.PENDING])
            if needed > self.max_voxels:  # go on, to tell how many there are
                count_only = self.count_only = True
                piece.drop()
            else:
                piece.make_room(needed)
        tiler.give_back(steps, memory)

    def finish(self, piece: _Piece) -> None:
        """Note a piece that may have to wait: without spare room, and without voxels if they are too many."""
        with self.lock:
            self.total += int(piece.progress[tiling.TOTAL])
            self.count_only |= self.total > self.max_voxels
        if self.count_only:
            piece.drop()
        piece.trim()


def _float32_below(threshold: float) -> np.float32:
    """The largest float32 ≤ threshold: float32 values lie above both or above none."""
    with np.errstate(over="ignore"):  # to infinity, which is right
        nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))
