"""Tables that only grow (index, inputs, failures): an array per column, a file per chunk, read whole and checked."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.codecs import (
    BYTES_CODEC,
    CRC_CODEC,
    PACKED_EXTRA,
    CorruptError,
    blosc_codec,
    decode_text,
    encode_text,
    pack,
    unpack,
)
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.format import Document, array_document
from larstore.locations import READABLE, READERS, Place, Url, is_lost, read_file

Column = npt.NDArray[Any]
TEXT_BYTES = 2**27  # of a chunk of text: 8 kB a row of inputs/
NOTHING: dict[str, Any] = {"bool": False, "string": ""}  # fill values of what is no number


def column_document(kind: str, dimension: str, chunk_rows: int, rows: int = 0) -> Document:
    """``zarr.json`` of a column of numbers, booleans or text ("string")."""
    if kind == "string":
        codecs: list[Document] = [{"name": "vlen-utf8"}, blosc_codec(1, "zstd", 3, "noshuffle")]
    else:
        size = np.dtype(kind).itemsize
        codecs = [BYTES_CODEC if size > 1 else {"name": "bytes"}, blosc_codec(size, "zstd", 3, "shuffle")]
    fill = NOTHING.get(kind, "NaN" if kind.startswith("float") else 0 if kind.startswith("u") else -1)
    return array_document((rows,), kind, (chunk_rows,), [*codecs, CRC_CODEC], fill, (dimension,))


def _fill(document: Document) -> Any:
    value = document["fill_value"]
    return float("nan") if value == "NaN" else value


def _encode(document: Document, values: Column) -> bytes:
    kind, chunk_rows = document["data_type"], document["chunk_grid"]["configuration"]["chunk_shape"][0]
    blosc = document["codecs"][1]["configuration"]
    padding = chunk_rows - len(values)
    if kind == "string":
        full = np.concatenate([values.astype(object), np.full(padding, "", dtype=object)])
        data: Any = encode_text(full)
        if len(data) > TEXT_BYTES:
            raise StoreError(
                f"{len(data)} bytes of text where {TEXT_BYTES} fit a chunk. Fix: shorter paths and messages"
            )
    else:
        dtype = np.dtype(kind).newbyteorder("<")
        data = np.full(chunk_rows, _fill(document), dtype=dtype)
        data[: len(values)] = values
    return pack(data, blosc["typesize"], blosc["cname"], blosc["clevel"], blosc["shuffle"])


def _read_chunks(root: Place, path: str, document: Document, numbers: Sequence[int]) -> list[bytes]:
    """The files of some chunks, as they are."""
    kind, chunk_rows = document["data_type"], document["chunk_grid"]["configuration"]["chunk_shape"][0]
    limit = PACKED_EXTRA + (TEXT_BYTES if kind == "string" else chunk_rows * np.dtype(kind).itemsize)

    def read(number: int) -> bytes:
        file = root / f"{path}/c/{number}"
        try:
            return read_file(file, limit)
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
            line = f"{file}: chunk {number} of column {path} {what} ({error.strerror or type(error).__name__})"
            if is_lost(error):
                raise DamageError(f"{line}. {_fix(root)}") from error
            raise UnreadableError(f"{line}. {READABLE}") from error

    if isinstance(root, Url) and len(numbers) > 1:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read, numbers))
    return [read(number) for number in numbers]


def _fix(root: Place) -> str:
    return f"Fix: restore the file, or list all damage with 'larstore verify {root}'"


def _decode_chunk(root: Place, path: str, document: Document, number: int, blob: bytes, rows: int) -> Column:
    """The first ``rows`` rows of a chunk."""
    kind, chunk_rows = document["data_type"], document["chunk_grid"]["configuration"]["chunk_shape"][0]
    try:
        if kind == "string":
            return decode_text(unpack(blob, TEXT_BYTES, exact=False), rows)
        dtype = np.dtype(kind).newbyteorder("<")
        data = unpack(blob, chunk_rows * dtype.itemsize)
        if kind == "bool" and np.frombuffer(data, np.uint8).max() > 1:
            raise CorruptError("holds what is neither true nor false")
        return np.frombuffer(data, dtype=dtype)[:rows].astype(dtype.newbyteorder("="), copy=False)
    except ValueError as error:
        file = root / f"{path}/c/{number}"
        raise DamageError(f"{file}: chunk {number} of column {path}: {error}. {_fix(root)}") from error


def read_column(root: Place, path: str, document: Document) -> Column:
    """All rows of a column, (rows,); text as an object array of str. Raises DamageError, UnreadableError."""
    rows = int(document["shape"][0])
    chunk_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    numbers = range(-(-rows // chunk_rows))
    # Memory is taken for what is there, not for what the root claims.
    blobs = [b for i in numbers[::READERS] for b in _read_chunks(root, path, document, numbers[i : i + READERS])]
    dtype = np.dtype(object if document["data_type"] == "string" else document["data_type"])
    try:
        out: Column = np.empty(rows, dtype=dtype)
    except MemoryError as error:
        raise StoreError(f"{root}: column {path} of {rows} rows does not fit the memory. {_fix(root)}") from error
    for number, blob in enumerate(blobs):
        start = number * chunk_rows
        stop = min(start + chunk_rows, rows)
        out[start:stop] = _decode_chunk(root, path, document, number, blob, stop - start)
    return out


def appended(root: Path, path: str, document: Document, values: Column) -> dict[str, bytes]:
    """Files (path relative to the root -> bytes) that hold a column's last partial chunk and the new rows.

    ``document`` is that of the committed column; rows beyond its shape are debris and are not kept.
    """
    rows = int(document["shape"][0])
    chunk_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    first, kept = divmod(rows, chunk_rows)
    if kept:
        (blob,) = _read_chunks(root, path, document, [first])
        values = np.concatenate([_decode_chunk(root, path, document, first, blob, kept), values])
    starts = range(0, len(values), chunk_rows)
    return {f"{path}/c/{first + i}": _encode(document, values[s : s + chunk_rows]) for i, s in enumerate(starts)}
