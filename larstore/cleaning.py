"""Removing debris, on request: under all locks of a store, and only what is old.

A worker may outlive its coordinator, and nobody can see from here whether one does. What it writes can do no harm: its
receipt is refused, and its shards are never handed out again. A coordinator that stood still can: it may have looked
at its lock just before somebody broke it, and commit just after. So debris is kept until no process can have slept for
so long.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from larstore import fs
from larstore.debris import Debris, find, half_made
from larstore.errors import StoreError
from larstore.locations import local_path
from larstore.locks import WAIT_SECONDS, Lock, is_gone, lock_names
from larstore.root import read_root
from larstore.workshop import LOCK as BUILD_LOCK
from larstore.workshop import dismantle

KEEP_DAYS = 7.0
DAY_SECONDS = 86400.0


def removable(path: Path, keep_days: float = KEEP_DAYS) -> list[Debris]:
    """What ``clean`` would remove now, by this machine's clock; takes no lock. Raises as ``find`` does."""
    path = local_path(path)
    return _old([*find(path, read_root(path)), *half_made(path)], time.time(), keep_days)


def clean(path: Path, keep_days: float = KEEP_DAYS) -> list[Debris]:
    """Remove the debris that was written ``keep_days`` ago or earlier; returns what was removed.

    Takes all locks of the store: LockedError, and nothing is removed, while any of them is held. Raises as ``find``
    does, StoreError for a file that cannot be removed.
    """
    path = local_path(path)
    root = read_root(path)  # before a lock file is made: an error for what is no store
    branches = sorted({"images", *(d.lock for d in find(path, root)), *lock_names(path)} - {"root"})
    with ExitStack() as stack:
        locks = [stack.enter_context(Lock(path, name)) for name in branches]
        locks.append(stack.enter_context(Lock(path, "root", wait=WAIT_SECONDS)))
        held = {lock.name for lock in locks}
        # A prediction that began since then has locks of its own, which we do not hold.
        found = [d for d in find(path, read_root(path)) if d.lock in held]
        old = _old([*found, *half_made(path)], locks[0].written(), keep_days)
        for debris in old:
            for lock in locks:
                lock.check()
            _remove(debris.path)
    return old


def _old(found: Sequence[Debris], now: float, keep_days: float) -> list[Debris]:
    return [debris for debris in found if now - debris.written >= _keep_seconds(debris, keep_days * DAY_SECONDS)]


def _keep_seconds(debris: Debris, keep: float) -> float:
    """A half-made store stays for a day, unless its process has ended for sure: one that lives has a heartbeat."""
    if debris.lock:
        return keep
    state = Lock(debris.path, BUILD_LOCK).state()
    return keep if state is not None and is_gone(state.owner) else max(keep, DAY_SECONDS)


def _remove(path: Path) -> None:
    if path.is_dir():
        dismantle(path)
        if path.exists():
            raise StoreError(f"{path}: cannot remove all of it. Fix: check permissions, and that nobody works in it")
    else:
        fs.remove(path)
