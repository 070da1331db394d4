"""Seeded damage to files, and the promise that readers keep: correct data or an InputError, whatever the bytes."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from larstore.errors import InputError

MOST_SECONDS = 20
MOST_BYTES = 2 << 30


class Hang(BaseException):
    """Not an Exception: a reader that catches those must not take it for damage."""


def mutations(data: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` damaged copies: cut, flipped bits, runs of other bytes, missing pieces, two regions swapped.

    A third of the positions lie in the first 4 kB or the last 1 kB, where the structure of most formats is.
    """
    rng = np.random.default_rng(seed)
    kinds = (_cut, _flip, _flip, _overwrite, _zero, _remove, _swap)
    for _ in range(n):
        yield kinds[rng.integers(len(kinds))](bytearray(data), rng)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    where = rng.integers(6)
    if where == 0:
        return int(rng.integers(min(4096, len(data))))
    if where == 1:
        return int(rng.integers(max(0, len(data) - 1024), len(data)))
    return int(rng.integers(len(data)))


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: _place(data, rng)])


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 5))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    piece = rng.bytes(min(int(rng.integers(1, 600)), len(data) - start))
    data[start : start + len(piece)] = piece
    return bytes(data)


def _zero(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    length = min(int(rng.integers(1, 600)), len(data) - start)
    data[start : start + length] = bytes([255 * int(rng.integers(2))]) * length
    return bytes(data)


def _remove(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 600))]
    return bytes(data)


def _swap(data: bytearray, rng: np.random.Generator) -> bytes:
    first, second = sorted((_place(data, rng), _place(data, rng)))
    length = min(int(rng.integers(1, 600)), second - first, len(data) - second)
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )
    return bytes(data)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise ``Hang`` after so many seconds."""

    def ring(signum: int, frame: object) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(path: Path, read: Callable[[Path], object]) -> str:
    """ "" where ``read(path)`` returned, else the message of its InputError: one line that names the file and a fix.

    Any other exception, more than ``MOST_SECONDS``, or more than ``MOST_BYTES`` of memory is a failed test.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = ""
    with time_limit(MOST_SECONDS):
        try:
            read(path)
        except InputError as error:
            message = str(error)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_BYTES, f"{grown} bytes"
    if message:
        assert message.startswith(str(path)), message
        assert "Fix: " in message, message
        assert "\n" not in message, message
        assert len(message) < 1000, message
    return message


def fuzz(path: Path, read: Callable[[Path], object], n: int = 500, seed: int = 0) -> int:
    """Read ``n`` damaged copies of a valid file in its place; how many of them were refused."""
    data = path.read_bytes()
    assert outcome(path, read) == "", "the whole file must be readable"
    refused = 0
    for mutated in mutations(data, n, seed):
        path.write_bytes(mutated)
        refused += bool(outcome(path, read))
    path.write_bytes(data)
    return refused
