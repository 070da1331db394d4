"""Arrays from npy data: plain numbers only, read in a stream straight into place, never unpickled."""

import ast
import io
import math
import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError

Array = npt.NDArray[Any]
LARGEST_HEADER = 65_536
CHUNK = 1 << 18  # bytes read at a time: they stay in a core's cache


class Readable(Protocol):
    """What data are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


def parse_npy(data: bytes, where: str) -> Array:
    """The array of an npy file's bytes, as ``read_npy``."""
    return read_npy(io.BytesIO(data), len(data), where)


def read_npy(stream: Readable, size: int, where: str) -> Array:
    """The array of an npy file of ``size`` bytes; only numbers, only complete ones. The stream is read to its end.

    Raises:
        InputError: not an npy file, a dtype that is not plain numbers (objects would need unpickling), or data that
            are shorter or longer than the header says. What the stream itself raises passes through.
    """
    broken = f"{where}: is not a complete npy array"
    head = _read(stream, 12)
    if len(head) < 12 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise InputError(f"{broken} (wrong first bytes). Fix: copy or write the file again.")
    start = 10 if head[6] == 1 else 12
    (length,) = struct.unpack_from("<H" if head[6] == 1 else "<I", head, 8)
    if length > LARGEST_HEADER:
        raise InputError(f"{broken} (header of {length} bytes). Fix: copy or write the file again.")
    head += _read(stream, max(0, start + length - len(head)))
    dtype, shape, fortran = _layout(head[start : start + length], where)
    body = size - start - length
    if math.prod(shape) * dtype.itemsize != body:
        raise InputError(f"{broken} ({body} bytes for {shape} of {dtype}). Fix: copy or write the file again.")
    try:
        array = np.empty(shape, dtype, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:  # more axes, or a longer one beside a 0, than numpy can hold
        raise InputError(f"{broken} (shape {str(shape)[:80]}). Fix: copy or write the file again.") from error
    place = array.reshape(-1, order="A").view(np.uint8).data
    at = len(head) - start - length  # an empty header leaves bytes of the data behind the first ones
    place[:at] = head[start + length :]
    while part := stream.read(CHUNK):
        if at + len(part) > body:
            raise InputError(f"{broken} (more than {body} bytes). Fix: copy or write the file again.")
        place[at : at + len(part)] = part
        at += len(part)
    if at != body:
        raise InputError(f"{broken} ({at} of {body} bytes). Fix: copy or write the file again.")
    return array


def _read(stream: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := stream.read(size - len(data))):
        data += part
    return data


def _layout(header: bytes, where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """dtype, shape and Fortran order of an npy header."""
    broken = f"{where}: is not a complete npy array"
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], tuple(fields["shape"])
        if not isinstance(descr, str):
            raise TypeError("compound dtype")
        dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise InputError(f"{broken} (header: {' '.join(str(error).split())[:80]}). Fix: write it again.") from error
    if dtype.kind not in "fiu":
        raise InputError(f"{where}: has dtype {dtype}. Fix: write plain numbers; objects and pickles are not read.")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{broken} (shape {shape}). Fix: copy or write the file again.")
    return dtype, shape, bool(fortran)
