"""The only way files of a store are written: temporary file, write, fsync, rename, fsync of the directory.

Every primitive operation is announced to observers before it happens, so that tests can record it or stop there.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from larstore.errors import StoreError


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


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _announce("fsync_dir", path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(path, "sync the directory", error) from error


def make_directories(path: Path) -> None:
    """Create a directory and its missing parents durably."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        _announce("mkdir", directory)
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise failure(directory, "create the directory", error) from error
        sync_directory(directory.parent)


def _write_temporary(path: Path, data: bytes, sync: bool) -> Path:
    """Write ``data`` beside ``path`` under a name of its own."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    _announce("write", temporary, data=data)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if sync:
                _announce("fsync", temporary)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise failure(path, "write", error) from error
    return temporary


def write_new(path: Path, data: bytes) -> None:
    """Write a file durably at a path that must not exist yet, else ``ExistsError``. The directory must exist."""
    temporary = _write_temporary(path, data, sync=True)
    _announce("link", temporary, path)
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        remove(temporary)
        raise ExistsError(
            f"{path}: exists already and would be overwritten. Fix: let one writer at a time run"
        ) from error
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise failure(path, "link the new file", error) from error
    remove(temporary)
    sync_directory(path.parent)


def replace(path: Path, data: bytes, sync: bool = True, check: Callable[[], None] | None = None) -> None:
    """Write a file whole over an old one; readers see either. ``check`` runs last before the rename and may raise."""
    temporary = _write_temporary(path, data, sync)
    try:
        if check is not None:
            check()
        _announce("rename", temporary, path)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise failure(path, "replace", error) from error
    except StoreError:
        remove(temporary)
        raise
    if sync:
        sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    _announce("unlink", path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise failure(path, "remove", error) from error


def move_directory(source: Path, target: Path) -> None:
    """Give a finished directory its name; the name must not exist yet."""
    if target.exists() or target.is_symlink():
        raise ExistsError(f"{target}: exists already. Fix: choose another path, or remove it")
    _announce("rename", source, target)
    try:
        source.rename(target)
    except OSError as error:
        raise failure(target, "create", error) from error
    sync_directory(target.parent)
