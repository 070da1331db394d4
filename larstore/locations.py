"""Where a store lies: a local directory, or a URL that fsspec reads. Reads files of it whole or in part, never more."""

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from larstore.errors import StoreError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])")  # one slash: what a Path makes of two
CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
READABLE = "Fix: check permissions, limits and the connection; nothing says that it is damaged"
GONE = (errno.ENOENT, errno.ENOTDIR)
READERS = 16  # requests in flight
OBSTORE = "obstore.fsspec"

T = TypeVar("T")


class WrongFileError(OSError):
    """What is there is no plain file, or a larger one than it can be: it was read, and it is not what it should be."""


def is_lost(error: OSError) -> bool:
    """Whether a file is certainly not there as it should be; else it may be read with other rights, or later."""
    return isinstance(error, WrongFileError) or error.errno in GONE


class _Source:
    """A file system of fsspec's and the URL that was given; pickles without connections."""

    def __init__(self, url: str, options: Mapping[str, Any], with_obstore: bool = False) -> None:
        self.url = url.rstrip("/")
        self._options = dict(options)
        self._with_obstore = with_obstore
        self._opened: tuple[int, Any, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # What was registered with fsspec is lost on the way to a worker process, obstore among it.
        with_obstore = self._with_obstore or (self._opened is not None and _made_in(OBSTORE, type(self._opened[1])))
        return _Source, (self.url, self._options, with_obstore)

    def open(self) -> tuple[Any, str]:
        """File system and path; made anew in a forked process, which lacks the threads of its parent's."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                if self._with_obstore:
                    import_module(OBSTORE).register(self.url.partition("://")[0])
                core: Any = import_module("fsspec.core")
                self._opened = (os.getpid(), *core.url_to_fs(self.url, **self._settings()))
            except (ImportError, ValueError, TypeError) as error:
                fix = "Fix: pip install 'larstore[remote]', or fsspec's package for this kind of URL"
                raise StoreError(f"{self.url}: cannot read from such a URL ({_brief(error)}). {fix}") from error
        return self._opened[1], self._opened[2].rstrip("/")

    def _settings(self) -> dict[str, Any]:
        scheme = self.url.partition("://")[0]
        if scheme not in ("http", "https"):
            return self._options
        if not _made_in("fsspec.implementations.http", import_module("fsspec").get_filesystem_class(scheme)):
            return self._options  # whatever reads it instead has other options
        # A compressed answer would have other ranges.
        return self._options | {"headers": {"Accept-Encoding": "identity"} | self._options.get("headers", {})}


def _made_in(module: str, kind: type) -> bool:
    """Whether a class, or one that it extends, is of this module."""
    return any(part.__module__ == module for part in kind.__mro__)


class Url:
    """A store, or a file of it, at a URL: what reading needs of a ``Path``, and no more."""

    def __init__(self, source: _Source, inner: str = "") -> None:
        self._source = source
        self._inner = inner

    def __truediv__(self, name: str) -> "Url":
        return Url(self._source, f"{self._inner}/{name}")

    def __str__(self) -> str:
        return f"{self._source.url}{self._inner}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return Url, (self._source, self._inner)

    @property
    def name(self) -> str:
        """What comes after the last slash."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The directory of a file of a store."""
        return Url(self._source, self._inner.rpartition("/")[0])

    def resolve(self) -> "Url":
        """Itself: a URL has no links."""
        return self

    def cat(self, start: int | None, end: int | None) -> bytes:
        """Bytes [start, end) of the file; a negative start counts from its end. OSError with a reason."""
        filesystem, root = self._source.open()
        wanted = -start if start is not None and start < 0 else (end or 0) - (start or 0)
        data = _asked_twice(lambda: _fetch(filesystem, root + self._inner, start, end))
        if len(data) > wanted:
            raise OSError(errno.ENOTSUP, "the server knows no range requests, or the file is too large")
        return data


Place: TypeAlias = Path | Url


def place_of(path: "str | os.PathLike[str] | Url", storage_options: Mapping[str, Any] | None = None) -> Place:
    """The place that a user names: a path, or any URL of fsspec's. ``storage_options`` are fsspec's own."""
    if isinstance(path, Url):
        return path
    text = os.fspath(path)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if URL.match(text) or CHAINED.match(text):
        return Url(_Source(URL.sub(r"\1://", text, count=1), storage_options or {}))
    return Path(text)


def local_path(path: "str | os.PathLike[str] | Url") -> Path:
    """The directory that a writer is given; StoreError for a URL."""
    place = place_of(path)
    if isinstance(place, Url):
        raise StoreError(f"{place}: a URL can only be read. Fix: write to a local path, and copy the store there")
    return place


def read_file(file: Place, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes. OSError; also for what is no plain file, or a larger one."""
    if isinstance(file, Url):
        data = file.cat(0, limit + 1)
        if len(data) > limit:
            raise WrongFileError(errno.EFBIG, f"more than the {limit} bytes that are expected at most")
        return data
    return _with_file(file, lambda descriptor, size: _whole(descriptor, size, limit))


def read_range(file: Place, offset: int, size: int) -> bytes:
    """``size`` bytes of a file, fewer where it ends; a negative offset counts from its end. OSError."""
    if isinstance(file, Url):
        return file.cat(offset, offset + size if offset >= 0 else None)

    def read(descriptor: int, total: int) -> bytes:
        return os.pread(descriptor, size, offset if offset >= 0 else max(total + offset, 0))

    return _with_file(file, read)


def _whole(descriptor: int, size: int, limit: int) -> bytes:
    if size > limit:
        raise WrongFileError(errno.EFBIG, f"{size} bytes where at most {limit} are expected")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(limit)


def _with_file(path: Path, read: Callable[[int, int], T]) -> T:
    """``read(descriptor, size)`` of an open plain file."""
    descriptor, size = open_plain(path)
    try:
        return read(descriptor, size)
    finally:
        os.close(descriptor)


def open_plain(path: Path) -> tuple[int, int]:
    """Descriptor and size of a plain file; OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK  # a pipe in the place of a file must not hold us
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        os.listdir(path.parent)  # a network file system may remember that it was not there yet
        descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise WrongFileError(errno.EINVAL, "not a plain file")
        return descriptor, found.st_size
    except OSError:
        os.close(descriptor)
        raise


def _asked_twice(fetch: Callable[[], bytes]) -> bytes:
    """What ``fetch`` returns; asked once more where it fails, since a new object may not be seen everywhere yet."""
    try:
        return fetch()
    except OSError:
        return fetch()


def _fetch(filesystem: Any, path: str, start: int | None, end: int | None) -> bytes:
    """Bytes of a remote file; errors of whatever library reads it become an OSError with one line."""
    try:
        try:
            return bytes(filesystem.cat_file(path, start=start, end=end))
        except NotImplementedError:  # obstore's: no ranges that count from the end
            size = _size(filesystem, path)
            first = size + start if start is not None and start < 0 else start or 0
            return bytes(filesystem.cat_file(path, start=max(first, 0), end=size)) if size else b""
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "not found") from error
    except _failures() as error:
        status = getattr(error, "status", None)
        if status == 416:  # the file ends before
            return b""
        raise OSError(errno.EIO, f"{status or ''} {_brief(error)}".strip()) from error


def _size(filesystem: Any, path: str) -> int:
    """Size of a remote file."""
    try:
        return int(filesystem.info(path)["size"])
    except _failures():
        filesystem.cat_file(path, start=0, end=1)  # info may have looked for a directory; this tells what is wrong
        raise


def _brief(error: Exception) -> str:
    """What an error says, in one line; without the dump that obstore adds to it."""
    text = str(getattr(error, "message", "") or error).partition("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


def _failures() -> tuple[type[Exception], ...]:
    """What reading a URL can raise; aiohttp, which fsspec reads http with, and obstore have errors of their own."""
    kinds: list[type[Exception]] = [OSError, ValueError, TypeError, RuntimeError]
    for module, name in (("aiohttp", "ClientError"), ("obstore.exceptions", "BaseError")):
        if module.partition(".")[0] in sys.modules:  # else it has raised nothing
            kinds.append(getattr(import_module(module), name))
    return tuple(kinds)
