"""Tables that only grow (index, inputs, failures): an array per column, a file per chunk, read whole and checked."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.codecs import BYTES_CODEC, CRC_CODEC, blosc_codec, decode_text, encode_text, pack, unpack
from larstore.errors import DamageError
from larstore.format import Document, array_document

Column = npt.NDArray[Any]
TEXT_BYTES = 2**31 - 64  # most that a blosc chunk can hold
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
    else:
        dtype = np.dtype(kind).newbyteorder("<")
        data = np.full(chunk_rows, _fill(document), dtype=dtype)
        data[: len(values)] = values
    return pack(data, blosc["typesize"], blosc["cname"], blosc["clevel"], blosc["shuffle"])


def _read_chunk(root: Path, path: str, document: Document, number: int, rows: int) -> Column:
    """The first ``rows`` rows of a chunk."""
    kind, chunk_rows = document["data_type"], document["chunk_grid"]["configuration"]["chunk_shape"][0]
    file = root / path / "c" / str(number)
    fix = f"Fix: restore the file, or list all damage with 'larstore verify {root}'"
    try:
        blob = file.read_bytes()
    except OSError as error:
        raise DamageError(f"{file}: chunk {number} of column {path} is missing ({error.strerror}). {fix}") from error
    try:
        if kind == "string":
            return decode_text(unpack(blob, TEXT_BYTES, exact=False), rows)
        dtype = np.dtype(kind).newbyteorder("<")
        values = np.frombuffer(unpack(blob, chunk_rows * dtype.itemsize), dtype=dtype)[:rows]
        return values.astype(dtype.newbyteorder("="), copy=False)
    except (ValueError, struct.error) as error:
        raise DamageError(f"{file}: chunk {number} of column {path}: {error}. {fix}") from error


def read_column(root: Path, path: str, document: Document) -> Column:
    """All rows of a column, (rows,); text as an object array of str. Raises DamageError."""
    rows = int(document["shape"][0])
    chunk_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    kind = document["data_type"]
    out: Column = np.empty(rows, dtype=object if kind == "string" else np.dtype(kind))
    for number, start in enumerate(range(0, rows, chunk_rows)):
        stop = min(start + chunk_rows, rows)
        out[start:stop] = _read_chunk(root, path, document, number, stop - start)
    return out


def appended(root: Path, path: str, document: Document, values: Column) -> dict[str, bytes]:
    """Files (path relative to the root -> bytes) that hold a column's last partial chunk and the new rows.

    ``document`` is that of the committed column; rows beyond its shape are debris and are not kept.
    """
    rows = int(document["shape"][0])
    chunk_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    first, kept = divmod(rows, chunk_rows)
    if kept:
        values = np.concatenate([_read_chunk(root, path, document, first, kept), values])
    starts = range(0, len(values), chunk_rows)
    return {f"{path}/c/{first + i}": _encode(document, values[s : s + chunk_rows]) for i, s in enumerate(starts)}
