"""Reads rows of sharded arrays, several arrays at once, in threads; checks every index and every chunk it touches."""

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from larstore.codecs import CorruptError
from larstore.cores import cores
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.locations import READABLE, READERS, Place, Url, is_lost, read_briefly, read_range
from larstore.shards import MISSING, Array, Layout, decode_chunk, decode_index

CACHED_CHUNKS = 16  # decoded chunks kept per array: neighbouring small images share them
CACHED_INDICES = 4096
MOST_THREADS = 8
CHECKED_BYTES = 1 << 26  # memory for more is only taken once it is clear that the rows are there
RUN_CHUNKS = 8  # the most chunks that a thread reads from a file at once
RUNS_A_THREAD = 2  # where there are fewer chunks than that

B = TypeVar("B", bytes, memoryview)


class _ShardError(StoreError):
    """``what`` names file, array and shard; ``images`` those that were being read."""

    def __init__(self, what: str, images: str, fix: str) -> None:
        super().__init__(f"{what}; images {images}. {fix}")
        self.what = what
        self._parts = (what, images, fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts


class ShardDamageError(_ShardError, DamageError):
    """Damage in a sharded array."""


class UnreadableShardError(_ShardError, UnreadableError):
    """A shard of which nobody can tell what it holds."""


_pool_lock = threading.Lock()
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}


@functools.cache
def n_threads() -> int:
    """Threads that decode: one a core that this process may use, 8 at most."""
    return min(MOST_THREADS, cores())


def pool(threads: int | None = None) -> ThreadPoolExecutor:
    """Threads that read and decode, ``n_threads()`` unless told; made anew in a forked process, which lacks them."""
    threads = threads or n_threads()
    with _pool_lock:
        owner, found = _pools.get(threads, (0, None))
        if found is None or owner != os.getpid():
            found = ThreadPoolExecutor(threads, "larstore-decode")
            _pools[threads] = (os.getpid(), found)
        return found


def read_together(
    readers: "Sequence[ShardReader]", start: int, stop: int, out: Sequence[Array] | None = None
) -> list[Array]:
    """Rows [start, stop) of several arrays, one array (rows, *width) each: new ones, or ``out``."""
    rooms = [None] * len(readers) if out is None else out
    pieces = [reader.piece(start, stop, room) for reader, room in zip(readers, rooms, strict=True)]
    numbers = [piece.missing() for piece in pieces]
    # At a URL, threads wait for answers and not for cores.
    threads = READERS if any(isinstance(reader.root, Url) for reader in readers) else n_threads()
    # So few chunks at a time that all threads end together, and no fewer: a thread that opens a file or asks for
    # Python's lock waits for the others. A server's answers may take longer or shorter.
    shares = n_threads() * (RUNS_A_THREAD if threads == n_threads() else 2 * RUNS_A_THREAD)
    length = max(1, min(RUN_CHUNKS, -(-sum(map(len, numbers)) // shares)))
    runs = [(piece, run) for piece, chunks in zip(pieces, numbers, strict=True) for run in piece.runs(chunks, length)]
    runs.sort(key=lambda task: len(task[1]) * task[0].reader.layout.chunk_bytes)  # the largest ones are taken first

    def work() -> None:
        try:
            while True:
                try:
                    piece, run = runs.pop()
                except IndexError:
                    return
                piece.fill(run)
        finally:
            runs.clear()  # after an error nobody needs the rest

    if len(runs) <= (2 if threads == n_threads() else 1):
        work()
    else:
        # A task a thread, not a run: handing one over takes as long as decoding a chunk.
        for task in [pool(threads).submit(work) for _ in range(min(threads, len(runs)))]:
            task.result()
    return [piece.values for piece in pieces]


class ShardReader:
    """Reads rows of one sharded array. Whatever is missing or fails a checksum is a DamageError, never a number.

    UnreadableError for a file that is there and cannot be read.
    ``owners(start, stop)`` names the images in a range of rows, for the messages.
    """

    def __init__(self, root: Place, layout: Layout, owners: Callable[[int, int], str]) -> None:
        self.root = root
        self.layout = layout
        self._owners = owners
        self._indices: OrderedDict[int, npt.NDArray[np.uint64]] = OrderedDict()
        self._chunks: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()
        self._index_lock = threading.Lock()

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as an array (rows, *width)."""
        (values,) = read_together([self], start, stop)
        return values

    def piece(self, start: int, stop: int, out: Array | None = None) -> "_Piece":
        """Rows [start, stop) that are to be read to new room or to ``out``."""
        layout = self.layout
        if start < 0 or stop > layout.rows:
            raise self.damage(start, stop, f"rows {start}:{stop} lie outside the array's {layout.rows}")
        shape = (max(stop - start, 0), *layout.width)
        if out is not None:
            if out.shape != shape:
                raise ValueError(f"{layout.path}: rows {start}:{stop} have shape {shape}, their room {out.shape}")
            return _Piece(self, start, stop, out)
        if shape[0] * layout.row_bytes > CHECKED_BYTES:
            self.expect(start, stop)
        try:
            return _Piece(self, start, stop, np.empty(shape, dtype=layout.dtype))
        except MemoryError as error:
            what = f"{self.root}: array {layout.path}, rows {start}:{stop} do not fit the memory"
            raise StoreError(f"{what}. Fix: read fewer images at once") from error

    def expect(self, start: int, stop: int) -> None:
        """DamageError if a chunk of rows [start, stop) is not there; reads only the shards' indices."""
        layout = self.layout
        numbers = range(start // layout.chunk_rows, -(-stop // layout.chunk_rows))
        for shard in range(start // layout.shard_rows, -(-stop // layout.shard_rows)):
            low = max(numbers.start - shard * layout.chunks, 0)
            high = min(numbers.stop - shard * layout.chunks, layout.chunks)
            gaps = np.flatnonzero(self.index(shard, start, stop)[low:high, 0] == MISSING)
            if len(gaps):
                raise self.damage(start, stop, f"chunk {low + int(gaps[0])} of shard {shard} is missing", shard)

    def cached(self, number: int) -> Array | None:
        """A decoded chunk that was kept."""
        with self._lock:
            if number in self._chunks:
                self._chunks.move_to_end(number)
            return self._chunks.get(number)

    def keep(self, number: int, chunk: Array) -> None:
        """Keep a decoded chunk for its other rows."""
        with self._lock:
            self._chunks[number] = chunk
            while len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)

    def index(self, shard: int, start: int, stop: int) -> npt.NDArray[np.uint64]:
        """A shard's (chunks, 2) offsets and sizes; ``start`` and ``stop`` are the rows that are asked for."""
        with self._lock:
            if shard in self._indices:
                return self._indices[shard]
        with self._index_lock:  # threads that begin a shard together ask for it once
            with self._lock:
                if shard in self._indices:
                    return self._indices[shard]
            size = self.layout.index_bytes
            table = self._asked(shard, start, stop, lambda file: read_range(file, -size, size))
            try:
                index = decode_index(self.layout, table)
            except ValueError as error:
                raise self.damage(start, stop, f"index of shard {shard}: {error}", shard) from error
            with self._lock:
                self._indices[shard] = index
                while len(self._indices) > CACHED_INDICES:
                    self._indices.popitem(last=False)
            return index

    def bytes(self, shard: int, offset: int, size: int, start: int, stop: int) -> memoryview:
        """Bytes of a shard's file, fewer where it ends; they hold until this thread asks for others."""
        return self._asked(shard, start, stop, lambda file: read_briefly(file, offset, size))

    def _asked(self, shard: int, start: int, stop: int, read: Callable[[Place], B]) -> B:
        try:
            return read(self.root / self.layout.file(shard))
        except FileNotFoundError as error:
            raise self.damage(start, stop, f"shard {shard} is missing", shard) from error
        except OSError as error:
            what = f"shard {shard} cannot be read ({error.strerror or type(error).__name__})"
            if is_lost(error):
                raise self.damage(start, stop, what, shard) from error
            file = self.root / self.layout.file(shard)
            whole = f"{file}: array {self.layout.path}, {what}"
            raise UnreadableShardError(whole, self._owners(start, stop), READABLE) from error

    def damage(self, start: int, stop: int, what: str, shard: int | None = None) -> DamageError:
        """The error for rows that cannot be had."""
        file = self.root / (self.layout.path if shard is None else self.layout.file(shard))
        fix = f"Fix: restore the file, or list all damage with 'larstore verify {self.root}'"
        return ShardDamageError(f"{file}: array {self.layout.path}, {what}", self._owners(start, stop), fix)


@dataclass
class _Piece:
    """Rows [start, stop) of an array while they are read to ``values``."""

    reader: ShardReader
    start: int
    stop: int
    values: Array

    @property
    def takes_chunks(self) -> bool:
        """Whether chunks can be decoded into ``values``: column by column, or because they lie there as in a chunk."""
        layout = self.reader.layout
        return layout.transposed or (self.values.dtype == layout.dtype and self.values.flags.c_contiguous)

    def missing(self) -> list[int]:
        """Fill in the chunks that were kept; the numbers of all others."""
        rows = self.reader.layout.chunk_rows
        numbers = range(self.start // rows, -(-self.stop // rows)) if self.stop > self.start else range(0)
        return [number for number in numbers if not self._fill_cached(number)]

    def _fill_cached(self, number: int) -> bool:
        chunk = self.reader.cached(number)
        if chunk is not None:
            self._copy(number, chunk)
        return chunk is not None

    def _copy(self, number: int, chunk: Array) -> None:
        first = number * len(chunk)
        low, high = max(self.start, first), min(self.stop, first + len(chunk))
        self.values[low - self.start : high - self.start] = chunk[low - first : high - first]

    def runs(self, numbers: list[int], length: int) -> Iterator[list[int]]:
        """Up to ``length`` chunks that follow each other in one shard."""
        run: list[int] = []
        for number in numbers:
            if run and (number != run[-1] + 1 or len(run) == length or number % self.reader.layout.chunks == 0):
                yield run
                run = []
            run.append(number)
        if run:
            yield run

    def fill(self, run: list[int]) -> None:
        """Read and decode chunks of one shard."""
        layout, start, stop = self.reader.layout, self.start, self.stop
        shard, first = divmod(run[0], layout.chunks)
        entries = self.reader.index(shard, start, stop)[first : first + len(run)].tolist()
        for inner, (offset, _) in enumerate(entries, first):
            if offset == MISSING:  # a shard is never rewritten, so this is what was (not) stored
                raise self.reader.damage(start, stop, f"chunk {inner} of shard {shard} is missing", shard)
        begin, end = entries[0][0], entries[0][0]
        for offset, size in entries:
            if offset != end:  # not as we write them; one at a time then
                for number in run:
                    self.fill([number])
                return
            end = offset + size
        blob = self.reader.bytes(shard, begin, end - begin, start, stop)
        if len(blob) < end - begin:
            raise self.reader.damage(start, stop, f"shard {shard}: its index points outside the file", shard)
        for number, (offset, size) in zip(run, entries, strict=True):
            self._decode(number, blob[offset - begin : offset - begin + size])

    def _decode(self, number: int, blob: memoryview) -> None:
        layout, start, stop = self.reader.layout, self.start, self.stop
        at = number * layout.chunk_rows - start
        whole = at >= 0 and at + layout.chunk_rows <= len(self.values)
        direct = whole and self.takes_chunks
        if direct:
            chunk = self.values[at : at + layout.chunk_rows]
        else:
            chunk = np.empty((layout.chunk_rows, *layout.width), dtype=layout.dtype)
        try:
            decode_chunk(layout, blob, chunk)
        except CorruptError as error:
            shard, inner = divmod(number, layout.chunks)
            raise self.reader.damage(start, stop, f"chunk {inner} of shard {shard}: {error}", shard) from error
        if not whole:  # shared with a neighbour
            self.reader.keep(number, chunk)
        if not direct:
            self._copy(number, chunk)
