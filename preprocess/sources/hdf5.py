"""HDF5 files of strangers: opened read-only, refused where they reach outside themselves, sizes checked first."""

import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from larstore.errors import InputError

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_BYTES = 1 << 29  # of one read: an event of a file that claims more is damaged, or needs another tool
BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


def is_hdf5(path: Path) -> bool:
    """Whether the file starts as an HDF5 file does."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def top_names(path: Path) -> list[str]:
    """Names of the groups and datasets at the top of the file."""
    with open_hdf5(path) as file:
        # h5py hands out names that are not UTF-8, as damage leaves them, as bytes.
        return [name if isinstance(name, str) else name.decode("latin1") for name in file]


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, and whatever HDF5 stumbles over while it is open as one InputError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: truncated or damaged ({reason}). Fix: copy or write the file again.") from error


def dataset(path: Path, group: h5py.Group, name: str, dtype_kinds: str = "fiu") -> h5py.Dataset:
    """A dataset of plain numbers inside this file.

    Raises:
        InputError: it is missing, is stored outside the file, is not of the kinds asked for, or is so damaged that
            reading it could crash.
    """
    link = group.get(name, getlink=True)
    node = group.get(name) if isinstance(link, h5py.HardLink) else None
    where = f"{path}: {group.name.rstrip('/')}/{name}"
    if link is not None and not isinstance(link, h5py.HardLink):
        raise InputError(f"{where} is a link. Fix: write the data into the file itself.")
    if not isinstance(node, h5py.Dataset):
        inside = ", ".join(list(group)[:8]) or "nothing"
        raise InputError(f"{where} is missing (there is {inside}). Fix: copy or write the file again.")
    if node.is_virtual or node.external:
        raise InputError(f"{where} is stored outside the file. Fix: write the data into the file itself.")
    if node.dtype.kind not in dtype_kinds or node.shape is None:
        raise InputError(f"{where} holds no plain numbers (dtype {node.dtype}). Fix: write it again, as numbers.")
    if not _fits(node):
        raise InputError(f"{where} has numbers of no known kind, or fields that overlap. Fix: write it again.")
    return node


def _fits(node: h5py.Dataset) -> bool:
    """Whether numbers take as many bytes in memory as in the file, field by field.

    For a damaged description of a float h5py picks a wider type: fields then overlap, and reading them writes beyond
    the array (a crash, or worse).
    """
    stored, dtype = node.id.get_type(), node.dtype
    if dtype.names is None:
        return bool(stored.get_size() == dtype.itemsize)
    if dtype.hasobject or any(dtype[name].names is not None for name in dtype.names):
        return False  # text of any length, or fields inside fields
    fields = sorted((dtype.fields[name][1], dtype[name].itemsize) for name in dtype.names)
    members = range(stored.get_nmembers())
    places = sorted((stored.get_member_offset(i), stored.get_member_type(i).get_size()) for i in members)
    ends = [offset + size for offset, size in fields]
    starts = [offset for offset, _ in fields[1:]] + [dtype.itemsize]
    return fields == places and stored.get_size() == dtype.itemsize and all(map(operator.le, ends, starts))


def subgroup(path: Path, group: h5py.Group, name: str) -> h5py.Group:
    """A group inside this file; InputError where it is missing, no group, or a link."""
    node = group.get(name) if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(node, h5py.Group):
        raise InputError(f"{path}: {name} is not a group of this file. Fix: copy or write the file again.")
    return node


def read(path: Path, node: h5py.Dataset, rows: slice = slice(None)) -> npt.NDArray[np.generic]:
    """Rows of a dataset; InputError for more than ``LARGEST_BYTES``, in the rows or in one of its chunks."""
    n = len(range(*rows.indices(node.shape[0]))) if node.ndim else 1
    # Python's integers: a damaged shape overflows others.
    size = n * math.prod(node.shape[1:]) * node.dtype.itemsize
    chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
    if max(size, chunk) > LARGEST_BYTES:
        raise InputError(f"{path}: {node.name} claims {max(size, chunk)} bytes. Fix: copy or write the file again.")
    return np.asarray(node[rows] if node.ndim else node[()])
