"""The coordinator's side: hands out blocks, checks what workers wrote, and commits it."""

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.block import BlockFull, layouts, write_block
from larstore.commit import Fingerprint, commit, expect_written, mend_children
from larstore.errors import DamageError, LockedError, StoreError
from larstore.format import FAILURE_COLUMNS, INPUT_COLUMNS, PIXEL_INDEX_COLUMNS, row_arrays, truth_bits
from larstore.index import CommittedKeys, Key
from larstore.locations import local_path
from larstore.locks import Lock
from larstore.records import BlockSpec, Failure, ImageRows, InputFile, Receipt
from larstore.root import Root, read_root
from larstore.store import Store
from larstore.table import appended

__all__ = ["BlockFull", "StoreWriter", "write_block"]


class StoreWriter:
    """Appends images to a store; holds its branch lock ``images`` while it is open.

    ``keys``: keys (file, event, tpc) of the images that are committed. ``file_numbers``: path -> file number of every
    input so far. Raises LockedError if somebody else writes.
    """

    def __init__(self, path: str | os.PathLike[str], break_lock: bool = False) -> None:
        self.path = local_path(path)
        self.keys = CommittedKeys()
        self.file_numbers: dict[str, int] = {}
        self._lock = Lock(self.path, "images", break_lock=break_lock)
        self._root = Root({})
        self._commit = -1
        self._inputs: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        read_root(self.path)  # before a lock file is made: an error for what is no store
        self._lock.acquire()
        try:
            fs.sync_tree(self.path)  # before anything rests on what a killed writer left
            root = read_root(self.path)
            mend_children(self.path, root, self._lock.check)
            self._load(root)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    def _load(self, root: Root) -> None:
        store = Store(self.path, root)
        self.keys = CommittedKeys(store.index_columns)
        inputs = store.inputs
        self._inputs = {key: row for row, key in enumerate(zip(inputs["path"], inputs["sha256"], strict=True))}
        self.file_numbers = dict(zip(inputs["path"], inputs["file"].tolist(), strict=True))
        self._root, self._commit = root, int(root.attributes["images_commit"])

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes as of the last commit."""
        return self._root.attributes

    def reserve(self, n_shards: int = 1) -> BlockSpec:
        """A new block of consecutive shards, durably marked as handed out: nobody ever gets them again."""
        if n_shards < 1:
            raise StoreError(f"reserve(n_shards={n_shards}): Fix: at least 1")
        a = self.attributes
        shard_rows = int(a["shard_rows"])
        committed = max(self._root.rows(path) for arrays in self._root.row_arrays.values() for path in arrays)
        first = max(self._lock.high_water, -(-committed // shard_rows))
        self._lock.raise_high_water(first + n_shards)
        return BlockSpec(
            first,
            n_shards,
            shard_rows,
            int(a["chunk_rows"]),
            len(a["planes"]),
            self._lock.token,
            self._root.truth_columns,
            self._root.pixels,
        )

    def commit(self, receipts: Sequence[Receipt], failures: Sequence[Failure] = (), gone: Iterable[Key] = ()) -> None:
        """Check the receipts against the files from here, then make their images and the failures visible at once.

        An image whose key is committed already takes the older one's place. ``gone``: keys of images that this commit
        takes away, as where a unit that is made again has fewer events; their rows stay on disk. Raises DamageError if
        a file is not what its receipt says, LockedError if the lock was lost; the store is as before then.
        """
        files: dict[str, Fingerprint] = {}
        for receipt in receipts:
            self._check_receipt(receipt)
            files |= receipt.files
        expect_written(self.path, files)
        rows = [row for receipt in receipts for row in receipt.images]
        inputs = [item for receipt in receipts for item in receipt.inputs]
        lost = self._gone(gone)
        if rows or failures or inputs or lost:
            self._append(rows, inputs, failures, lost)

    def delete(self, keys: Iterable[Key]) -> None:
        """Commit that these images are gone; their rows stay on disk. StoreError for a key that is not there."""
        self.commit((), gone=keys)

    def _gone(self, keys: Iterable[Key]) -> list[ImageRows]:
        chosen = sorted(set(keys))
        unknown = [key for key in chosen if key not in self.keys]
        if unknown:
            raise StoreError(f"{self.path}: no image {unknown[0]} to delete. Fix: delete committed images only")
        n_planes = len(self._root.planes)
        return [_no_image(key, n_planes) for key in chosen]

    def _check_receipt(self, receipt: Receipt) -> None:
        spec = receipt.spec
        if spec.token != self._lock.token:
            raise LockedError(
                f"{self.path}: a receipt for shard {spec.first_shard} is of another run. Fix: run it again"
            )
        start, size = spec.first_shard * spec.shard_rows, spec.n_shards * spec.shard_rows
        expected: set[str] = set()
        named = {name for row in receipt.images for name in row.truth_columns}
        for kind, arrays in row_arrays(sorted(named), spec.pixels).items():
            position = start
            for row in receipt.images:
                if getattr(row, f"{kind}_start") not in (position, -1):
                    raise DamageError(
                        f"{self.path}: receipt of image {row.file, row.event, row.tpc} is wrong. Fix: run it again"
                    )
                position += getattr(row, f"{kind}_count")
            if position > start + size:
                raise DamageError(
                    f"{self.path}: receipt for shard {spec.first_shard} exceeds its block. Fix: run it again"
                )
            shards = range(spec.first_shard, -(-position // spec.shard_rows))
            given = (layout for path, layout in layouts(self._root, spec).items() if path in arrays)
            expected |= {layout.file(shard) for layout in given for shard in shards}
        if expected != set(receipt.files):
            raise DamageError(f"{self.path}: receipt for shard {spec.first_shard} names other files. Fix: run it again")

    def _append(
        self, rows: list[ImageRows], inputs: list[InputFile], failures: Sequence[Failure], gone: list[ImageRows]
    ) -> None:
        numbers = dict(self._inputs)
        new_inputs = []
        for item in inputs:
            if (item.path, item.sha256) not in numbers:
                numbers[item.path, item.sha256] = len(numbers)
                new_inputs.append(item)
        by_path = {path: row for (path, _), row in numbers.items()}
        by_path |= {item.path: numbers[item.path, item.sha256] for item in inputs}
        shapes = {
            path: max((getattr(row, f"{kind}_start") + getattr(row, f"{kind}_count") for row in rows), default=0)
            for kind, arrays in self._root.row_arrays.items()
            for path in arrays
        }

        def change(root: Root, check: Callable[[], None]) -> tuple[list[str], list[str]]:
            a = root.attributes
            if a["images_commit"] != self._commit:
                raise LockedError(f"{self.path}: commit {a['images_commit']} was made by somebody else. Fix: run again")
            a["images_commit"] = a["commit"]
            tables = {
                "inputs": (INPUT_COLUMNS, _input_table(new_inputs)),
                "failures": (FAILURE_COLUMNS, _failure_table(failures, a["commit"])),
                "index": (None, _index_table([*gone, *rows], len(gone), by_path, root)),
            }
            changed = []
            for group, (_, table) in tables.items():
                changed += self._append_table(root, group, table, check)
            for path, n in shapes.items():
                root.set_rows(path, max(root.rows(path), n))
            return list(shapes), changed

        root = commit(self.path, self._lock, change)
        self._root, self._commit, self._inputs = root, int(root.attributes["images_commit"]), numbers
        self.file_numbers |= {item.path: item.file for item in inputs}
        for part, there in ((gone, False), (rows, True)):
            self.keys.note(((row.file, row.event, row.tpc) for row in part), there)

    def _append_table(
        self, root: Root, group: str, table: dict[str, npt.NDArray[Any]], check: Callable[[], None]
    ) -> list[str]:
        """Write a table's new rows and lengthen it in the root; returns the columns that grew."""
        changed = []
        for name, values in table.items():
            path = f"{group}/{name}"
            if len(values):
                for file, data in appended(self.path, path, root.nodes[path], values).items():
                    fs.make_directories((self.path / file).parent)
                    fs.replace(self.path / file, data, check=check)
                root.set_rows(path, root.rows(path) + len(values))
                changed.append(path)
        return changed


def _no_image(key: Key, n_planes: int) -> ImageRows:
    """The row that says a key is deleted."""
    file, event, tpc = key
    return ImageRows(
        file=file,
        event=event,
        tpc=tpc,
        voxel_start=0,
        voxel_count=0,
        truth_start=-1,
        truth_count=0,
        run=-1,
        subrun=-1,
        event_id=-1,
        input="",
        charge_sum=(0.0,) * n_planes,
        truth_sum=float("nan"),
        n_bad_channels=0,
    )


def _text(values: Iterable[str]) -> npt.NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _input_table(inputs: list[InputFile]) -> dict[str, npt.NDArray[Any]]:
    return {
        "path": _text(i.path for i in inputs),
        "file": np.array([i.file for i in inputs], np.int64),
        "size": np.array([i.size for i in inputs], np.int64),
        "sha256": _text(i.sha256 for i in inputs),
        "sample": _text(i.sample for i in inputs),
    }


def _failure_table(failures: Sequence[Failure], number: int) -> dict[str, npt.NDArray[Any]]:
    return {
        "file": np.array([f.file for f in failures], np.int64),
        "tpc": np.array([f.tpc for f in failures], np.int32),
        "input": _text(f.input for f in failures),
        "error": _text(f.error for f in failures),
        "commit": np.full(len(failures), number, np.int32),
    }


def _index_table(
    rows: list[ImageRows], n_gone: int, by_path: dict[str, int], root: Root
) -> dict[str, npt.NDArray[Any]]:
    """The index's new rows, column by column; the first ``n_gone`` are of images that are deleted."""
    plain = ("file", "event", "tpc", "voxel_count", "truth_count", "run", "subrun", "n_bad_channels")
    table: dict[str, npt.NDArray[Any]] = {n: np.array([getattr(r, n) for r in rows], np.int32) for n in plain}
    for name in ("voxel_start", "truth_start", "event_id"):
        table[name] = np.array([getattr(r, name) for r in rows], np.int64)
    table["input"] = np.array([by_path.get(r.input, -1) for r in rows], np.int32)
    table["truth_sum"] = np.array([r.truth_sum for r in rows], np.float64)
    table["commit"] = np.full(len(rows), root.attributes["commit"], np.int32)
    table["deleted"] = np.arange(len(rows)) < n_gone
    if root.truth_columns:
        table["truth_columns"] = np.array([truth_bits(r.truth_columns) for r in rows], np.int32)
    if root.pixels:
        for name, dtype in PIXEL_INDEX_COLUMNS.items():
            table[name] = np.array([getattr(r, name) for r in rows], dtype)
    for i, plane in enumerate(root.planes):
        table[f"charge_sum_{plane}"] = np.array([r.charge_sum[i] for r in rows], np.float64)
    return table
