"""Locks of a store. A lock is the highest of numbered files, each made by an exclusive link: of two takers one wins.

A lock file also carries the high-water mark of shards handed out, so it stays when the lock is let go.
"""

import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from larstore import fs
from larstore.errors import LockedError, StoreError
from larstore.lock_files import DamagedLockError, Identity, LockState, claimed_mark, decode, encode

DIRECTORY = ".larstore"
HEARTBEAT_SECONDS = 20.0
STILL_SECONDS = 180.0  # a foreign lock may be broken once its heartbeat stood still for this long
WAIT_SECONDS = 120.0  # for the root lock, which lasts one commit
POLL_SECONDS = 0.05

log = logging.getLogger("larstore")

_ours: set[str] = set()  # tokens of the locks that this process holds, or is about to


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def process_start(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if there is no such process, "" where the system hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def identity() -> Identity:
    """This process."""
    namespace = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    pid = os.getpid()
    boot = _text("/proc/sys/kernel/random/boot_id")
    return Identity(socket.gethostname(), _text("/etc/machine-id"), boot, namespace, pid, process_start(pid) or "")


def is_gone(owner: Identity) -> bool | None:
    """Whether a lock's process has ended; None if that cannot be told from here (another host)."""
    me = identity()
    if (owner.host, owner.machine) != (me.host, me.machine):
        return None
    if owner.boot_id != me.boot_id:
        return True
    if owner.namespace != me.namespace:
        return None
    started = process_start(owner.pid)
    return started is None or (started != "" and owner.started != "" and started != owner.started)


def _entries(directory: Path) -> list[str]:
    """Names of the files in a directory of locks, which may not be there."""
    with fs.explained(directory, "list the directory"):
        try:
            return [entry.name for entry in os.scandir(directory)]
        except FileNotFoundError:
            return []


def lock_names(path: Path) -> list[str]:
    """Names of the locks that a store has files of."""
    files = [name.rpartition(".") for name in _entries(path / DIRECTORY) if not name.startswith(".")]  # no temporary
    return sorted({stem.replace("+", "/") for stem, _, number in files if number.isdecimal()})


class Lock:
    """One lock of a store, ``images``, ``predictions/NAME`` or ``root``; a context manager.

    ``wait``: seconds to wait for a live holder (0: refuse at once). ``break_lock``: take over from another host whose
    heartbeat stands still for ``STILL_SECONDS`` of this process's clock. Raises LockedError with who holds it.
    """

    def __init__(self, path: Path, name: str, wait: float = 0.0, break_lock: bool = False, beat: bool = True) -> None:
        self.path = path
        self.name = name
        self.token = secrets.token_hex(16)
        self._wait = wait
        self.break_lock = break_lock
        self._beat = beat
        self._directory = path / DIRECTORY
        self._number = -1
        self._state = LockState(identity(), self.token, datetime.now(UTC).isoformat(timespec="seconds"))
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _file(self, number: int) -> Path:
        return self._directory / f"{self.name.replace('/', '+')}.{number:08d}"

    def _numbers(self) -> list[int]:
        prefix = self.name.replace("/", "+") + "."
        names = [name[len(prefix) :] for name in _entries(self._directory) if name.startswith(prefix)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _read(self, number: int) -> LockState | None:
        file = self._file(number)
        data = fs.content(file)
        if data is None:
            return None
        fix = f"make sure that nobody writes here, then 'larstore unlock {self.path} --lock {self.name} --break-lock'"
        return decode(file, data, fix)

    def state(self) -> LockState | None:
        """The lock as it is now, whoever holds it; None if it was never taken, DamagedLockError if nobody can tell."""
        numbers = self._numbers()
        return self._read(numbers[-1]) if numbers else None

    def acquire(self) -> Self:
        """Take the lock."""
        fs.make_directories(self._directory)
        deadline = time.monotonic() + self._wait
        _ours.add(self.token)
        try:
            while not self._try():
                if time.monotonic() >= deadline:
                    raise self.refusal()
                time.sleep(POLL_SECONDS)
        except BaseException:
            _ours.discard(self.token)  # also where the file is there and could not be removed: we do not hold it
            raise
        if self._beat:
            self._thread = threading.Thread(target=self._beats, name=f"larstore-lock-{self.name}", daemon=True)
            self._thread.start()
        return self

    def _try(self) -> bool:
        numbers = self._numbers()
        top = numbers[-1] if numbers else -1
        if top >= 0:
            holder = self._read(top)
            if holder is None or (holder.held and not self._may_take(top, holder)):
                return False
        mine = self._file(top + 1)
        try:
            fs.write_new(mine, encode(self._state))
            self._number = top + 1
            older = self._numbers()
            if older[-1] != self._number:  # somebody took a later number while old ones were being removed
                fs.remove(mine)
                return False
            # Read after the link: the former holder either sees our number or has written its mark before.
            marks = [state.high_water for n in older[:-1] if (state := self._read(n)) is not None]
            self._state = replace(self._state, high_water=max([0, *marks]))
            self._store()
        except fs.ExistsError:
            return False
        except StoreError:
            self._forget(mine)
            raise
        for number in older[:-1]:
            fs.remove(self._file(number))
        return True

    def _forget(self, mine: Path) -> None:
        """Take back a file that could not be completed: the older ones are there still, with their marks."""
        try:
            fs.remove(mine)
        except StoreError as error:
            if os.path.exists(mine):  # a disk that takes no file has none
                log.warning("%s; the lock is free once this process has ended", error)

    def _may_take(self, number: int, holder: LockState) -> bool:
        gone = is_gone(holder.owner)
        if gone:
            log.warning("%s: lock %s taken over, its process %s has ended", self.path, self.name, holder.owner.pid)
            return True
        if holder.owner == identity() and holder.token not in _ours:
            log.warning("%s: lock %s taken over, this process could not let go of it before", self.path, self.name)
            return True
        if gone is None and self.break_lock:
            return self._stands_still(number, holder.owner.host)
        return False

    def _stands_still(self, number: int, host: str) -> bool:
        """Watch a foreign heartbeat with our own clock."""
        log.warning("%s: watching lock %s of %s for %.0f s", self.path, self.name, host, STILL_SECONDS)
        if self._changes(number, STILL_SECONDS):
            return False
        log.warning("%s: lock %s of %s broken", self.path, self.name, host)
        return True

    def _changes(self, number: int, seconds: float) -> bool:
        """Whether a lock's file is written anew, or goes away, within so many seconds."""
        file = self._file(number)
        seen = fs.content(file)
        deadline = time.monotonic() + seconds
        while seen is not None and time.monotonic() < deadline:
            time.sleep(max(POLL_SECONDS, seconds / 60))
            if fs.content(file) != seen:
                return True
        return seen is None

    def changes_within(self, seconds: float) -> bool:
        """Whether the lock as it is now changes within so many seconds: its heartbeat goes on, or it is let go of."""
        numbers = self._numbers()
        return bool(numbers) and self._changes(numbers[-1], seconds)

    def renew(self, mark: int, most: int) -> int | None:
        """Put a free lock in the place of a damaged one; returns its mark, None if the file does not stand still.

        The mark is ``mark``, or what the damaged file claims if that is higher, and not beyond ``most``.
        """
        numbers = self._numbers()
        if not numbers or not self._stands_still(numbers[-1], "an unknown holder"):
            return None
        claimed = claimed_mark(fs.content(self._file(numbers[-1])) or b"")
        free = replace(self._state, held=False, high_water=max(mark, claimed if claimed <= most else 0))
        fs.write_new(self._file(numbers[-1] + 1), encode(free))
        for number in numbers:
            fs.remove(self._file(number))
        return free.high_water

    def refusal(self) -> LockedError:
        """Who holds the lock since when, as the error to raise."""
        state = self.state()
        if state is None or not state.held:
            return LockedError(f"{self.path}: lock {self.name} is in use. Fix: try again")
        owner = state.owner
        if is_gone(owner) is None:
            fix = "if it has ended, run again with --break-lock"
        else:
            fix = f"wait for it to end, or stop process {owner.pid}"
        return LockedError(
            f"{self.path}: lock {self.name} is held by process {owner.pid} on {owner.host} since {state.since}. "
            f"Fix: {fix}"
        )

    def check(self) -> None:
        """LockedError unless this lock is still ours."""
        numbers = self._numbers()
        state = self._read(numbers[-1]) if numbers else None
        if self._number < 0 or state is None or state.token != self.token or not state.held:
            holder = "nobody" if state is None else f"process {state.owner.pid} on {state.owner.host}"
            raise LockedError(
                f"{self.path}: lock {self.name} was lost to {holder}. Fix: run again; what was committed is kept"
            )

    @property
    def high_water(self) -> int:
        """First shard that was never handed out."""
        return self._state.high_water

    def written(self) -> float:
        """When this lock's file was written last, in seconds by the file system's clock; ours must be held."""
        file = self._file(self._number)
        with fs.explained(file, "read"):
            return file.stat().st_mtime

    def raise_high_water(self, mark: int) -> None:
        """Durably record that shards below ``mark`` are handed out; LockedError if the lock is no longer ours."""
        with self._mutex:
            self._state = replace(self._state, high_water=max(mark, self._state.high_water))
            self._store()
        self.check()

    def _store(self) -> None:
        fs.replace(self._file(self._number), encode(self._state))

    def _check_before_writing(self) -> None:
        """As ``check``, with the mutex; a damaged file that is ours by its number is about to be written anew."""
        try:
            self.check()
        except DamagedLockError as error:
            if self._numbers()[-1:] != [self._number]:
                raise
            log.warning("%s; its holder lives and writes it anew", str(error).partition(" Fix:")[0].rstrip("."))

    def beat(self) -> None:
        """One heartbeat; LockedError if the lock is no longer ours."""
        with self._mutex:
            self._check_before_writing()
            self._state = replace(self._state, heartbeat=self._state.heartbeat + 1)
            self._store()  # synced like all else: the file carries the high-water mark

    def _beats(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.beat()
            except LockedError as error:
                log.error("%s", error)
                return
            except StoreError as error:
                log.warning("heartbeat of lock %s: %s", self.name, error)

    def release(self) -> None:
        """Let go; the file stays and keeps the high-water mark."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _ours.discard(self.token)  # first: where the file cannot be written, this process may take the lock again
        with self._mutex:
            self._check_before_writing()
            self._state = replace(self._state, held=False)
            self._store()
            self._number = -1

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError as lost:
            if error is None:
                raise
            log.warning("%s", lost)
