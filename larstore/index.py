"""The index of images: columns loaded when first asked for, the newest row of a key wins, lookups by bisection."""

import threading
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.format import Root
from larstore.table import read_column

KEYS = ("file", "event", "tpc")
Rows = npt.NDArray[np.int64]
Key = tuple[int, int, int]
S = TypeVar("S")


def newest(file: npt.NDArray[Any], event: npt.NDArray[Any], tpc: npt.NDArray[Any], deleted: npt.NDArray[Any]) -> Rows:
    """Row numbers, in the order of their keys, of each key's newest row, unless that one says deleted."""
    if len(file) == 0:
        return np.empty(0, np.int64)
    order = np.lexsort((tpc, event, file))  # stable: within a key the newest comes last
    last = np.ones(len(order), dtype=bool)
    same = np.ones(len(order) - 1, dtype=bool)
    for column in (file, event, tpc):
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    last[:-1] = ~same
    rows: Rows = order[last].astype(np.int64, copy=False)
    alive: Rows = rows[~deleted[rows]]
    return alive


class CommittedKeys(Set[Key]):
    """The keys of an index and of later commits, as a set; costs no Python object per image of the index."""

    def __init__(self, index: "Index | None" = None) -> None:
        self._index = index
        self._changed: dict[Key, bool] = {}  # what commits since then made or deleted

    @classmethod
    def _from_iterable(cls, it: Iterable[S]) -> Set[S]:
        return frozenset(it)

    def _indexed(self, key: Key) -> bool:
        return self._index is not None and self._index.find(*key) is not None

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple) or len(key) != 3:
            return False
        return self._changed[key] if key in self._changed else self._indexed(key)

    def __iter__(self) -> Iterator[Key]:
        if self._index is not None:
            for row in self._index.live.tolist():
                key = self._index.keys(row)
                if self._changed.get(key, True):
                    yield key
        yield from (key for key, there in self._changed.items() if there and not self._indexed(key))

    def __len__(self) -> int:
        n = 0 if self._index is None else len(self._index.live)
        return n + sum(int(there) - int(self._indexed(key)) for key, there in self._changed.items())

    def note(self, keys: Iterable[Key], there: bool) -> None:
        """Record that these keys were committed or deleted."""
        self._changed |= dict.fromkeys(keys, there)


class Index:
    """Columns of ``index/``; rows are never changed, so row numbers stay valid in later commits."""

    def __init__(self, path: Path, root: Root) -> None:
        self._path = path
        self._root = root
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._live: Rows | None = None
        self._spans: dict[str, tuple[Rows, Rows]] = {}
        self._lock = threading.RLock()

    @property
    def names(self) -> list[str]:
        """Names of all columns, keys first."""
        columns = sorted(p.partition("/")[2] for p in self._root.nodes if p.startswith("index/"))
        return [*KEYS, *(name for name in columns if name not in KEYS)]

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of all rows, also replaced and deleted ones."""
        with self._lock:
            if name not in self._columns:
                self._columns[name] = read_column(self._path, f"index/{name}", self._root.nodes[f"index/{name}"])
            return self._columns[name]

    @property
    def live(self) -> Rows:
        """Row numbers of the images that exist, sorted by (file, event, tpc)."""
        with self._lock:
            if self._live is None:
                keys = [self.column(name) for name in KEYS]
                self._live = newest(keys[0], keys[1], keys[2], self.column("deleted"))
            return self._live

    def find(self, file: int, event: int, tpc: int) -> int | None:
        """Row number of a key, or None."""
        low, high = 0, len(self.live)
        for name, value in zip(KEYS, (file, event, tpc), strict=True):
            low, high = self._bisect(name, value, low, high)
        return int(self.live[low]) if high > low else None

    def _bisect(self, name: str, value: int, low: int, high: int) -> tuple[int, int]:
        """Positions in ``live`` within [low, high), where ``name`` is sorted, that hold ``value``."""
        column, live = self.column(name), self.live
        ends = []
        for side in ("left", "right"):
            a, b = low, high
            while a < b:
                middle = (a + b) // 2
                found = column[live[middle]]
                if found < value or (side == "right" and found == value):
                    a = middle + 1
                else:
                    b = middle
            ends.append(a)
        return ends[0], ends[1]

    def keys(self, row: int) -> tuple[int, int, int]:
        """(file, event, tpc) of a row."""
        file, event, tpc = (int(self.column(name)[row]) for name in KEYS)
        return file, event, tpc

    def frame(self, rows: Rows) -> pd.DataFrame:
        """The given rows as a table, indexed by (file, event, tpc)."""
        table = {name: self.column(name)[rows] for name in self.names}
        keys = pd.MultiIndex.from_arrays([table.pop(name) for name in KEYS], names=KEYS)
        return pd.DataFrame(table, index=keys)

    def owners(self, kind: str, start: int, stop: int) -> str:
        """Names of the live images with rows in [start, stop) of the arrays of a kind (voxel, truth, pixel, point)."""
        first, count = self.column(f"{kind}_start"), self.column(f"{kind}_count")
        live = self.live
        touched = live[(first[live] < stop) & (first[live] + count[live] > start)]
        names = [str(self.keys(int(row))) for row in touched[:3]]
        more = f" and {len(touched) - 3} more" if len(touched) > 3 else ""
        return "(file, event, tpc) " + ", ".join(names) + more if names else "none"
