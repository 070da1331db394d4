"""Encoding of one chunk: blosc, then a crc32c that every reader checks; codecs of the Zarr v3 core only."""

import struct
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from numcodecs.bitround import BitRound

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BLOSC_HEADER = 16  # bytes; the uncompressed size is the little-endian uint32 at 4
MOST_LOCKED = 1 << 20  # bytes whose checksum is computed without giving Python's lock away
PACKED_EXTRA = BLOSC_HEADER + 4  # bytes that ``pack`` adds at most: what cannot be compressed is stored as it is


class CorruptError(ValueError):
    """Bytes that fail their checksum or contradict their own header."""


def checksum(data: bytes | memoryview) -> bytes:
    """Crc32c as the Zarr codec appends it: four bytes, little-endian."""
    # A chunk takes microseconds; to give Python's lock away and get it back from another thread takes longer.
    release = 0 if len(data) <= MOST_LOCKED else -1
    return struct.pack("<I", crc32c.crc32c(data, 0, release))


def split_checksum(blob: bytes | memoryview) -> memoryview:
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


def _packed(blob: bytes | memoryview, n_bytes: int, exact: bool) -> memoryview:
    """The blosc body of a chunk whose checksum holds and whose header promises ``n_bytes`` (at most, if not exact)."""
    body = split_checksum(blob)
    if len(body) < BLOSC_HEADER:
        raise CorruptError("shorter than a blosc header")
    size, _, packed = struct.unpack_from("<III", body, 4)
    if packed != len(body) or size > n_bytes or (exact and size != n_bytes):
        raise CorruptError(f"holds {size} bytes where {n_bytes} are expected")
    return body


def unpack(blob: bytes, n_bytes: int, exact: bool = True) -> bytes:
    """Verify the checksum and decompress; the result must have ``n_bytes`` (at most, if not ``exact``)."""
    body = _packed(blob, n_bytes, exact)
    try:
        return bytes(blosc.decompress(body))
    except RuntimeError as error:
        raise CorruptError(f"does not decompress ({error})") from error


def unpack_into(blob: bytes | memoryview, out: npt.NDArray[Any]) -> None:
    """Verify the checksum and decompress to ``out``, which is contiguous and is filled completely."""
    body = _packed(blob, out.nbytes, exact=True)
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
