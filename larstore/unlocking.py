"""The locks of a store for people: who holds each, whether that process still runs, and letting go of dead ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from larstore import fs
from larstore.errors import LockedError, StoreError
from larstore.locations import local_path
from larstore.lock_files import DamagedLockError, LockState
from larstore.locks import HEARTBEAT_SECONDS, STILL_SECONDS, Lock, is_gone, lock_names
from larstore.root import Root, read_root

MOST_CLAIMED = 1 << 16  # shards beyond those that are there
WATCH_SECONDS = 1.5 * HEARTBEAT_SECONDS  # whoever lives has a heartbeat within this


def unlock(path: Path, names: Sequence[str] = (), break_lock: bool = False) -> Iterator[str]:
    """Go through a store's locks, or those called ``names``, and let go of those whose process has ended.

    Yields a line about each. A lock of another host, of which nobody can tell from here whether its process runs, is
    watched; with ``break_lock`` it is let go of if its heartbeat stood still for ``STILL_SECONDS``. The marks of
    shards handed out are kept. A damaged lock is made anew with ``break_lock``, above all shards that are there.

    At the end raises LockedError for the first lock that is still held, DamagedLockError for a damaged one; StoreError
    for what is no store, or a name that is no lock of it.
    """
    path = local_path(path)
    root = read_root(path)  # an error for what is no store
    known = lock_names(path)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise StoreError(f"{path}: no lock {unknown[0]}. Fix: one of {', '.join(known) or 'none, there is no lock'}")
    held: list[StoreError] = []
    for name in names or known:
        lock = Lock(path, name, break_lock=break_lock, beat=False)
        try:
            state = lock.state()
        except DamagedLockError as error:
            mark = lock.renew(*_marks(path, root)) if break_lock else None
            if mark is None:
                held.append(error)
                yield f"{name}: damaged, nobody can tell who holds it{'; its file still changes' if break_lock else ''}"
            else:
                blocks = f"; blocks begin at shard {mark} now" if name == "images" else ""
                yield f"{name}: was damaged, nothing changed for {STILL_SECONDS:.0f} s; free{blocks}"
            continue
        if state is None or not state.held:
            yield f"{name}: free"
            continue
        holder = f"process {state.owner.pid} on {state.owner.host} since {state.since}"
        try:
            yield f"{name}: held by {holder}; {_verdict(lock, state)}"
        except LockedError as error:
            held.append(error)
            yield f"{name}: held by {holder}; {_signs_of_life(lock, state, break_lock)}"
    if held:
        raise held[0]


def _marks(path: Path, root: Root) -> tuple[int, int]:
    """The first shard above all that are there or committed, and the highest mark that a damaged lock may claim.

    A shard that was handed out and never written may be handed out again: no two workers can write one, since its
    file must not exist yet, and what the earlier one hands in is refused.
    """
    used, shard_rows = [0], int(root.attributes["shard_rows"])
    for array in (array for arrays in root.row_arrays.values() for array in arrays):
        used.append(-(-root.rows(array) // shard_rows))
        directory = path / array / "c"
        with fs.explained(directory, "list the directory"):
            names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        used += [int(name) + 1 for name in names if name.isdecimal()]
    return max(used), max(used) + MOST_CLAIMED


def _verdict(lock: Lock, state: LockState) -> str:
    """Take the lock over, by the rules of all writers, and let go; what it was that allowed it."""
    gone = is_gone(state.owner)
    with lock:
        pass
    return "released, it has ended" if gone else f"released, its heartbeat stood still for {STILL_SECONDS:.0f} s"


def _signs_of_life(lock: Lock, state: LockState, watched: bool) -> str:
    if is_gone(state.owner) is False:
        return "it runs"
    if watched or lock.changes_within(WATCH_SECONDS):
        return "its heartbeat goes on"
    return f"no heartbeat within {WATCH_SECONDS:.0f} s"
