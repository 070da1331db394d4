"""Output files that appear complete or not at all, and zip archives with equal bytes whenever they are written."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` at the end. ConfigError if that exists, or cannot be written."""
    if path.exists():
        raise ConfigError(f"{path}: exists already. Fix: choose another output, or remove it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}. Fix: another output, or free space") from error


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """A numeric array as the bytes of an npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a new zip archive (npz files are zip archives of npy files) of named bytes."""
    with new_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)  # dated 1980, so that equal content means equal bytes
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
