"""What a file name tells: the file number, the TPC, and where the truth lies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from larstore.errors import ConfigError, InputError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".npz")
HDF5_SUFFIXES = (".h5", ".hdf5")
TRUTH_PRODUCTS = ("energy", "depo", "depoElectron")
DEFAULT_PATTERN = r"(\d+)_[A-Za-z0-9]+-TPC\d+"  # the number before `_<product>-TPC<n>`
_NAME = re.compile(r"(?P<head>.+)_(?P<product>[A-Za-z0-9]+)-TPC(?P<tpc>\d{1,6})")


@dataclass(frozen=True)
class ParsedName:
    """``<head>_<product>-TPC<tpc>`` of a file's name."""

    head: str
    product: str
    tpc: int


def stem(path: Path) -> str:
    """The file name without its suffix."""
    for suffix in sorted(ARCHIVE_SUFFIXES + HDF5_SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def parse_name(path: Path) -> ParsedName | None:
    """Head, product and TPC of a name ``<head>_<product>-TPC<n>.<suffix>``; None for other names."""
    match = _NAME.fullmatch(stem(path))
    return ParsedName(match["head"], match["product"], int(match["tpc"])) if match else None


def file_number(path: Path, pattern: str | None) -> int | None:
    """The number that the first group of ``pattern`` finds in the file's name, None where it finds nothing.

    Raises:
        ConfigError: a pattern that does not compile, or has no group.
        InputError: the group is not a whole number.
    """
    try:
        compiled = re.compile(pattern or DEFAULT_PATTERN)
    except re.error as error:
        raise ConfigError(f"file pattern {pattern!r}: {error}. Fix: give a regular expression.") from error
    if compiled.groups < 1:
        raise ConfigError(f"file pattern {pattern!r} has no group. Fix: put the number in brackets, as in 'run(\\d+)'.")
    match = compiled.search(path.name)
    if match is None or match[1] is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", match[1]):
        raise InputError(f"{path}: {match[1]!r} is not a file number. Fix: let the pattern's first group match digits.")
    return int(match[1])


def truth_path(path: Path, tpc: int, products: Sequence[str] | None) -> Path | None:
    """The sibling ``<head>_<product>-TPC<tpc>.npz`` of the first product for which it exists, else None."""
    name = parse_name(path)
    for product in products or () if name is not None else ():
        sibling = path.with_name(f"{name.head}_{product}-TPC{tpc}.npz") if name is not None else path
        if sibling.is_file():
            return sibling
    return None
