"""The registry of readers: every module in ``preprocess.sources.readers`` that defines ``READER`` is one."""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Literal

from larstore.errors import InputError
from preprocess.sources.base import Source
from preprocess.sources.depos import DepoSource
from preprocess.sources.hdf5 import is_hdf5, top_names
from preprocess.sources.members import is_zip, magic, member_names, members

Kind = Literal["frames", "depos"]
COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
TAR_MAGIC_AT = 257


@dataclass(frozen=True)
class Probe:
    """What is known of a file when its reader is chosen.

    Attributes:
        path: the file.
        container: ``zip``, ``tar``, ``hdf5``, or ``""`` for anything else.
    """

    path: Path
    container: Literal["zip", "tar", "hdf5", ""]

    @cached_property
    def names(self) -> list[str]:
        """Member names of an archive without folders and ``.npy``; names at the top of an HDF5 file."""
        if self.container == "":
            return []
        return top_names(self.path) if self.container == "hdf5" else member_names(self.path)

    @cached_property
    def first_name(self) -> str:
        """The first of ``names``, "" where there is none; of a large tar, without reading the rest."""
        if self.container != "tar":
            return next(iter(self.names), "")
        return next((name for name, _ in members(self.path)), "")


@dataclass(frozen=True)
class Reader:
    """One file format.

    Attributes:
        name: short name, for messages.
        kind: ``frames`` (wire read-outs, for `preprocess`) or ``depos`` (ionisation, for `simulate --depos`).
        what: the format in a few words.
        suffixes: of its files; those of other names are read where they are named themselves.
        recognises: whether a file is of this format. It looks at names, not at data; InputError for a damaged file.
        open: makes the source.
    """

    name: str
    kind: Kind
    what: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Probe], bool]
    open: Callable[[Path], Source | DepoSource]


@cache
def known_readers() -> tuple[Reader, ...]:
    """All readers, by name."""
    package = import_module("preprocess.sources.readers")
    found = [import_module(f"{package.__name__}.{info.name}").READER for info in pkgutil.iter_modules(package.__path__)]
    return tuple(sorted(found, key=lambda reader: reader.name))


def probe(path: Path) -> Probe:
    """Look at a file's first bytes; InputError where there is none."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Fix: give the files in it.")
    head = magic(path)
    if is_zip(path):
        return Probe(path, "zip")
    if is_hdf5(path):
        return Probe(path, "hdf5")
    if head.startswith(COMPRESSED_TAR) or head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar" or path.suffix == ".tar":
        return Probe(path, "tar")
    return Probe(path, "")


def find_reader(path: Path, kind: Kind) -> Reader:
    """The reader of that kind for a file.

    Raises:
        InputError: a format that no reader of that kind knows.
    """
    found = probe(path)
    # Those of the kind first: an archive may hold both.
    for reader in sorted(known_readers(), key=lambda reader: reader.kind != kind):
        if reader.recognises(found):
            if reader.kind != kind:
                use = "larstore simulate --depos" if reader.kind == "depos" else "larstore preprocess"
                raise InputError(f"{path}: holds {reader.what}. Fix: give it to `{use}`.")
            return reader
    known = "; ".join(reader.what for reader in known_readers() if reader.kind == kind)
    inside = ", ".join(found.names[:5])
    raise InputError(f"{path}: {'holds ' + inside if inside else 'is of no known format'}. Fix: give one of: {known}.")
