"""Encoding of one chunk: blosc, then a crc32c that every reader checks; codecs of the Zarr v3 core only."""

import struct
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BLOSC_HEADER = 16  # bytes; the uncompressed size is the little-endian uint32 at 4


class CorruptError(ValueError):
    """Bytes that fail their checksum or contradict their own header."""


def checksum(data: bytes | memoryview) -> bytes:
    """Crc32c as the Zarr codec appends it: four bytes, little-endian."""
    return struct.pack("<I", crc32c.crc32c(data))


def split_checksum(blob: bytes) -> memoryview:
    """The bytes before a trailing crc32c, once it has been verified."""
    if len(blob) < 4:
        raise CorruptError("shorter than its checksum")
    body = memoryview(blob)[:-4]
    if checksum(body) != blob[-4:]:
        raise CorruptError("checksum does not match")
    return body


def pack(data: bytes | npt.NDArray[Any], typesize: int, cname: str, clevel: int, shuffle: str) -> bytes:
    """Compress and append the checksum."""
    body = blosc.compress(data, cname.encode(), clevel, SHUFFLES[shuffle], 0, typesize)
    return bytes(body) + checksum(body)


def unpack(blob: bytes, n_bytes: int, exact: bool = True) -> bytes:
    """Verify the checksum and decompress; the result must have ``n_bytes`` (at most, if not ``exact``)."""
    body = split_checksum(blob)
    if len(body) < BLOSC_HEADER:
        raise CorruptError("shorter than a blosc header")
    size, _, packed = struct.unpack_from("<III", body, 4)
    if packed != len(body) or size > n_bytes or (exact and size != n_bytes):
        raise CorruptError(f"holds {size} bytes where {n_bytes} are expected")
    try:
        return bytes(blosc.decompress(body))
    except RuntimeError as error:
        raise CorruptError(f"does not decompress ({error})") from error


def blosc_codec(typesize: int, cname: str, clevel: int, shuffle: str) -> dict[str, Any]:
    """The codec's entry in ``zarr.json``."""
    configuration = {"typesize": typesize, "cname": cname, "clevel": clevel, "shuffle": shuffle, "blocksize": 0}
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
    """The first ``n_items`` strings of a vlen-utf8 chunk."""
    (available,) = struct.unpack_from("<I", data, 0)
    if available < n_items:
        raise CorruptError(f"holds {available} strings where {n_items} are expected")
    values = np.empty(n_items, dtype=object)
    position = 4
    for i in range(n_items):
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        values[i] = data[position : position + length].decode()
        position += length
    return values
