"""Encoding of one chunk: blosc, then a crc32c that every reader checks; codecs of the Zarr v3 core only."""

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from numcodecs.bitround import BitRound

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BLOSC_HEADER = 16  # bytes: version, version of what is inside, flags, typesize; bytes, bytes of a block, packed bytes
MEMCPYED = 2  # the flag of bytes that are stored as they are
MOST_LOCKED = 1 << 20  # bytes whose checksum is computed without giving Python's lock away
MOST_JOINED = 1 << 30  # bytes
PACKED_EXTRA = BLOSC_HEADER + 4  # bytes that ``pack`` adds at most: what cannot be compressed is stored as it is


_header = struct.Struct("<4sIII")
_header_and_start = struct.Struct("<4sIIII")
_number = struct.Struct("<I")


class CorruptError(ValueError):
    """Bytes that fail their checksum or contradict their own header."""


def _crc(data: bytes | memoryview) -> int:
    # A chunk takes microseconds; to give Python's lock away and get it back from another thread takes longer.
    return int(crc32c.crc32c(data, 0, 0 if len(data) <= MOST_LOCKED else -1))


def checksum(data: bytes | memoryview) -> bytes:
    """Crc32c as the Zarr codec appends it: four bytes, little-endian."""
    return _number.pack(_crc(data))


def split_checksum(blob: bytes | memoryview) -> memoryview:
    """The bytes before a trailing crc32c, once it has been verified."""
    if len(blob) < 4:
        raise CorruptError("shorter than its checksum")
    body = memoryview(blob)[:-4]
    if checksum(body) != blob[-4:]:
        raise CorruptError("checksum does not match")
    return body


def pack(
    data: bytes | npt.NDArray[Any], typesize: int, cname: str, clevel: int, shuffle: str, blocksize: int = 0
) -> bytes:
    """Compress and append the checksum; ``blocksize`` bytes at a time, 0: as blosc thinks best."""
    body = blosc.compress(data, cname.encode(), clevel, SHUFFLES[shuffle], blocksize, typesize)
    return bytes(body) + checksum(body)


def check_packed(memory: memoryview, start: int, size: int, n_bytes: int, exact: bool = True) -> None:
    """CorruptError unless ``size`` bytes at ``start`` are a chunk whose checksum holds and that promises ``n_bytes``.

    At most so many, if not ``exact``.
    """
    end = start + size - 4
    if size < 4:
        raise CorruptError("shorter than its checksum")
    if _crc(memory[start:end]) != _number.unpack_from(memory, end)[0]:
        raise CorruptError("checksum does not match")
    if end - start < BLOSC_HEADER:
        raise CorruptError("shorter than a blosc header")
    _, held, _, packed = _header.unpack_from(memory, start)
    if packed != end - start or held > n_bytes or (exact and held != n_bytes):
        raise CorruptError(f"holds {held} bytes where {n_bytes} are expected")


def _packed(blob: bytes | memoryview, n_bytes: int, exact: bool) -> memoryview:
    """The blosc body of a chunk that is checked."""
    memory = memoryview(blob)
    check_packed(memory, 0, len(memory), n_bytes, exact)
    return memory[:-4]


def room_to_join(n_chunks: int) -> int:
    """Bytes before the first of so many chunks that ``join`` writes to."""
    return BLOSC_HEADER + _number.size * n_chunks


def join(memory: memoryview, places: Sequence[tuple[int, int]], n_bytes: int) -> memoryview | None:
    """One blosc buffer that unpacks to several chunks of ``n_bytes`` each; None where they cannot be joined.

    ``places``: (start, size) in ``memory`` of chunks that ``check_packed`` has passed, one after the other. A header
    that tells where each block begins is all it takes: it is written before the first one, to ``room_to_join`` bytes,
    and one call unpacks them all without Python's lock, which two threads would else hand to and fro at every chunk.
    """
    first, n = places[0][0], len(places)
    kind = bytes(memory[first : first + 4])
    if kind[2] & MEMCPYED or n_bytes * n > MOST_JOINED:
        return None
    begin, end = first - room_to_join(n), places[-1][0] + places[-1][1]
    starts = []
    for start, size in places:
        if size < BLOSC_HEADER + 8:
            return None
        other, _, block, _, inside = _header_and_start.unpack_from(memory, start)
        if other != kind or block != n_bytes or not BLOSC_HEADER + 4 <= inside < size - 4:
            return None
        starts.append(start + inside - begin)
    struct.pack_into(f"<4sIII{n}I", memory, begin, kind, n_bytes * n, n_bytes, end - begin, *starts)
    return memory[begin:end]


@contextmanager
def alone() -> Iterator[None]:
    """In here numcodecs unpacks in the calling thread; in the main one it would have blosc start others beside ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held, blosc.use_threads = blosc.use_threads, False  # what all other threads do anyway
    try:
        yield
    finally:
        blosc.use_threads = held


def unpack(blob: bytes, n_bytes: int, exact: bool = True) -> bytes:
    """Verify the checksum and decompress; the result must have ``n_bytes`` (at most, if not ``exact``)."""
    body = _packed(blob, n_bytes, exact)
    try:
        return bytes(blosc.decompress(body))
    except RuntimeError as error:
        raise CorruptError(f"does not decompress ({error})") from error


def unpack_into(blob: bytes | memoryview, out: npt.NDArray[Any]) -> None:
    """Verify the checksum and decompress to ``out``, which is contiguous and is filled completely."""
    unpack_joined(_packed(blob, out.nbytes, exact=True), out)


def unpack_joined(body: memoryview, out: npt.NDArray[Any]) -> None:
    """Decompress what is checked, one chunk without its checksum or several that are joined."""
    try:
        blosc.decompress(body, out)
    except RuntimeError as error:
        raise CorruptError(f"does not decompress ({error})") from error


def round_mantissas(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Values with ``bits`` explicit bits of mantissa: the nearest ones, ties to even, within 2^-(bits+1) of each.

    Source: Klöwer et al., Nature Computational Science 1, 713 (2021), as numcodecs' BitRound has it.
    """
    codec = BitRound(keepbits=bits)
    rounded: npt.NDArray[np.float32] = np.asarray(codec.decode(codec.encode(values)), np.float32)
    return rounded.reshape(values.shape)


def blosc_codec(typesize: int, cname: str, clevel: int, shuffle: str, blocksize: int = 0) -> dict[str, Any]:
    """The codec's entry in ``zarr.json``."""
    configuration = {"typesize": typesize, "cname": cname, "clevel": clevel, "shuffle": shuffle, "blocksize": blocksize}
    return {"name": "blosc", "configuration": configuration}


BYTES_CODEC: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
CRC_CODEC: dict[str, Any] = {"name": "crc32c"}


def encode_text(values: npt.NDArray[np.object_]) -> bytes:
    """Zarr's vlen-utf8: the number of items, then per item its length and its bytes."""
    encoded = [str(value).encode("utf-8", "backslashreplace") for value in values]
    parts = [struct.pack("<I", len(encoded))]
    for item in encoded:
        parts += (struct.pack("<I", len(item)), item)
    return b"".join(parts)


def decode_text(data: bytes, n_items: int) -> npt.NDArray[np.object_]:
    """The first ``n_items`` strings of a vlen-utf8 chunk; raises CorruptError."""
    if len(data) < 4:
        raise CorruptError("shorter than its number of strings")
    (available,) = struct.unpack_from("<I", data, 0)
    if not n_items <= available <= len(data) // 4 - 1:
        raise CorruptError(f"claims {available} strings in {len(data)} bytes where {n_items} are expected")
    values = np.empty(n_items, dtype=object)
    position = 4
    for i in range(n_items):
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if length > len(data) - position:
            raise CorruptError(f"string {i} is longer than the chunk")
        values[i] = data[position : position + length].decode()
        position += length
    return values
