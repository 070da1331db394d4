"""HDF5 files of strangers: opened read-only, refused where they reach outside themselves, sizes checked first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from larstore.errors import InputError

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_BYTES = 1 << 30  # of one read: an event of a file that claims more is damaged, or needs another tool
BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)


def is_hdf5(path: Path) -> bool:
    """Whether the file starts as an HDF5 file does."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def top_names(path: Path) -> list[str]:
    """Names of the groups and datasets at the top of the file."""
    with open_hdf5(path) as file:
        return list(file)


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
        InputError: it is missing, is stored outside the file, or is not of the kinds asked for.
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
    if node.dtype.kind not in dtype_kinds:
        raise InputError(f"{where} has dtype {node.dtype}. Fix: write plain numbers.")
    return node


def read(path: Path, node: h5py.Dataset, rows: slice = slice(None)) -> npt.NDArray[np.generic]:
    """Rows of a dataset; InputError for more than ``LARGEST_BYTES``."""
    n = len(range(*rows.indices(node.shape[0]))) if node.ndim else 1
    size = n * int(np.prod(node.shape[1:], dtype=np.int64)) * node.dtype.itemsize
    if size > LARGEST_BYTES or size < 0:
        raise InputError(f"{path}: {node.name} claims {size} bytes for one event. Fix: copy or write the file again.")
    return np.asarray(node[rows])
