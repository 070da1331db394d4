"""The only way files of a store are written: temporary file, write, fsync, rename, fsync of the directory.

Every primitive operation is announced to observers before it happens, so that tests can record it or stop there.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from larstore.errors import StoreError

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # what link says where there are none


class ExistsError(StoreError):
    """A path that must not exist yet is already there."""


@dataclass(frozen=True)
class Operation:
    """One primitive operation: kind is mkdir, write, fsync, link, rename, unlink or fsync_dir."""

    kind: str
    path: Path
    target: Path | None = None
    data: bytes | None = None


Observer = Callable[[Operation], None]
_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Call ``observer`` before every operation; what it raises takes the place of the operation."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _announce(kind: str, path: Path, target: Path | None = None, data: bytes | None = None) -> None:
    for observer in _observers:
        observer(Operation(kind, path, target, data))


def failure(path: Path, action: str, error: OSError) -> StoreError:
    """An OSError as the one line that a user reads."""
    reason = error.strerror or type(error).__name__
    return StoreError(
        f"{path}: cannot {action} ({reason}). Fix: check free space, permissions and that the path exists"
    )


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Any OSError inside becomes a ``failure`` to do ``action`` to ``path``."""
    try:
        yield
    except OSError as error:
        raise failure(path, action, error) from error


def content(path: Path) -> bytes | None:
    """What a file holds, None where there is none; StoreError for one that cannot be read."""
    with explained(path, "read"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with explained(path, "sync the directory"):
        _announce("fsync_dir", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make all names below a directory durable: what a killed writer left may be in sight without being so."""
    for directory in directories(path):
        sync_directory(directory)


def directories(path: Path) -> Iterator[Path]:
    """A directory and all below it, each before what it holds; StoreError for one that cannot be listed."""

    def refuse(error: OSError) -> None:
        raise failure(Path(error.filename or path), "list the directory", error) from error

    for directory, _, _ in os.walk(path, onerror=refuse):
        yield Path(directory)


def make_directories(path: Path) -> None:
    """Create a directory and its missing parents durably."""
    missing = []
    with explained(path, "create the directory"):
        while not path.is_dir():
            missing.append(path)
            path = path.parent
    for directory in reversed(missing):
        with explained(directory, "create the directory"):
            _announce("mkdir", directory)
            directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def _write_temporary(path: Path, data: bytes) -> Path:
    """Write ``data`` beside ``path`` under a name of its own."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _cleared(temporary, path, "write"):
        _announce("write", temporary, data=data)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            _announce("fsync", temporary)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return temporary


@contextmanager
def _cleared(temporary: Path, path: Path, action: str) -> Iterator[None]:
    """As ``explained``; what fails inside, or is refused, leaves no temporary file where it can be removed."""
    try:
        with explained(path, action):
            yield
    except StoreError:
        with suppress(StoreError):  # the first error is the one to tell
            remove(temporary)
        raise


def write_new(path: Path, data: bytes) -> None:
    """Write a file durably at a path that must not exist yet, else ``ExistsError``. The directory must exist."""
    temporary = _write_temporary(path, data)
    with _cleared(temporary, path, "link the new file"):
        try:
            _announce("link", temporary, path)
            os.link(temporary, path)
        except OSError as error:
            if error.errno in NO_LINKS:
                raise StoreError(
                    f"{path}: the file system makes no hard links ({error.strerror}); without them a new file might "
                    "overwrite another's. Fix: write to one that does (ext4, XFS, APFS, NFS, Lustre; not FAT or exFAT)"
                ) from error
            if not isinstance(error, FileExistsError):
                raise
            if temporary.stat().st_nlink < 2:  # else it is ours: a network file system lost the answer and asked again
                raise ExistsError(
                    f"{path}: exists already and would be overwritten. Fix: let one writer at a time run"
                ) from error
    remove(temporary)
    sync_directory(path.parent)


def replace(path: Path, data: bytes, check: Callable[[], None] | None = None) -> None:
    """Write a file whole over an old one; readers see either. ``check`` runs last before the rename and may raise."""
    temporary = _write_temporary(path, data)
    with _cleared(temporary, path, "replace"):
        if check is not None:
            check()
        _announce("rename", temporary, path)
        os.replace(temporary, path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with explained(path, "remove"):
        _announce("unlink", path)
        path.unlink(missing_ok=True)


def move_directory(source: Path, target: Path) -> None:
    """Give a finished directory its name; the name must not exist yet."""
    with explained(target, "create"):
        if target.exists() or target.is_symlink():
            raise ExistsError(f"{target}: exists already. Fix: choose another path, or remove it")
        _announce("rename", source, target)
        source.rename(target)
    sync_directory(target.parent)
