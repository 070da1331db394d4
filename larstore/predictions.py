"""Predictions beside the images: one score per voxel, written shard by shard, resumable."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.commit import Fingerprint, commit, expect_written, fingerprint, mend_children
from larstore.errors import StoreError
from larstore.format import SCORE, group_document, sharded_document
from larstore.image import Image
from larstore.locations import local_path
from larstore.locks import Lock
from larstore.root import Root, read_root
from larstore.selection import Selection
from larstore.shards import Layout, encode_shard, layout_of
from larstore.store import Store

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
OWN_ATTRIBUTES = ("done", "commit")


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as inclusive ranges: 1, 2, 3, 7 -> [[1, 3], [7, 7]]."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


class PredictionWriter:
    """Writes prediction ``name`` of a store; holds its branch lock ``predictions/NAME`` while it is open.

    ``attributes`` (JSON-like) must hold ``checkpoint_sha256``. A name that exists with the same one is resumed; with
    another one it is refused (StoreError). Nothing is visible before ``commit``, which may be called repeatedly.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, attributes: dict[str, Any], break_lock: bool = False
    ) -> None:
        self.path = local_path(path)
        self.name = name
        self.attributes = dict(attributes)
        if not NAME.fullmatch(name):
            raise StoreError(f"prediction name {name!r}: Fix: 1 to 64 letters, digits, '_', '.' or '-', no leading '.'")
        if not isinstance(attributes.get("checkpoint_sha256"), str) or set(OWN_ATTRIBUTES) & set(attributes):
            raise StoreError(
                f"prediction {name!r}: Fix: attributes hold checkpoint_sha256, and neither done nor commit"
            )
        try:
            json.dumps(attributes, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StoreError(f"prediction {name!r}: {error}. Fix: attributes of plain numbers, text, lists") from error
        self._group = f"predictions/{name}"
        self._array = f"{self._group}/score"
        self._lock = Lock(self.path, self._group, break_lock=break_lock)
        self._done: set[int] = set()
        self._written: set[int] = set()  # first rows of the images that this writer wrote
        self._files: dict[str, Fingerprint] = {}  # shards that are written and not committed
        self._root = Root({})

    def __enter__(self) -> Self:
        read_root(self.path)  # before a lock file is made: an error for what is no store
        self._lock.acquire()
        try:
            fs.sync_tree(self.path)  # before anything rests on what a killed writer left
            self._root = read_root(self.path)
            self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def _resume(self) -> None:
        if self._group in self._root.nodes:
            known = self._root.nodes[self._group]["attributes"]
            if known["checkpoint_sha256"] != self.attributes["checkpoint_sha256"]:
                raise StoreError(
                    f"{self.path}: prediction {self.name!r} is of checkpoint {known['checkpoint_sha256'][:12]}…, "
                    f"this is {self.attributes['checkpoint_sha256'][:12]}…. Fix: choose another name"
                )
            self._done = {n for first, last in known["done"] for n in range(first, last + 1)}
            mend_children(self.path, self._root, self._lock.check, within=self._group)
        # Shards that a dead owner of this lock wrote and did not commit; nobody else writes here.
        kept = {self.path / self._layout().file(n) for n in self._done}
        for file in (self.path / self._array / "c").glob("*"):
            if file not in kept:
                fs.remove(file)

    def _layout(self) -> Layout:
        a = self._root.attributes
        rows = self._root.rows("voxels/coords")
        return layout_of(self._array, sharded_document(SCORE, None, a["shard_rows"], a["chunk_rows"], rows))

    def groups(self, selection: Selection) -> list[tuple[int, list[Image]]]:
        """What is still to be predicted: (first shard, images), in the order of the store.

        A group is the selected images of one shard, or of several that an image spans. Images without voxels need
        no prediction. Raises StoreError if a shard that is done lacks an image of ``selection``: shards are never
        rewritten, so a name belongs to one selection.
        """
        if selection.store.path.resolve() != self.path.resolve():
            raise StoreError(f"{self.path}: the selection is of {selection.store.path}. Fix: select from this store")
        self._root = read_root(self.path)  # images may have been committed since this writer was opened
        store = Store(self.path, self._root)
        size = self._layout().shard_rows
        start = selection.column("voxel_start")
        count = selection.column("voxel_count").astype(np.int64)
        some = np.flatnonzero(count > 0)
        order = some[np.argsort(start[some], kind="stable")]
        first, last = start[order] // size, (start[order] + count[order] - 1) // size
        found: list[tuple[int, list[Image]]] = []
        reached = -1
        for i, low, high in zip(order.tolist(), first.tolist(), last.tolist(), strict=True):
            if not self._done.isdisjoint(range(low, high + 1)):
                self._expect_predicted(store, selection[i], range(low, high + 1))
            elif low > reached:
                found.append((low, [selection[i]]))
            else:
                found[-1][1].append(selection[i])
            reached = max(reached, high)
        return found

    def _expect_predicted(self, store: Store, image: Image, shards: range) -> None:
        start = image.summary("voxel_start")
        if start in self._written:
            return
        committed = self._done.issuperset(shards) and self.name in store.predictions
        if not committed or np.isnan(store.read_scores(self.name, start, start + 1)).any():
            raise StoreError(
                f"{self.path}: prediction {self.name!r} was made for other images, shard {shards[0]} is done without "
                f"image {image.key}. Fix: choose another name"
            )

    def write(self, shard: int, scores: Sequence[tuple[Image, npt.NDArray[np.float32]]]) -> None:
        """Write the scores of one group, (n,) float32 per image; durable, and visible after ``commit``."""
        layout = self._layout()
        size = layout.shard_rows
        stop = max((i.summary("voxel_start") + len(i) for i, _ in scores), default=shard * size + 1)
        shards = range(shard, -(-stop // size))
        # Up to the array's end: images of these shards that were not chosen read as not predicted, not as damage.
        values = np.full(min(len(shards) * size, layout.rows - shard * size), np.nan, dtype=np.float32)
        for image, score in scores:
            start = image.summary("voxel_start") - shard * size
            if start < 0 or score.shape != (len(image),) or not np.isfinite(score).all():
                raise StoreError(
                    f"{self.path}: score of image {image.key} for shard {shard} has shape {score.shape}, or is not "
                    f"finite. Fix: one finite float per voxel ({len(image)}), images as groups() gave them"
                )
            values[start : start + len(image)] = score
        fs.make_directories(self.path / self._array / "c")
        for number in shards:
            part = values[(number - shard) * size : (number - shard + 1) * size]
            self._lock.check()
            data = encode_shard(layout, part)
            fs.write_new(self.path / layout.file(number), data)
            self._files[layout.file(number)] = fingerprint(data)
        self._done |= set(shards)
        self._written |= {image.summary("voxel_start") for image, _ in scores}

    def commit(self) -> None:
        """Check what was written against the files, then make it visible.

        DamageError if a file is not what was written, LockedError if the lock was lost; the store is as before then.
        """
        expect_written(self.path, self._files)
        done = ranges(self._done)

        def change(root: Root, check: Callable[[], None]) -> tuple[list[str], list[str]]:
            a = root.attributes
            attributes = self.attributes | {"done": done, "commit": a["commit"]}
            root.nodes[self._group] = group_document(attributes)
            rows = root.rows("voxels/coords")
            root.nodes[self._array] = sharded_document(SCORE, None, a["shard_rows"], a["chunk_rows"], rows)
            root.document["consolidated_metadata"]["metadata"] = dict(sorted(root.nodes.items()))
            return [self._group, self._array], []

        self._root = commit(self.path, self._lock, change)
        self._files = {}
