"""What a crash of the machine can leave of a sequence of file operations.

The model, as weak as POSIX lets a file system be:
- What is in a file is certain only after an fsync of the file; before, it is whole, cut, empty or zeros.
- A change of names in a directory (mkdir, create, link, rename, unlink) is certain only after an fsync of that
  directory; before, each change is kept or lost on its own. A rename is one change: both names, or neither. It may be
  kept where the data, or the creation of the temporary name, is lost.
- A directory that is lost takes all that is in it along.
- fsync of a file says nothing about its name, fsync of a directory nothing about its parent's or its files' content.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from larstore.fs import Operation

Tree = dict[str, bytes | None]  # path below the top -> content, None for a directory
CUTS = {
    "whole": lambda data: data,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
}


@dataclass(eq=False)
class File:
    """An inode; files of a store are written once."""

    data: bytes
    synced: bool = False


@dataclass(eq=False)
class Directory:
    """Names that are certain, and changes since the last fsync: name -> what it stands for, None for gone."""

    certain: dict[str, "File | Directory"] = field(default_factory=dict)
    pending: list[dict[str, "File | Directory | None"]] = field(default_factory=list)

    def names(self, kept: list[bool] | None = None) -> dict[str, "File | Directory"]:
        """The names with the pending changes that are ``kept`` (None: all, as a running program sees it)."""
        names = dict(self.certain)
        for i, change in enumerate(self.pending):
            if kept is None or kept[i]:
                for name, node in change.items():
                    names.pop(name, None)
                    if node is not None:
                        names[name] = node
        return names

    def reachable(self) -> list[tuple[str, "File | Directory"]]:
        """All (name, node) that may be here after a crash."""
        changes = [(n, node) for change in self.pending for n, node in change.items() if node is not None]
        return list(dict.fromkeys([*self.certain.items(), *changes]))


class Disk:
    """A directory below ``top`` and everything in it, as memory and as the disk have it."""

    def __init__(self, top: Path, tree: Tree) -> None:
        self.top = top
        self.root = Directory()
        for name, data in sorted(tree.items()):
            path = top / name
            self.find(path.parent).certain[path.name] = Directory() if data is None else File(data, synced=True)

    def find(self, path: Path) -> Directory:
        """The directory that a running program sees at a path."""
        node = self.root
        for part in path.relative_to(self.top).parts:
            node = node.names()[part]
        return node

    def apply(self, operation: Operation) -> None:
        """One operation that has returned."""
        path, target = operation.path, operation.target
        if operation.kind == "fsync_dir":
            directory = self.find(path)
            directory.certain, directory.pending = directory.names(), []
            return
        directory = self.find(path.parent)
        node = directory.names().get(path.name)
        if operation.kind == "mkdir":
            directory.pending.append({path.name: Directory()})
        elif operation.kind == "write":
            directory.pending.append({path.name: File(operation.data)})
        elif operation.kind == "fsync":
            node.synced = True
        elif operation.kind == "unlink":
            if node is not None:
                directory.pending.append({path.name: None})
        elif operation.kind in ("link", "rename"):
            assert target.parent == path.parent, "names move within a directory only"
            gone = {path.name: None} if operation.kind == "rename" else {}
            directory.pending.append({**gone, target.name: node})
        else:
            raise AssertionError(operation.kind)

    def visible(self) -> Tree:
        """What a running program sees."""
        tree: Tree = {}
        _flatten("", self.root, {}, {}, tree)
        return tree

    def is_certain(self) -> bool:
        """Whether a crash now would lose nothing."""
        return self._uncertain(None) == ([], [])

    def crashes(self, limit: int, rng: random.Random, only: set[str] | None = None) -> Iterator[Tree]:
        """Trees that a crash now can leave: all of them, or ``limit`` at random after all kept and all lost.

        ``only``: nothing but changes of these directories and content of files of these names (as written) is lost.
        """
        directories, files = self._uncertain(only)
        choices = [[True, False] for directory in directories for _ in directory.pending]
        choices += [list(CUTS) for _ in files]
        picks = itertools.product(*choices)
        if math.prod(map(len, choices)) > limit:
            ends = ([c[0] for c in choices], [c[1] for c in choices])
            picks = itertools.chain(ends, ([rng.choice(c) for c in choices] for _ in range(limit - 2)))
        for pick in picks:
            flags = iter(pick)
            kept = {d: list(itertools.islice(flags, len(d.pending))) for d in directories}
            tree: Tree = {}
            _flatten("", self.root, kept, dict(zip(files, flags, strict=True)), tree)
            yield tree

    def _uncertain(self, only: set[str] | None) -> tuple[list[Directory], list[File]]:
        """Directories with pending changes and files without an fsync, below whatever a crash can leave."""
        directories: dict[Directory, None] = {}
        files: dict[File, None] = {}
        todo = [("", self.root)]
        while todo:
            at, directory = todo.pop()
            if directory.pending and (only is None or at in only):
                directories[directory] = None
            for name, node in directory.reachable():
                path = f"{at}/{name}".removeprefix("/")
                if isinstance(node, Directory):
                    todo.append((path, node))
                elif not node.synced and (only is None or path in only):
                    files[node] = None
        return list(directories), list(files)


def _flatten(
    at: str, directory: Directory, kept: dict[Directory, list[bool]], cuts: dict[File, str], tree: Tree
) -> None:
    for name, node in directory.names(kept.get(directory)).items():
        path = f"{at}/{name}" if at else name
        if isinstance(node, Directory):
            tree[path] = None
            _flatten(path, node, kept, cuts, tree)
        else:
            tree[path] = CUTS[cuts.get(node, "whole")](node.data)


def tree_of(top: Path) -> Tree:
    """What lies below a directory now."""
    return {path.relative_to(top).as_posix(): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}
