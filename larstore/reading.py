"""Reads rows of sharded arrays, several arrays at once, in threads; checks every index and every chunk it touches."""

import functools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from larstore.codecs import alone
from larstore.cores import cores
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.kept_files import KeptFile, kept, read_briefly, read_end
from larstore.locations import READABLE, READERS, Place, Url, is_lost
from larstore.pieces import Piece
from larstore.shards import MISSING, Array, Layout, decode_index

CACHED_CHUNKS = 16  # decoded chunks kept per array: neighbouring small images share them
CACHED_INDICES = 4096
MOST_THREADS = 8
CHECKED_BYTES = 1 << 26  # memory for more is only taken once it is clear that the rows are there
RUN_CHUNKS = 8  # the most chunks that a thread reads from a file at once
EFFORT = {"zstd": 2.5, "zlib": 6}  # time that a byte takes to read, check and decode, beside lz4

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


_processes = 1
_thread = threading.local()
_pool_lock = threading.Lock()
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}


_cores = functools.cache(cores)


def n_threads() -> int:
    """Threads that decode for this one: one a core that this process may use, 8 at most; see ``share_cores``."""
    share: int = getattr(_thread, "share", 1)
    return max(1, min(MOST_THREADS, _cores() // _processes) // share)


def share_cores(processes: int) -> None:
    """Say that so many processes decode side by side, of which this is one."""
    global _processes
    _processes = processes


@contextmanager
def reading_beside(n: int) -> Iterator[None]:
    """In here, this thread reads as one of ``n`` of its process that do so at the same time."""
    before, _thread.share = getattr(_thread, "share", 1), n
    try:
        yield
    finally:
        _thread.share = before


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
    readers: "Sequence[ShardReader]", start: int, stop: int, out: Sequence[Array | None] | None = None
) -> list[Array]:
    """Rows [start, stop) of several arrays, one array (rows, *width) each: new ones, or ``out``."""
    rooms = [None] * len(readers) if out is None else out
    return read_pieces([reader.piece(start, stop, room) for reader, room in zip(readers, rooms, strict=True)])


def read_pieces(pieces: Sequence[Piece]) -> list[Array]:
    """The rows of several pieces, of any arrays, an array each."""
    numbers = [piece.missing() for piece in pieces]
    # At a URL, threads wait for answers and not for cores, and all runs take alike.
    remote = any(isinstance(piece.reader.root, Url) for piece in pieces)
    threads = READERS if remote else n_threads()
    efforts = [1.0 if remote else piece.reader.effort for piece in pieces]
    # No run longer than a thread's share, that all may end together, and no more runs than that takes: a thread that
    # opens a file or asks for Python's lock waits for the others.
    share = sum(len(chunks) * effort for chunks, effort in zip(numbers, efforts, strict=True)) / threads
    runs = [
        (piece, run)
        for piece, chunks, effort in zip(pieces, numbers, efforts, strict=True)
        for run in piece.runs(chunks, min(RUN_CHUNKS, math.ceil(share / effort)))
    ]
    if remote:
        runs.sort(key=lambda task: -task[1][0])  # all arrays begin: only one asks for a shard's index
    else:
        runs.sort(key=lambda task: len(task[1]) * task[0].reader.effort)  # what takes longest is taken first

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

    # A task a thread, not a run: handing one over takes as long as decoding a chunk. Who works need not be woken.
    few = len(runs) <= (1 if remote else 2)
    others = [] if few else [pool(threads).submit(work) for _ in range(min(threads, len(runs)) - 1)]
    with alone():
        work()
    for task in others:
        if not task.cancel():  # nothing was left for it
            task.result()
    return [piece.result() for piece in pieces]


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
        self._next: tuple[int, int, Array] | None = None
        self._lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._files: dict[int, Url | KeptFile] = {}
        self.cached_chunks = CACHED_CHUNKS
        self.scattered = False  # whether neighbours are asked for at any other time
        self.effort = layout.chunk_bytes * EFFORT.get(layout.cname, 1)

    def read(self, start: int, stop: int) -> Array:
        """Rows [start, stop) as an array (rows, *width)."""
        (values,) = read_together([self], start, stop)
        return values

    def piece(self, start: int, stop: int, out: Array | None = None, shared: bool = False) -> Piece:
        """Rows [start, stop) that are to be read to new room or to ``out``; see ``Piece``."""
        layout = self.layout
        if start < 0 or stop > layout.rows:
            raise self.damage(start, stop, f"rows {start}:{stop} lie outside the array's {layout.rows}")
        shape = (max(stop - start, 0), *layout.width)
        if out is not None and out.shape != shape:
            raise ValueError(f"{layout.path}: rows {start}:{stop} have shape {shape}, their room {out.shape}")
        if (stop - start) * layout.row_bytes > CHECKED_BYTES:
            self.expect(start, stop)
        numbers = range(start // layout.chunk_rows, -(-stop // layout.chunk_rows) if stop > start else 0)
        try:
            whole = np.empty((len(numbers) * layout.chunk_rows, *layout.width), dtype=layout.dtype)
            return Piece(self, start, max(start, stop), numbers, whole, out, shared)
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

    def kept(self, numbers: range, start: int) -> dict[int, Array]:
        """Those of these chunks that were kept, for rows from ``start`` on."""
        found = {}
        with self._lock:
            if self._next is not None and self._next[0] in numbers and self._next[1] <= start:
                found[self._next[0]] = self._next[2]
            if self._chunks:
                for number in numbers:
                    if number in self._chunks:
                        self._chunks.move_to_end(number)
                        found[number] = self._chunks[number]
        return found

    def keep(self, number: int, chunk: Array) -> None:
        """Keep a decoded chunk, which nobody else holds, for its other rows."""
        with self._lock:
            self._chunks[number] = chunk
            while len(self._chunks) > self.cached_chunks:
                self._chunks.popitem(last=False)

    def keep_rest(self, number: int, start: int, chunk: Array) -> None:
        """Keep the rows from ``start`` on of a chunk whose others were given away: the next image begins there."""
        with self._lock:
            self._next = (number, start, chunk)

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
            table = self._asked(shard, start, stop, lambda file: read_end(file, size))
            try:
                index = decode_index(self.layout, table)
            except ValueError as error:
                raise self.damage(start, stop, f"index of shard {shard}: {error}", shard) from error
            with self._lock:
                self._indices[shard] = index
                while len(self._indices) > CACHED_INDICES:
                    self._indices.popitem(last=False)
            return index

    def bytes(self, shard: int, offset: int, size: int, before: int, start: int, stop: int) -> memoryview:
        """Bytes of a shard's file after ``before`` others, fewer where it ends; see ``read_briefly``."""
        return self._asked(shard, start, stop, lambda file: read_briefly(file, offset, size, before))

    def _asked(self, shard: int, start: int, stop: int, read: Callable[[Url | KeptFile], B]) -> B:
        file = self._files.get(shard)
        if file is None:
            file = self._files[shard] = kept(self.root / self.layout.file(shard))
        try:
            return read(file)
        except FileNotFoundError as error:
            raise self.damage(start, stop, f"shard {shard} is missing", shard) from error
        except OSError as error:
            what = f"shard {shard} cannot be read ({error.strerror or type(error).__name__})"
            if is_lost(error):
                raise self.damage(start, stop, what, shard) from error
            whole = f"{self.root / self.layout.file(shard)}: array {self.layout.path}, {what}"
            raise UnreadableShardError(whole, self._owners(start, stop), READABLE) from error

    def damage(self, start: int, stop: int, what: str, shard: int | None = None) -> DamageError:
        """The error for rows that cannot be had. A shard may be restored: its file is opened again then."""
        if shard is not None:
            self._files.pop(shard, None)
        file = self.root / (self.layout.path if shard is None else self.layout.file(shard))
        fix = f"Fix: restore the file, or list all damage with 'larstore verify {self.root}'"
        return ShardDamageError(f"{file}: array {self.layout.path}, {what}", self._owners(start, stop), fix)
