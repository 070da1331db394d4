"""One training at a time writes to a run's directory: a second one would mix its states and tables with the first's."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from larstore.errors import ConfigError, LockedError, StoreError
from larstore.fs import NO_LINKS
from larstore.lock_files import DamagedLockError
from larstore.locks import DIRECTORY, Lock
from train.records.folder import RunFolder

NAME = "run"

log = logging.getLogger("larstore.train")

Saved = frozenset[tuple[str, int, int]]


def saved(folder: RunFolder) -> Saved:
    """The checkpoints there are now: name, time of writing, size."""
    found = set()
    for path in (folder.path / "checkpoints").glob("*.pth.tar"):
        try:
            about = path.stat()
        except FileNotFoundError:  # replaced or removed just now
            continue
        found.add((path.name, about.st_mtime_ns, about.st_size))
    return frozenset(found)


@contextmanager
def alone_in(folder: RunFolder, before: Saved) -> Iterator[None]:
    """Hold the run's lock, as the process that writes to its directory, which is made.

    A holder that ended without letting go of it is told by its process number, on another host by a heartbeat that
    stands still for three minutes.

    Args:
        folder: of the run.
        before: `saved` when it was decided where the training begins.

    Raises:
        ConfigError: another process trains into it, or did since ``before``; it cannot be written.
    """
    folder.make()
    lock = Lock(folder.path, NAME, break_lock=True)
    if not _acquired(lock, folder.path):
        yield
        return
    try:
        if saved(folder) != before:
            raise ConfigError(
                f"{folder.path}: another process has just trained into it. Fix: look at its state, then --resume"
            )
        yield
    finally:
        try:
            lock.release()
        except StoreError as error:  # the training itself has ended as it should
            log.warning("%s", error)


def _acquired(lock: Lock, path: Path) -> bool:
    """False, with a warning, where the file system has no means for it."""
    try:
        lock.acquire()
    except DamagedLockError as error:
        said = str(error).partition(" Fix: ")[0]
        raise ConfigError(
            f"{said} Fix: make sure that no process trains here, then remove {path / DIRECTORY}"
        ) from error
    except LockedError as error:
        holder = lock.state()
        who = f"process {holder.owner.pid} on {holder.owner.host}" if holder else "another process"
        raise ConfigError(
            f"{path}: {who} trains into it already. Fix: another output_dir, or wait for that to end"
        ) from error
    except StoreError as error:
        reason = error.__cause__
        if not isinstance(reason, OSError):
            raise
        if reason.errno not in NO_LINKS:
            raise ConfigError(f"{path}: {reason.strerror}. Fix: make it writable, or free space") from error
        log.warning("%s: no lock can be held here (%s): let one training at a time use it", path, reason.strerror)
        return False
    return True
