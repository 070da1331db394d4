"""What a lock's file holds: who holds the lock, and the mark of shards handed out, under a checksum of its own."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from larstore.errors import StoreError


class DamagedLockError(StoreError):
    """A lock's file that is none, or that somebody or something changed: nobody can tell who holds the lock."""


@dataclass(frozen=True)
class Identity:
    """Who holds a lock: enough to tell, on the same machine, whether that process still runs."""

    host: str
    machine: str
    boot_id: str
    namespace: str  # of process numbers: containers of one machine have their own
    pid: int
    started: str


@dataclass(frozen=True)
class LockState:
    """The content of a lock file."""

    owner: Identity
    token: str
    since: str
    held: bool = True
    heartbeat: int = 0
    high_water: int = 0  # first shard that was never handed out


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode(state: LockState) -> bytes:
    """The file's bytes: JSON, with the sha256 of everything else."""
    content = asdict(state)
    return json.dumps(content | {"sha256": _checksum(content)}, indent=1).encode()


def decode(file: Path, data: bytes, fix: str) -> LockState:
    """The state in a lock's file; DamagedLockError for what fails its checksum, or is none.

    Files of earlier versions have no checksum; a flipped bit cannot make one of those, since no other key is known.
    """
    try:
        content = json.loads(data)
        expected = content.pop("sha256", None)
        if expected is not None and expected != _checksum(content):
            raise ValueError("its checksum does not match")
        state = LockState(owner=Identity(**content.pop("owner")), **content)
        if type(state.high_water) is not int:
            raise ValueError(f"high_water {state.high_water!r}")
        return state
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DamagedLockError(f"{file}: not a lock file, or damaged ({reason}). Fix: {fix}") from error


def claimed_mark(data: bytes) -> int:
    """The mark that a damaged file names, 0 if none: a claim, good for not going below it."""
    try:
        mark = json.loads(data)["high_water"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return mark if type(mark) is int else 0
