"""Files of a store that no commit holds: what killed and failed writers left, or a running one still makes."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.format import Document
from larstore.index import Index
from larstore.locks import DIRECTORY
from larstore.root import Root

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")
PIECE = re.compile(r"(?P<array>.+)/c/(?P<number>[0-9]{1,15})(/0)?")  # /0: the only column of pieces


@dataclass(frozen=True)
class Debris:
    """A file, or a directory beside the store, that no commit holds.

    Attributes:
        kind: temporary file, shard, chunk (of a table), metadata (of a prediction without a commit), or half-made store
            (a directory).
        lock: name of the lock whose holder may be about to need it; "" for a half-made store, which has its own.
        written: when, at the latest, in seconds by the file system's clock.
    """

    path: Path
    kind: str
    lock: str
    n_bytes: int
    written: float


def find(path: Path, root: Root) -> list[Debris]:
    """All debris of a store, beside what the commit ``root`` and all earlier ones hold; sorted by path.

    Files of other names than a store's are left alone. Raises DamageError for an index that cannot be read, StoreError
    for a directory that cannot.
    """
    kinds = _Kinds(path, root)
    found = []
    for file in _files(path):
        name = file.relative_to(path)
        kind, lock = kinds.of(name), lock_of(name)
        if kind is None or not lock:
            continue
        with fs.explained(file, "read"):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue  # its writer lives, and was faster
        found.append(Debris(file, kind, lock, status.st_size, status.st_mtime))
    return sorted(found, key=lambda each: each.path)


def half_made(path: Path) -> list[Debris]:
    """Directories beside a store in which killed or running processes built it, or one to be in its place."""
    place = path.absolute()
    found = []
    for each in place.parent.iterdir():
        temporary = TEMPORARY.fullmatch(each.name)
        if temporary is not None and temporary[1] == place.name and each.is_dir() and not each.is_symlink():
            with fs.explained(each, "read"):
                states = [file.stat() for file in (each, *_files(each))]
            n_bytes, written = sum(s.st_size for s in states[1:]), max(s.st_mtime for s in states)
            found.append(Debris(each, "half-made store", "", n_bytes, written))
    return sorted(found, key=lambda each: each.path)


def _files(path: Path) -> Iterator[Path]:
    for directory in fs.directories(path):
        with fs.explained(directory, "list the directory"):
            try:
                files = [entry for entry in directory.iterdir() if entry.is_file() and not entry.is_symlink()]
            except FileNotFoundError:
                continue
        yield from files


def lock_of(name: Path) -> str:
    """The lock that whoever writes a file (relative to the store) holds, or whose worker it is; "" if none."""
    if name.parts[0] == DIRECTORY:
        temporary = TEMPORARY.fullmatch(name.name)
        return (temporary[1] if temporary else name.name).rpartition(".")[0].replace("+", "/")
    if name.parts[0] == "predictions" and len(name.parts) > 2:
        return "/".join(name.parts[:2])
    return "root" if len(name.parts) == 1 else "images"


class _Kinds:
    """Tells what a file is, if no commit holds it."""

    def __init__(self, path: Path, root: Root) -> None:
        self._root = root
        self._index = Index(path, root)
        self._row_kinds = {array: kind for kind, arrays in root.row_arrays.items() for array in arrays}
        self._used: dict[str, Callable[[int], bool]] = {}

    def of(self, name: Path) -> str | None:
        """Kind of debris, None for what is committed or no file of a store."""
        parts = name.parts
        if TEMPORARY.fullmatch(name.name):
            return "temporary file"
        prediction = "/".join(parts[:2]) if parts[0] == "predictions" and len(parts) > 2 else None
        unborn = prediction is not None and prediction not in self._root.nodes
        if unborn and name.as_posix() in (f"{prediction}/zarr.json", f"{prediction}/score/zarr.json"):
            return "metadata"
        piece = PIECE.fullmatch(name.as_posix())
        if piece is None:
            return None
        array, number = piece["array"], int(piece["number"])
        if array in self._row_kinds:
            return None if self._holds(self._row_kinds[array])(number) else "shard"
        if prediction is not None and array == f"{prediction}/score":
            return "shard" if unborn or not self._done(prediction, number) else None
        if parts[0] in ("index", "inputs", "failures") and array in self._root.nodes:
            return "chunk" if number >= _chunks(self._root.nodes[array]) else None
        return None

    def _done(self, prediction: str, shard: int) -> bool:
        done = self._root.nodes[prediction]["attributes"]["done"]
        return any(first <= shard <= last for first, last in done)

    def _holds(self, kind: str) -> Callable[[int], bool]:
        if kind not in self._used:
            start, count = self._index.column(f"{kind}_start"), self._index.column(f"{kind}_count")
            self._used[kind] = shards_held(start, count, int(self._root.attributes["shard_rows"]))
        return self._used[kind]


def shards_held(
    start: npt.NDArray[np.integer], count: npt.NDArray[np.integer], shard_rows: int
) -> Callable[[int], bool]:
    """Whether a shard has rows of any image: of the images of all commits, replaced and deleted ones too."""
    some = (count > 0) & (start >= 0)
    first = start[some].astype(np.int64)
    order = np.argsort(first, kind="stable")
    first = first[order]
    reached = np.maximum.accumulate(first + count[some][order])  # the last row of all images up to here

    def held(shard: int) -> bool:
        before = int(np.searchsorted(first, (shard + 1) * shard_rows))
        return before > 0 and int(reached[before - 1]) > shard * shard_rows

    return held


def _chunks(document: Document) -> int:
    """Files that a table's column has."""
    return -(-int(document["shape"][0]) // int(document["chunk_grid"]["configuration"]["chunk_shape"][0]))
