"""Selections: row numbers of the index, chosen without reading a voxel; images are read when asked for."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import StoreError
from larstore.format import truth_bits
from larstore.image import Image
from larstore.index import Rows

if TYPE_CHECKING:
    import xarray

    from larstore.store import Store

SPLITS = {"file": ("file",), "event": ("file", "event"), "image": ("file", "event", "tpc")}


class Selection:
    """Images of a store in the order of their keys. ``row_numbers`` are rows of the index."""

    def __init__(self, store: "Store", row_numbers: Rows) -> None:
        self.store = store
        self.row_numbers = row_numbers

    def __repr__(self) -> str:
        return f"<Selection of {len(self)} images of {self.store.path}>"

    def __len__(self) -> int:
        return len(self.row_numbers)

    @overload
    def __getitem__(self, i: int) -> Image: ...

    @overload
    def __getitem__(self, i: slice) -> "Selection": ...

    def __getitem__(self, i: "int | slice") -> "Image | Selection":
        if isinstance(i, slice):
            return Selection(self.store, self.row_numbers[i])
        return Image(self.store, int(self.row_numbers[i]))

    def __iter__(self) -> Iterator[Image]:
        return (self[i] for i in range(len(self)))

    @property
    def rows(self) -> pd.DataFrame:
        """The index's rows of these images, indexed by (file, event, tpc)."""
        return self.store.index_columns.frame(self.row_numbers)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of the index for these images."""
        return self.store.index_columns.column(name)[self.row_numbers]

    def select(
        self,
        files: tuple[int, int] | None = None,
        events: tuple[int, int] | None = None,
        tpcs: Sequence[int] | None = None,
        query: str | None = None,
    ) -> "Selection":
        """A part of this selection; see ``Store.select``."""
        return choose(self, files, events, tpcs, query)

    def split(self, fraction: float, seed: int, by: str = "file") -> tuple["Selection", "Selection"]:
        """Two disjoint parts, the first with about ``fraction`` of the files ("event", "image": of these).

        All images of one file (event) land on the same side, and both sides get at least one. The same seed and
        selection give the same split. Raises StoreError for a fraction outside (0, 1), or fewer than two groups.
        """
        if by not in SPLITS or not 0 < fraction < 1:
            raise StoreError(f"split({fraction}, by={by!r}): Fix: 0 < fraction < 1 and by = one of {', '.join(SPLITS)}")
        keys = np.stack([self.column(name) for name in SPLITS[by]], axis=1)
        groups, member = np.unique(keys, axis=0, return_inverse=True)
        if len(groups) < 2:
            raise StoreError(f"{self.store.path}: cannot split {len(groups)} {by}(s). Fix: split by event or image")
        n_first = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
        chosen = np.zeros(len(groups), dtype=bool)
        chosen[np.random.default_rng(seed).permutation(len(groups))[:n_first]] = True
        first = chosen[member.reshape(-1)]
        return Selection(self.store, self.row_numbers[first]), Selection(self.store, self.row_numbers[~first])

    def read(self, i_start: int, i_stop: int, prediction: str | None = None) -> list[Image]:
        """Images i_start … i_stop - 1 with all their arrays loaded; neighbours in the store are read together.

        With ``prediction`` its scores are loaded too. Truth is loaded where there is any.
        """
        numbers = self.row_numbers[i_start:i_stop]
        loaded: list[dict[str, npt.NDArray[Any]]] = [{} for _ in numbers]
        paths = ["voxels/coords", "voxels/charge", "voxels/live", "voxels/truth"]
        columns = self.store.index_columns
        self._load(paths, "voxel", numbers, loaded, prediction)
        if (columns.column("truth_start")[numbers] >= 0).any():
            self._load(["truth/coords", "truth/value"], "truth", numbers, loaded, None)
        for name in self.store.root.truth_columns:
            has = np.flatnonzero(columns.column("truth_columns")[numbers] & truth_bits([name]))
            self._load([f"truth/{name}"], "truth", numbers[has], [loaded[i] for i in has], None)
        return [Image(self.store, int(row), arrays) for row, arrays in zip(numbers, loaded, strict=True)]

    def _load(
        self,
        paths: list[str],
        kind: str,
        numbers: Rows,
        loaded: list[dict[str, npt.NDArray[Any]]],
        prediction: str | None,
    ) -> None:
        """Read each run of images that touch in the store at once and give every image its part."""
        start = self.store.index_columns.column(f"{kind}_start")[numbers]
        count = self.store.index_columns.column(f"{kind}_count")[numbers].astype(np.int64)
        order = np.argsort(start, kind="stable")
        order = order[start[order] >= 0]
        if len(order) == 0:
            return
        ends = (start + count)[order]
        breaks = np.flatnonzero(start[order][1:] != ends[:-1]) + 1
        for run in np.split(order, breaks):
            low, high = int(start[run[0]]), int((start[run] + count[run]).max())
            arrays = {path: self.store.read_rows(path, low, high) for path in paths}
            if prediction is not None:
                arrays[f"predictions/{prediction}/score"] = self.store.read_scores(prediction, low, high)
            for i in run:
                part = slice(int(start[i]) - low, int(start[i] + count[i]) - low)
                loaded[i].update({path: values[part] for path, values in arrays.items()})

    def to_xarray(self) -> "xarray.Dataset":
        """These images as one lazy Dataset, a CF contiguous ragged array; see ``larstore.xarray``."""
        from larstore.xarray import dataset

        return dataset(self)


def _in_range(values: npt.NDArray[Any], name: str, bounds: tuple[int, int]) -> npt.NDArray[np.bool_]:
    try:
        low, high = bounds
    except (TypeError, ValueError) as error:
        raise StoreError(f"select({name}={bounds!r}): Fix: give an inclusive range, (first, last)") from error
    return np.asarray((values >= low) & (values <= high))


def choose(
    selection: Selection,
    files: tuple[int, int] | None,
    events: tuple[int, int] | None,
    tpcs: Sequence[int] | None,
    query: str | None,
) -> Selection:
    """The images of ``selection`` that fit all conditions."""
    keep = np.ones(len(selection), dtype=bool)
    if files is not None:
        keep &= _in_range(selection.column("file"), "files", files)
    if events is not None:
        keep &= _in_range(selection.column("event"), "events", events)
    if tpcs is not None:
        keep &= np.isin(selection.column("tpc"), list(tpcs))
    chosen = Selection(selection.store, selection.row_numbers[keep])
    if query is None:
        return chosen
    rows = chosen.rows
    rows["_position"] = np.arange(len(rows))
    try:
        position = rows.query(query)["_position"].to_numpy()
    except (ValueError, TypeError, KeyError, SyntaxError, NameError, AttributeError, NotImplementedError) as error:
        names = ", ".join(selection.store.index_columns.names)
        reason = str(error).splitlines()[0]
        raise StoreError(f"select(query={query!r}): {reason}. Fix: use the columns {names}") from error
    return Selection(selection.store, chosen.row_numbers[position])
