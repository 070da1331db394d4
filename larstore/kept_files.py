"""Files of a store that stay open for the next read: at a computing centre, opening one asks a server each time."""

import os
import resource
import threading
import weakref
from collections import deque
from pathlib import Path

from larstore.locations import Place, Url, open_plain, read_range

_granted = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
# Files of a process; where it is granted few, most are left to others.
MOST_OPEN = 64 if _granted == resource.RLIM_INFINITY else max(1, min(64, _granted // 8))
MOST_ROOM = 1 << 24  # bytes that a thread keeps for reading


class _Descriptor:
    """An open file, closed with the last thread that reads from it."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size

    def __del__(self) -> None:
        os.close(self.number)


class KeptFile:
    """A plain file that is opened by the first read, and again where others had to be opened since. OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: _Descriptor | None = None
        self.used = False  # since the last time that one had to be closed

    def read_end(self, size: int) -> bytes:
        """Its last ``size`` bytes, fewer where it has no more."""
        file = self._opened()
        return os.pread(file.number, size, max(file.size - size, 0))

    def read_into(self, room: memoryview, offset: int) -> int:
        """Fill ``room`` with the bytes from ``offset`` on; how many there were."""
        kept = self._open
        if kept is not None:
            self.used = True
            try:
                return os.preadv(kept.number, [room], offset)
            except OSError:
                self.close()  # a server that was started anew may not know what was open
        file = self._opened()  # held while it is read, whoever closes it meanwhile
        return os.preadv(file.number, [room], offset)

    def close(self) -> None:
        """Give the descriptor back."""
        self._open = None

    def _opened(self) -> _Descriptor:
        file = self._open = _Descriptor(*open_plain(self._path))
        self.used = False
        _kept.append(weakref.ref(self))
        while len(_kept) > MOST_OPEN:
            _close_one(_kept.popleft())
        return file


_kept: deque["weakref.ref[KeptFile]"] = deque()  # no lock, which a forked process might inherit closed
_thread = threading.local()


def _close_one(oldest: "weakref.ref[KeptFile]") -> None:
    """Close a file unless it was used since it was last asked; then it comes to the end of the line."""
    file = oldest()
    if file is not None and file.used:
        file.used = False
        _kept.append(oldest)
    elif file is not None:
        file.close()


def kept(file: Place) -> Url | KeptFile:
    """A file as ``read_end`` and ``read_briefly`` take it."""
    return file if isinstance(file, Url) else KeptFile(file)


def read_end(file: Url | KeptFile, size: int) -> bytes:
    """The last ``size`` bytes of a file. OSError."""
    return read_range(file, -size, size) if isinstance(file, Url) else file.read_end(size)


def read_briefly(file: Url | KeptFile, offset: int, size: int, before: int = 0) -> memoryview:
    """``size`` bytes of a file after ``before`` others, in this thread's room: they hold until it reads briefly again.

    Fewer where it ends. New memory for every chunk would be given back and taken anew, page by page, which takes as
    long as reading it. OSError.
    """
    room = _room(before + size)
    if isinstance(file, Url):
        data = read_range(file, offset, size)
        room[before : before + len(data)] = data
        return room[: before + len(data)]
    return room[: before + file.read_into(room[before:], offset)]


def _room(size: int) -> memoryview:
    """Memory of this thread; it is kept for the next time, unless it is large."""
    if size > MOST_ROOM:
        return memoryview(bytearray(size))
    held: bytearray = getattr(_thread, "room", bytearray())
    if len(held) < size:
        held = _thread.room = bytearray(size)
    return memoryview(held)[:size]
