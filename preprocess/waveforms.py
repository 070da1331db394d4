"""What a waveform may come as: any real array, digitised numbers with a scale, sparse regions of interest."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from preprocess.detector.model import Tpc
from preprocess.scanning import count_by_row, scan
from preprocess.threads import in_order

MOST_ROWS = 1024  # ticks that a thread takes at a time: its list of lit samples stays small
COPIED_ROWS = 128  # ticks that are converted at a time
PIECES = 16  # for each of several threads
PIECE_LIT = 100  # lit samples, all at one tick, that are worth a piece


class Rows(NamedTuple):
    """Some ticks of a waveform in memory: value (row, column) is ``flat[offset + row * row + column * column]``."""

    flat: npt.NDArray[np.float32]
    offset: int
    row: int
    column: int
    n_rows: int
    n_columns: int

    @property
    def by_row(self) -> bool:
        """Neighbours in memory are channels of one tick, else ticks of one channel."""
        return self.column == 1


@dataclass(frozen=True)
class Lit:
    """Bit maps of the lit samples: (rows, column words) if ``by_row``, else (columns, row words), uint64.

    ``some``: which of these rows or columns have a lit sample, bool.
    """

    bits: npt.NDArray[np.uint64]
    some: npt.NDArray[np.bool_]
    by_row: bool

    def by_tick(self, rows: int) -> npt.NDArray[np.int64]:
        """(rows,) number of lit samples."""
        counts = np.zeros(rows, np.int64)
        count_by_row(self.bits, self.some, self.by_row, counts)
        return counts


class NotFiniteError(Exception):
    """A NaN or infinity at ``row`` and ``column``."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__(row, column)
        self.row, self.column = row, column


def find_lit(rows: Rows, threshold: np.float32, threads: int = 1) -> Lit:
    """Bit maps of the samples above the threshold. NotFiniteError if there is a NaN or infinity."""
    lines, length, stride = rows.n_rows, rows.n_columns, rows.row
    if not rows.by_row:
        lines, length, stride = rows.n_columns, rows.n_rows, rows.column
    bits, some = np.empty((lines, -(-length // 64)), np.uint64), np.empty(lines, np.bool_)
    step = lines if threads == 1 else -(-lines // (4 * threads))

    def part(i: int) -> int:
        end = min(lines, (i + 1) * step)
        return int(scan(rows.flat, rows.offset, stride, length, i * step, end, threshold, bits, some))

    for wrong in in_order(part, -(-lines // step) if lines else 0, threads):
        if wrong >= 0:
            line, place = divmod(wrong - rows.offset, stride)
            raise NotFiniteError(*((line, place) if rows.by_row else (place, line)))
    return Lit(bits, some, rows.by_row)


class Waveform:
    """A checked waveform, of which a range of ticks can be had as float32 without a copy of the whole.

    Args:
        given: (ticks, channels) real numbers of any type and order, or a scipy.sparse matrix or array of that shape.
        tpc: whose channels the columns are.
        scale: factor to the unit of the threshold.

    Raises:
        InputError: another shape or type. ConfigError: a scale that is 0 or not finite.
    """

    def __init__(self, given: Any, tpc: Tpc, scale: float = 1.0) -> None:
        with np.errstate(over="ignore"):
            factor = np.float32(scale)
        if not np.isfinite(factor) or factor == 0:
            raise ConfigError(f"scale = {scale}. Fix: give a finite number other than 0, within float32.")
        self.sparse = hasattr(given, "tocsr")
        if isinstance(given, np.ma.MaskedArray):
            raise InputError("The waveform is a masked array. Fix: give .filled(0), and the masked channels as bad.")
        values = given.tocsr() if self.sparse else np.asarray(given)
        if values.ndim != 2 or values.shape[1] != len(tpc.channels):
            raise InputError(
                f"The waveform has shape {values.shape}, but TPC {tpc.number} of {tpc.detector} has "
                f"{len(tpc.channels)} channels. Fix: give (ticks, {len(tpc.channels)}), columns as tpc.channels."
            )
        if values.dtype.kind not in "fiu":
            raise InputError(f"The waveform has type {values.dtype}. Fix: give real numbers, float32 at best.")
        self.values, self.scale = values, factor
        contiguous = not self.sparse and (values.flags.c_contiguous or values.flags.f_contiguous)
        self.as_it_is = bool(contiguous and scale == 1 and values.dtype == np.float32)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def rows(self, begin: int, end: int) -> Rows:
        """The ticks begin … end as float32: in place where they are that, else converted."""
        n_columns = self.values.shape[1]
        if self.as_it_is:
            flat = self.values.ravel(order="K")
            row, column = (n_columns, 1) if self.values.flags.c_contiguous else (1, len(self))
            offset = begin * row
        else:
            part = self.values[begin:end]
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
                dense = part.toarray() if self.sparse else part  # type: ignore[union-attr]
                flat = np.array(dense, np.float32, order="C").ravel()
                flat *= self.scale
            row, column, offset = n_columns, 1, 0
        view = flat.view()
        view.flags.writeable = False  # always, so that one compiled kernel serves all
        return Rows(view, offset, row, column, end - begin, n_columns)

    def pieces(self, first_tick: int, slab_ticks: int, threads: int, lit: Lit | None = None) -> list[tuple[int, int]]:
        """Ranges of rows that end where a slab ends, in order: what one thread takes at a time.

        Several threads get pieces of about equal work, and not more of them than the lit samples are worth.
        """
        rows = len(self)
        most = MOST_ROWS if self.as_it_is else max(1, min(COPIED_ROWS, -(-rows // threads)))
        cuts = np.arange(0, rows, most)
        if lit is not None and threads > 1 and rows:
            # Crossings are pairs of lit wires and more.
            work = np.cumsum(lit.by_tick(rows).astype(np.float64) ** 2)
            number = min(PIECES * threads, max(threads, int(np.sqrt(work[-1]) // PIECE_LIT)))
            cuts = np.union1d(cuts, np.searchsorted(work, work[-1] * np.arange(1, number) / number))
        ends = -(-(cuts[cuts > 0] + first_tick) // slab_ticks) * slab_ticks - first_tick
        ends = np.unique([*ends[ends < rows], rows])
        return [(begin, end) for begin, end in itertools.pairwise([0, *ends.tolist()]) if begin < end]
