"""A directory beside a new store's place to build it in; what killed calls left there is swept, if they are dead."""

import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from larstore import fs
from larstore.errors import StoreError
from larstore.locations import local_path
from larstore.locks import DIRECTORY, Lock, is_gone

LOCK = "build"

log = logging.getLogger("larstore")


def refuse_target(target: Path) -> None:
    """StoreError for a place where no new store can be made: it exists, or it lies inside a store."""
    target = local_path(target)
    if target.exists() or target.is_symlink():
        raise StoreError(f"{target}: exists already. Fix: choose another path, or remove it")
    for parent in target.absolute().resolve().parents:
        if (parent / "zarr.json").is_file():
            raise StoreError(f"{target}: lies inside the store {parent}. Fix: choose a path outside of it")


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A new directory beside ``target`` that is locked, and gone at the end, however that comes.

    A killed process leaves it behind under a name that begins with a dot; the next call for the same target removes
    it if it can tell that the process has ended, else it logs a warning with its name. Raises StoreError for a target
    that cannot be.
    """
    refuse_target(target)
    fs.make_directories(target.parent)
    sweep(target)
    bench = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    fs.make_directories(bench)
    try:
        with Lock(bench, LOCK):
            yield bench
    finally:
        dismantle(bench)


def dismantle(bench: Path) -> None:
    """Remove a workshop, its lock last: what a process that is killed here leaves can still be told to be dead."""
    for entry in bench.iterdir() if bench.is_dir() else ():
        if entry.name != DIRECTORY:
            shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(bench, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove the directories that killed processes left while they built ``target``; name those of unknown owners."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp")
    for place in target.parent.iterdir():
        if not leftover.fullmatch(place.name) or not place.is_dir():
            continue
        state = Lock(place, LOCK).state()
        if state is None:  # killed before it had its lock: nothing was built yet; others' directories hold something
            gone = True if {entry.name for entry in place.iterdir()} <= {DIRECTORY} else None
        else:
            gone = is_gone(state.owner)
        if gone:
            log.warning("%s: removed, its process was killed while it made %s", place, target)
            dismantle(place)
        elif gone is None:
            log.warning("%s: left behind by a process that may still run. Fix: remove it if none does", place)
