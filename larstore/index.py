"""The index of images: columns loaded when first asked for, the newest row of a key wins, lookups by bisection."""

import math
import threading
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import DamageError
from larstore.locations import Place
from larstore.reading import ShardReader
from larstore.root import Root
from larstore.shards import layout_of
from larstore.table import read_column

LARGE_IMAGE = 1 << 26  # rows
FEW_IMAGES = 16  # numpy takes longer for so many than Python
KEYS = ("file", "event", "tpc")
Rows = npt.NDArray[np.int64]
Key = tuple[int, int, int]
S = TypeVar("S")


def sorted_rows(columns: Sequence[npt.NDArray[Any]]) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Row numbers sorted by columns of whole numbers, the first one first, equal rows as they were; (n,) each.

    The second tells where in that order a row differs from the one before.
    """
    starts = np.ones(len(columns[0]), dtype=bool)
    if len(starts) == 0:
        return np.empty(0, np.int64), starts
    lows = [int(column.min()) for column in columns]
    spans = [int(column.max()) - low + 1 for column, low in zip(columns, lows, strict=True)]
    if math.prod(spans) < 2**63:  # as one number each, they are sorted in a tenth of the time
        packed = np.zeros(len(starts), dtype=np.int64)
        for column, low, span in zip(columns, lows, spans, strict=True):
            packed *= span
            packed += column
            packed -= low
        columns = [packed]
    order = np.argsort(columns[0], kind="stable") if len(columns) == 1 else np.lexsort(tuple(reversed(columns)))
    starts[1:] = False
    for column in columns:
        ordered = column[order]
        starts[1:] |= ordered[1:] != ordered[:-1]
    return order.astype(np.int64, copy=False), starts


def newest(file: npt.NDArray[Any], event: npt.NDArray[Any], tpc: npt.NDArray[Any], deleted: npt.NDArray[Any]) -> Rows:
    """Row numbers, in the order of their keys, of each key's newest row, unless that one says deleted."""
    order, starts = sorted_rows([file, event, tpc])
    rows = order[np.append(starts[1:], True)] if len(order) else order  # within a key the newest comes last
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

    def __init__(self, path: Place, root: Root) -> None:
        self._path = path
        self._root = root
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._live: Rows | None = None
        self._spans: dict[str, tuple[Rows, Rows]] = {}
        self._totals: dict[str, int] = {}
        self._expected: set[tuple[str, int, int]] = set()
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

    def place(self, name: str, rows: Rows) -> npt.NDArray[Any]:
        """A column KIND_start or KIND_count at some rows; see ``places``."""
        kind, _, what = name.rpartition("_")
        return self.places(kind, rows)[what == "count"]

    def places(self, kind: str, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The columns KIND_start and KIND_count at some rows; DamageError where an image lies outside the arrays.

        Also where images have more rows together than there are: what is made of counts must fit what is stored.
        """
        start, count = self.column(f"{kind}_start")[rows], self.column(f"{kind}_count")[rows]
        total = self._rows_of(kind)
        if len(rows) <= FEW_IMAGES:
            pairs = list(zip(start.tolist(), count.tolist(), strict=True))
            first = next((i for i, (s, n) in enumerate(pairs) if s < -1 or n < 0 or max(s, 0) > total - n), None)
            large = [i for i, (_, n) in enumerate(pairs) if n > LARGE_IMAGE]
        else:
            wrong = (start < -1) | (count < 0) | (np.maximum(start, 0) > total - count.astype(np.int64))
            first = int(np.argmax(wrong)) if wrong.any() else None
            large = np.flatnonzero(count > LARGE_IMAGE).tolist()
        if first is not None:
            what = f"{kind} rows {start[first]} + {count[first]} outside the arrays' {total}"
            raise DamageError(
                f"{self._path}/index: {what}; image (file, event, tpc) {self.keys(int(rows[first]))}. "
                f"Fix: restore index/, or list all damage with 'larstore verify {self._path}'"
            )
        for i in large:
            self._expect(kind, int(start[i]), int(count[i]))
        return start, count

    def _expect(self, kind: str, start: int, count: int) -> None:
        """DamageError unless the rows of a large image are there: nobody should make room for a mere claim."""
        if (kind, start, count) not in self._expected:
            path = next(iter(self._root.row_arrays[kind]))
            layout = layout_of(path, self._root.nodes[path])
            ShardReader(self._path, layout, partial(self.owners, kind)).expect(start, start + count)
            self._expected.add((kind, start, count))

    def _rows_of(self, kind: str) -> int:
        """Rows that the arrays of a kind all have, once it is clear that all images together have no more."""
        with self._lock:
            if kind not in self._totals:
                total = min(self._root.rows(path) for path in self._root.row_arrays[kind])
                claimed = int(self.column(f"{kind}_count")[self.live].astype(np.int64).sum())
                if claimed > total:
                    raise DamageError(
                        f"{self._path}/index: images have {claimed} {kind} rows together, the arrays {total}. "
                        f"Fix: restore index/, or list all damage with 'larstore verify {self._path}'"
                    )
                self._totals[kind] = total
            return self._totals[kind]

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
