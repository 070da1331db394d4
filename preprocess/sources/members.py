"""Arrays from tar and zip archives: read in a stream, never unpacked to disk, never unpickled."""

import bz2
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from isal import igzip

from larstore.errors import InputError
from preprocess.sources.inflate import InflateError, open_member
from preprocess.sources.npy import Array, read_npy

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, InflateError, lzma.LZMAError, EOFError, OSError,
          struct.error, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError)  # fmt: skip
# What tarfile takes for the end of an archive besides the end block.
NO_HEADER = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
ZIP_MAGIC = b"PK"
HEAD = 262  # up to the magic of a tar header
LARGEST_MEMBER = 1 << 29  # bytes, unpacked: a small archive may unpack to anything
DRAIN = 1 << 20


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header, or a cut, for the end of the archive: events would be missing silently."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(archive)
        except NO_HEADER as error:
            raise tarfile.ReadError(f"damaged member header or no end of archive: {error}") from error


def is_zip(path: Path) -> bool:
    """Whether the file starts like a zip archive; InputError where it cannot be read."""
    return magic(path).startswith(ZIP_MAGIC)


def member_names(path: Path) -> list[str]:
    """Names of an archive's arrays, without folders and ``.npy``, in their order."""
    return [name for name, _ in members(path)]


def members(path: Path) -> Iterator[tuple[str, Callable[[], Array]]]:
    """Each member's name (no folder, no ``.npy``) and a function that reads it, to be called before the next step.

    Raises:
        InputError: the archive is missing, truncated or damaged. Checksums that the format keeps for the whole
            archive (gzip) are checked after the last member.
    """
    return _zip_members(path) if is_zip(path) else _tar_members(path)


def zip_names(path: Path) -> list[str]:
    """Names of a zip archive's arrays, without ``.npy``."""
    with _open_zip(path) as archive:
        return [_plain(info.filename) for info in archive.infolist() if _is_file(info)]


def read_zip(path: Path, name: str) -> Array:
    """One array of an npz file by name (without ``.npy``)."""
    with _open_zip(path) as archive:
        for info in archive.infolist():
            if _plain(info.filename) == name:
                return _read_info(path, archive, info)
    raise InputError(f"{path}: has no array {name}. Fix: write it again, one array for every event.")


def read_zip_bytes(path: Path, name: str, largest: int) -> bytes:
    """The bytes of a zip archive's first member of that name (no folder); InputError for more than ``largest``."""
    with _open_zip(path) as archive:
        for info in archive.infolist():
            if _plain(info.filename) == name:
                return _bytes_of(path, archive, info, largest)
    raise InputError(f"{path}: has no member {name}. Fix: copy or write the file again.")


def magic(path: Path) -> bytes:
    """The first bytes of a file; InputError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Fix: check the path.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Fix: check the path and its rights.") from error


def _plain(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".npy")


def _damaged(path: Path, error: BaseException, name: str = "") -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = f"{path}: {name}" if name else f"{path}"
    return InputError(f"{where}: truncated or damaged ({reason[:120]}). Fix: copy or write the file again.")


def _is_file(info: zipfile.ZipInfo) -> bool:
    # Not `is_dir`: it fails on an empty name, as damage leaves it.
    return not info.filename.endswith("/")


def _open_zip(path: Path) -> zipfile.ZipFile:
    magic(path)
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise _damaged(path, error) from error


def _check_size(path: Path, name: str, size: int, largest: int | None = None) -> None:
    allowed = LARGEST_MEMBER if largest is None else largest
    if size > allowed:
        raise InputError(f"{path}: {name} claims {size} bytes. Fix: write one event a member, below {allowed}.")


def _read_info(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    _check_size(path, info.filename, info.file_size)
    try:
        with path.open("rb") as file, closing(open_member(file, archive, info)) as stream:
            return read_npy(stream, info.file_size, f"{path}: {info.filename}")
    except BROKEN as error:
        raise _damaged(path, error, info.filename) from error


def _bytes_of(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int | None = None) -> bytes:
    _check_size(path, info.filename, info.file_size, largest)
    try:
        return archive.read(info)
    except BROKEN as error:
        raise _damaged(path, error, info.filename) from error


def _zip_members(path: Path) -> Iterator[tuple[str, Callable[[], Array]]]:
    with _open_zip(path) as archive:
        for info in archive.infolist():
            if _is_file(info):
                yield _plain(info.filename), lambda info=info: _read_info(path, archive, info)  # type: ignore[misc]


def _decompressed(path: Path) -> IO[bytes]:
    # tarfile's own streams do not check gzip's CRC.
    head = magic(path)
    if head.startswith(b"\x1f\x8b"):
        return igzip.open(path, "rb")  # type: ignore[no-any-return, no-untyped-call]
    if head.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if head.startswith(b"\xfd7zXZ"):
        return lzma.open(path, "rb")
    return path.open("rb")


def _tar_members(path: Path) -> Iterator[tuple[str, Callable[[], Array]]]:
    with _decompressed(path) as stream:
        try:
            archive = tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo)  # noqa: SIM115
        except BROKEN as error:
            raise _damaged(path, error) from error
        with archive:
            while True:
                try:
                    info = archive.next()
                    if info is None:
                        while stream.read(DRAIN):  # reaches the checksum at the end
                            pass
                        return
                except BROKEN as error:
                    raise _damaged(path, error) from error
                # The archive keeps every member it has seen; events can be many.
                archive.members = []  # type: ignore[attr-defined]
                if info.isfile():
                    yield _plain(info.name), lambda info=info: _read_tar(path, archive, info)  # type: ignore[misc]


def _read_tar(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Array:
    _check_size(path, info.name, info.size)
    try:
        stream = archive.extractfile(info)
        return read_npy(stream or io.BytesIO(), info.size, f"{path}: {info.name}")
    except BROKEN as error:
        raise _damaged(path, error, info.name) from error
