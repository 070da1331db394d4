"""Recordings of a store's writers, replayed up to a crash, and the judgement of what the crash left."""

import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest

import larstore
from larstore import fs, locks, table
from larstore.commit import lagging_children
from larstore.errors import StoreError
from larstore.format import to_bytes
from larstore.root import read_root
from tests.store.crash_model import Disk, Tree, tree_of

STORE = "a.zarr"


@dataclass(frozen=True)
class Promise:
    """What holds from some operation on: this commit has returned (None: there is no store), these shards are given."""

    at: int
    commit: int | None
    handed: int = 0


@dataclass
class Recording:
    """All operations below ``top`` and what was promised in between; the first promise is of the time before."""

    top: Path
    start: Tree
    operations: list[fs.Operation] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    references: dict[int, Path] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.top / STORE

    def promise(self, commit: int | None, handed: int = 0) -> None:
        """From here on a crash may not take this commit back; what it holds is what the store shows now."""
        self.promises.append(Promise(len(self.operations), commit, handed))
        if commit is not None and commit not in self.references:
            self.references[commit] = self.top.with_name(f"{self.top.name}-commit-{commit}") / STORE
            shutil.copytree(self.store, self.references[commit])

    def holding(self, k: int) -> tuple[Promise, int | None]:
        """The promise that holds after ``k`` operations, and the commit that may be in flight."""
        held = [p for p in self.promises if p.at <= k]
        later = [p.commit for p in self.promises if p.at > k and p.commit != held[-1].commit]
        return replace(held[-1], handed=max(p.handed for p in held)), (later or [held[-1].commit])[0]

    def disk(self, skip: Collection[int] = ()) -> Iterator[tuple[int, Disk]]:
        """(k, the disk after k operations), without the operations ``skip``; the disk is the same object throughout."""
        disk = Disk(self.top, self.start)
        yield 0, disk
        for k, operation in enumerate(self.operations, start=1):
            if k - 1 not in skip:
                disk.apply(operation)
            yield k, disk

    def name(self, path: Path) -> str:
        """A path as trees have it."""
        return "/".join(path.relative_to(self.top).parts)

    def loses(self, i: int) -> set[str]:
        """The names that a sync makes certain: a directory or a file, before and after its renaming."""
        paths = {self.operations[i].path}
        for o in self.operations:
            if o.target is not None:
                paths |= {o.target / path.relative_to(o.path) for path in paths if path.is_relative_to(o.path)}
        return {self.name(path) for path in paths}

    def contents(self, path: Path | None, k: int) -> tuple[bytes | None, bytes | None]:
        """What a file held before operation ``k`` named it, and since; None: it was not there."""
        held = [self.start[self.name(path)]] if path is not None and self.name(path) in self.start else [None]
        written = {o.path: o.data for o in self.operations if o.kind == "write"}
        held += [written.get(o.path) for o in self.operations[: k + 1] if path is not None and o.target == path]
        return held[-2] if len(held) > 1 else None, held[-1]

    def roots(self) -> list[int]:
        """The operations that name a root: the commits."""
        return [k for k, o in enumerate(self.operations) if o.target == self.store / "zarr.json"]

    def idle(self) -> set[int]:
        """Syncs of directories in which nothing changed since the last one: those of ``sync_tree``, mostly."""
        found = set()
        for k, disk in self.disk():
            if k < len(self.operations):
                operation = self.operations[k]
                if operation.kind == "fsync_dir" and not disk.find(operation.path).pending:
                    found.add(k)
        return found

    def where(self, k: int) -> str:
        """The last operation before a crash after ``k``."""
        last = self.operations[k - 1]
        return f"{k} of {len(self.operations)}: {last.kind} {self.name(last.target or last.path)}"


@contextmanager
def booted(boot_id: str) -> Iterator[None]:
    """Take locks in the name of this process, but before a restart of the machine."""
    me = replace(locks.identity(), boot_id=boot_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "identity", lambda: me)
        yield


@contextmanager
def recorded(top: Path, commit: int | None, handed: int = 0) -> Iterator[Recording]:
    """Record what is done below ``top``, as a machine that is started anew after the crash finds it."""
    recording = Recording(top, tree_of(top))
    recording.promise(commit, handed)
    with booted("before the crash"), fs.observed(recording.operations.append):
        yield recording
    *_, (_, disk) = recording.disk()
    assert disk.visible() == tree_of(top), "the model is not what happened"


def without_debris(tree: Tree) -> Tree:
    """A tree without temporary files: nobody reads them."""
    return {name: data for name, data in tree.items() if ".tmp/" not in f"{name}/"}


class Judge:
    """Says what is wrong with a tree that a crash left; None if nothing is.

    ``go_on(store, handed)``: what the next writer does; returns what is wrong, or None.
    """

    def __init__(self, recording: Recording, scratch: Path, go_on: Callable[[Path, int], str | None]) -> None:
        self.recording = recording
        self.scratch = scratch
        self.go_on = go_on
        self.judged: dict[tuple[object, ...], str | None] = {}
        self._pool: dict[bytes, Path] = {}
        self._whole = {
            to_bytes(document)
            for reference in recording.references.values()
            for document in read_root(reference).nodes.values()
        }
        (scratch / "pool").mkdir(parents=True)

    def __call__(self, k: int, tree: Tree) -> str | None:
        promise, flying = self.recording.holding(k)
        key = (frozenset(tree.items()), promise.commit, promise.handed, flying)
        if key not in self.judged:
            self.judged[key] = self._judge(tree, promise, flying)
        return self.judged[key]

    def _judge(self, tree: Tree, promise: Promise, flying: int | None) -> str | None:
        top = self.scratch / "tree"
        self._build(top, tree)
        store = top / STORE
        try:
            if not store.exists():
                wrong = None if promise.commit is None else f"commit {promise.commit} is gone"
            else:
                wrong = self._wrong(store, {promise.commit, flying})
            return wrong or self.go_on(store, promise.handed)
        except StoreError as error:
            return str(error)
        finally:
            shutil.rmtree(top)

    def _build(self, top: Path, tree: Tree) -> None:
        """The tree on disk; equal files are one file, since a store never changes one in place."""
        top.mkdir()
        for name, data in tree.items():
            if data is None:
                (top / name).mkdir()
                continue
            if data not in self._pool:
                self._pool[data] = self.scratch / "pool" / str(len(self._pool))
                self._pool[data].write_bytes(data)
            os.link(self._pool[data], top / name)

    def _wrong(self, store: Path, allowed: set[int | None]) -> str | None:
        """Whether the store is one of the commits, bit for bit."""
        root = read_root(store)
        commit = root.attributes["commit"]
        if commit not in allowed:
            return f"commit {commit}, not one of {allowed}"
        reference = self.recording.references[commit]
        if (store / "zarr.json").read_bytes() != (reference / "zarr.json").read_bytes():
            return f"commit {commit} has another root"
        for node in lagging_children(store, root):
            file = store / node / "zarr.json"
            if not file.is_file() or file.read_bytes() not in self._whole:
                return f"{node}/zarr.json is torn"
        report = larstore.verify(store)
        if not report.ok:
            return str(report.problems[0])
        one, other = larstore.open(store), larstore.open(reference)
        for name in root.nodes:
            if name.startswith(("index/", "inputs/", "failures/")):
                columns = [table.read_column(at, name, root.nodes[name]) for at in (store, reference)]
                if not pd.Series(columns[0]).equals(pd.Series(columns[1])):
                    return f"commit {commit} has another {name}"
        for name in one.predictions:
            rows = 0, one.root.rows("voxels/coords")
            if one.read_scores(name, *rows).tobytes() != other.read_scores(name, *rows).tobytes():
                return f"commit {commit} has other scores"
        return next(iter(larstore.diff(one, other)), None)


def replay(
    recording: Recording, judge: Judge, moments: Collection[int], limit: int, change: Callable[[Tree], Tree] = dict
) -> None:
    """Judge what crashes after so many operations leave, at most ``limit`` trees each, ``change``-d before."""
    rng = random.Random(1)
    for k, disk in recording.disk():
        if k in moments:
            for tree in disk.crashes(limit, rng):
                wrong = judge(k, change(tree))
                assert wrong is None, f"crash after operation {recording.where(k)}: {wrong}"
