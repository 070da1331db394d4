"""Rows of one sharded array while they are read: which chunks are missing, how those are decoded, what is kept."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from larstore.codecs import CorruptError, check_packed, join, room_to_join, unpack_into, unpack_joined
from larstore.shards import MISSING, Array, Layout
from larstore.turning import turn

if TYPE_CHECKING:
    from larstore.reading import ShardReader

MOST_HELD = 1 << 23  # bytes of an array that are held for the rest of its last chunk

_thread = threading.local()


@dataclass
class Piece:
    """Rows [start, stop) of an array while they are read: ``whole`` has room for all rows of the chunks ``numbers``.

    ``out``: where the rows go in the end, of any type that holds them; None = they stay in ``whole``.
    ``shared``: others want the rest of its chunks, which are kept; the rows may lie in one of them.
    """

    reader: "ShardReader"
    start: int
    stop: int
    numbers: range
    whole: Array
    out: Array | None = None
    shared: bool = False

    @property
    def values(self) -> Array:
        """The rows that are asked for, where they are read to."""
        first = self.numbers.start * self.reader.layout.chunk_rows
        return self.whole[self.start - first : self.stop - first]

    @property
    def small(self) -> bool:
        """Whether most of the chunks is not asked for."""
        return 2 * (self.stop - self.start) < len(self.whole)

    def result(self) -> Array:
        """The rows, which hold little memory besides their own unless others share it."""
        if self.out is not None:
            return self.out
        return self.values.copy() if self.small and not self.shared else self.values

    def missing(self) -> list[int]:
        """Fill in the chunks that were kept; the numbers of all others."""
        kept = self.reader.kept(self.numbers, self.start)
        for number, chunk in kept.items():
            first = number * len(chunk)
            low, high = max(self.start, first), min(self.stop, first + len(chunk))
            room = self.values if self.out is None else self.out
            _copy(chunk[low - first : high - first], room[low - self.start : high - self.start])
        return [number for number in self.numbers if number not in kept]

    def runs(self, numbers: list[int], length: int) -> Iterator[list[int]]:
        """Up to ``length`` chunks that follow each other in one shard."""
        chunks, at = self.reader.layout.chunks, 0
        while at < len(numbers):
            end, first = min(at + length, len(numbers)), numbers[at]
            while numbers[end - 1] - first > end - 1 - at or numbers[end - 1] // chunks > first // chunks:
                end -= 1
            yield numbers[at:end]
            at = end

    def fill(self, run: list[int]) -> None:
        """Read and decode chunks of one shard."""
        layout, start, stop = self.reader.layout, self.start, self.stop
        shard, first = divmod(run[0], layout.chunks)
        entries = self.reader.index(shard, start, stop)[first : first + len(run)].tolist()
        before = room_to_join(len(run))
        places: list[tuple[int, int]] = []
        begin = end = entries[0][0]
        for inner, (offset, size) in enumerate(entries, first):
            if offset == MISSING:  # a shard is never rewritten, so this is what was (not) stored
                raise self.reader.damage(start, stop, f"chunk {inner} of shard {shard} is missing", shard)
            if offset != end:  # not as we write them; one at a time then
                for number in run:
                    self.fill([number])
                return
            places.append((before + offset - begin, size))
            end = offset + size
        memory = self.reader.bytes(shard, begin, end - begin, before, start, stop)
        if len(memory) < before + end - begin:
            raise self.reader.damage(start, stop, f"shard {shard}: its index points outside the file", shard)
        self._decode(run, memory, places)

    def _decode(self, run: list[int], memory: memoryview, places: list[tuple[int, int]]) -> None:
        layout, rows = self.reader.layout, self.reader.layout.chunk_rows
        first = (run[0] - self.numbers.start) * rows
        whole = self.whole[first : first + len(run) * rows]
        columns = None
        at = 0
        try:
            for at in range(len(places)):
                check_packed(memory, *places[at], layout.chunk_bytes)
            if layout.transposed:
                columns = _room(len(run) * layout.chunk_bytes).view(layout.dtype).reshape(-1, *layout.width, rows)
                if not _unpacked(layout, memory, places, columns):
                    for at, (start, size) in enumerate(places):
                        unpack_into(memory[start : start + size], columns[at])
            # From front to back: what joins chunks is written over the bytes before them.
            for begin, end, straight in self._parts(run):
                low, high = max(self.start, run[begin] * rows), min(self.stop, (run[end - 1] + 1) * rows)
                goal = None if self.out is None else self.out[low - self.start : high - self.start]
                out = goal if straight and goal is not None else whole[begin * rows : end * rows]
                if columns is not None:
                    turn(columns[begin:end], out)
                elif not _unpacked(layout, memory, places[begin:end], out):
                    for at in range(begin, end):
                        start, size = places[at]
                        unpack_into(memory[start : start + size], out[(at - begin) * rows :][:rows])
                if goal is not None and out is not goal:
                    _copy(out[low - run[begin] * rows : high - run[begin] * rows], goal)
        except CorruptError as error:
            shard, inner = divmod(run[at], layout.chunks)
            what = f"chunk {inner} of shard {shard}: {error}"
            raise self.reader.damage(self.start, self.stop, what, shard) from error
        self._keep(run, whole)

    def _parts(self, run: list[int]) -> list[tuple[int, int, bool]]:
        """Chunks [begin, end) of a run that are decoded together; whether straight to ``out``.

        Those are whole chunks of the rows asked for, and more than one: each part is another call.
        """
        layout, out = self.reader.layout, self.out
        begin = int(run[0] * layout.chunk_rows < self.start)
        end = len(run) - int((run[-1] + 1) * layout.chunk_rows > self.stop)
        fits = out is not None and (layout.transposed or (out.dtype == layout.dtype and out.flags.c_contiguous))
        if not fits or end - begin < 2:
            return [(0, len(run), False)]
        bounds = ((0, begin, False), (begin, end, True), (end, len(run), False))
        return [part for part in bounds if part[0] < part[1]]

    def _keep(self, run: list[int], out: Array) -> None:
        """Keep the chunks that are shared with a neighbour: of a large image the last one, where that takes no copy.

        Both where images come in any order, one of their neighbours later.
        """
        rows = self.reader.layout.chunk_rows
        if self.small or (self.reader.scattered and (self.shared or self.out is not None)):
            for number in run:
                if number * rows < self.start or self.stop < (number + 1) * rows:
                    chunk = out[(number - run[0]) * rows :][:rows]
                    # A copy where it would hold on to the memory of many others, or of those that asked.
                    ours = self.small or len(self.numbers) <= 2
                    self.reader.keep(number, chunk if ours else chunk.copy(order="K"))
        elif self.stop < (run[-1] + 1) * rows and self.whole.nbytes <= MOST_HELD:
            self.reader.keep_rest(run[-1], self.stop, out[-rows:])


def _copy(rows: Array, out: Array) -> None:
    """Fill ``out`` with ``rows`` of perhaps another type; by columns then, which is three times as fast."""
    if rows.dtype == out.dtype or rows.ndim == 1:
        out[:] = rows
    else:
        for column in range(rows.shape[1]):
            out[:, column] = rows[:, column]


def _unpacked(layout: Layout, memory: memoryview, places: list[tuple[int, int]], out: Array) -> bool:
    """Whether chunks could be decoded together; else each by itself tells which one cannot."""
    joined = join(memory, places, layout.chunk_bytes)
    if joined is None:
        return False
    try:
        unpack_joined(joined, out)
    except CorruptError:
        return False
    return True


def _room(size: int) -> Array:
    """Memory of this thread, uint8, which is kept for the next time."""
    held: Array = getattr(_thread, "room", np.empty(0, np.uint8))
    if len(held) < size:
        held = _thread.room = np.empty(size, np.uint8)
    return held[:size]
