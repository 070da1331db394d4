"""The commit: one replacement of the root ``zarr.json``, by whoever holds a branch lock and, briefly, the root's."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from larstore import fs
from larstore.errors import DamageError, LockedError, UnreadableError
from larstore.format import Document, to_bytes
from larstore.locations import READABLE, Place, is_lost, read_file
from larstore.locks import WAIT_SECONDS, Lock
from larstore.reading import pool
from larstore.root import Root, parse_root, root_bytes

Fingerprint = tuple[int, str]  # of a file: bytes, sha256


def write_child(path: Path, node: str, document: Document, check: Callable[[], None] | None = None) -> None:
    """Write the ``zarr.json`` of a group or array below the root, unless it already says the same."""
    file = path / node / "zarr.json"
    data = to_bytes(document)
    if fs.content(file) != data:
        fs.make_directories(file.parent)
        fs.replace(file, data, check=check)


def lagging_children(path: Place, root: Root) -> list[str]:
    """Nodes whose own ``zarr.json`` differs from the root's copy, which is the one that counts."""
    return [node for node, document in root.nodes.items() if lags(path, node, document)]


def lags(path: Place, node: str, document: Document) -> bool:
    """Whether the ``zarr.json`` of a node differs from the root's copy; UnreadableError if nobody can tell."""
    data, file = to_bytes(document), path / f"{node}/zarr.json"
    try:
        return read_file(file, len(data)) != data
    except OSError as error:
        if is_lost(error):
            return True
        raise UnreadableError(f"{file}: cannot read ({error.strerror or type(error).__name__}). {READABLE}") from error


def mend_children(path: Path, root: Root, check: Callable[[], None], within: str | None = None) -> list[str]:
    """Rewrite children that a killed writer left behind or ahead; returns their names.

    ``within``: the group of one prediction, whose writer may run beside that of the images; else all but predictions.
    """
    lagging = [
        node
        for node in lagging_children(path, root)
        if (node in (within, f"{within}/score") if within else not node.startswith("predictions/"))
    ]
    for node in lagging:
        write_child(path, node, root.nodes[node], check)
    return lagging


def commit(
    path: Path,
    branch: Lock,
    change: Callable[[Root, Callable[[], None]], tuple[list[str], list[str]]],
) -> Root:
    """Read the root, let ``change`` edit a copy, and replace it; returns the new root.

    ``change(root, check)`` may write index chunks, with ``check`` before each rename; it returns the nodes whose
    ``zarr.json`` is written before and after the root. Nothing is renamed once the branch lock or the root's commit
    number is no longer ours: LockedError.
    """
    with Lock(path, "root", wait=WAIT_SECONDS, break_lock=branch.break_lock, beat=False) as lock:
        branch.check()
        numbers = _CommitNumbers(path)
        root = numbers.root.copy()
        number = int(root.attributes["commit"])

        def check(expected: int = number) -> None:
            branch.check()
            lock.check()
            found = numbers.now()
            if found != expected:
                raise LockedError(f"{path}: commit {found} was made by somebody else. Fix: run again")

        root.attributes["commit"] = number + 1
        before, after = change(root, check)
        for node in before:
            write_child(path, node, root.nodes[node], check)
        data = root.sealed()
        fs.replace(path / "zarr.json", data, check=check)
        for node in after:
            write_child(path, node, root.nodes[node], check=partial(check, number + 1))
    return root


class _CommitNumbers:
    """The commit number that a store's root has, over and over: read each time, parsed where it is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = root_bytes(path)
        self.root = parse_root(self._data, path / "zarr.json")

    def now(self) -> int:
        """The number as it is now; raises as ``read_root``."""
        data = root_bytes(self._path)
        if data != self._data:
            self._data, self.root = data, parse_root(data, self._path / "zarr.json")
        return int(self.root.attributes["commit"])


def written(path: Path) -> bytes:
    """Content of a file that a worker says it wrote; looked for twice, since a network file system may lag behind."""
    data = fs.content(path)
    if data is None and path.parent.is_dir():
        with fs.explained(path.parent, "list the directory"):
            list(path.parent.iterdir())
        data = fs.content(path)
    if data is None:
        raise DamageError(
            f"{path}: was written, but it is not there now. Fix: run again; workers and coordinator must see the same "
            "file system"
        )
    return data


def fingerprint(data: bytes) -> Fingerprint:
    """Size and sha256 of a file's content."""
    return len(data), hashlib.sha256(data).hexdigest()


def expect_written(path: Path, files: Mapping[str, Fingerprint]) -> None:
    """DamageError unless all files (path below the store -> fingerprint) are there, and are what was written."""

    def check(name: str) -> None:
        data = written(path / name)
        if fingerprint(data) != files[name]:
            raise DamageError(f"{path / name}: {len(data)} bytes that differ from what was written. Fix: run it again")

    for _ in pool().map(check, files):  # whoever writes waits for this
        pass
