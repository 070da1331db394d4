"""Selections: row numbers of the index, chosen without reading a voxel; images are read when asked for."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.conditions import Conditions, Where
from larstore.errors import ConfigError, StoreError
from larstore.format import PLACES, truth_bits
from larstore.image import Image
from larstore.index import KEYS, Rows
from larstore.splitting import first_side

if TYPE_CHECKING:
    import xarray

    from larstore.store import Store

SPLITS = {"file": ("file",), "event": ("file", "event"), "image": ("file", "event", "tpc")}


class Selection:
    """Images of a store, in the order of their keys unless a slice says otherwise; nothing but the index is read.

    ``row_numbers`` are rows of the index; ``conditions`` say in words how they were chosen, for the repr.
    """

    def __init__(self, store: "Store", row_numbers: Rows, conditions: tuple[str, ...] = ()) -> None:
        self.store = store
        self.row_numbers = row_numbers
        self.conditions = conditions

    def __repr__(self) -> str:
        how = "".join(f"; {condition}" for condition in self.conditions)
        return f"<Selection of {len(self)} images of {self.store.path}{how}>"

    def _repr_html_(self) -> str:
        from larstore.notebook_views import selection_html

        return selection_html(self)

    def __len__(self) -> int:
        return len(self.row_numbers)

    @overload
    def __getitem__(self, i: int) -> Image: ...

    @overload
    def __getitem__(self, i: slice) -> "Selection": ...

    def __getitem__(self, i: "int | slice") -> "Image | Selection":
        if isinstance(i, slice):
            shown = ":".join("" if bound is None else str(bound) for bound in (i.start, i.stop, i.step))
            return Selection(self.store, self.row_numbers[i], (*self.conditions, f"[{shown.removesuffix(':')}]"))
        return Image(self.store, int(self.row_numbers[i]))

    def __iter__(self) -> Iterator[Image]:
        return (self[i] for i in range(len(self)))

    @property
    def rows(self) -> pd.DataFrame:
        """The index's rows of these images, indexed by (file, event, tpc)."""
        return self.store.index_columns.frame(self.row_numbers)

    @property
    def keys(self) -> pd.MultiIndex:
        """(file, event, tpc) of each image."""
        return pd.MultiIndex.from_arrays([self.column(name) for name in KEYS], names=KEYS)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of the index for these images. DamageError where it places them outside the arrays."""
        if name in PLACES:
            return self.store.index_columns.place(name, self.row_numbers)
        return self.store.index_columns.column(name)[self.row_numbers]

    def take(self, positions: Rows, how: str = "") -> "Selection":
        """The images at these positions of this selection, in this order; ``how`` they were chosen, for the repr."""
        return Selection(self.store, self.row_numbers[positions], (*self.conditions, how) if how else self.conditions)

    def select(
        self,
        files: tuple[int, int] | None = None,
        events: tuple[int, int] | None = None,
        tpcs: Sequence[int] | None = None,
        query: str | None = None,
        sample: str | Sequence[str] | None = None,
        where: "Where | None" = None,
    ) -> "Selection":
        """A part of this selection; see ``Store.select``. A mask in ``where`` has an entry for each image of it."""
        conditions = Conditions(files, events, tpcs, query, sample, where)
        return self.take(conditions.positions(self), str(conditions))

    def split(self, fraction: float, seed: int, by: str = "file") -> tuple["Selection", "Selection"]:
        """Two disjoint parts, the first with about ``fraction`` of the images; ``by`` file, event or image.

        All images of one file (event) land on the same side, and both sides get at least one. What lands where
        follows from the seed and the keys alone; see ``larstore.splitting``. Raises StoreError for a fraction outside
        (0, 1), or fewer than two groups.
        """
        if by not in SPLITS or not 0 < fraction < 1 or not isinstance(seed, int | np.integer):
            fix = f"Fix: 0 < fraction < 1, a whole number as seed, and by = one of {', '.join(SPLITS)}"
            raise StoreError(f"split({fraction}, {seed!r}, by={by!r}): {fix}")
        first = first_side([self.column(name) for name in SPLITS[by]], fraction, int(seed))
        if first is None:
            raise StoreError(f"{self!r}: cannot split fewer than two {by}s. Fix: split more images, by event or image")
        how = f"of split({fraction}, {int(seed)}, by={by!r})"
        return self.take(np.flatnonzero(first), f"first {how}"), self.take(np.flatnonzero(~first), f"second {how}")

    def read(self, i_start: int, i_stop: int, prediction: str | None = None) -> list[Image]:
        """Images i_start … i_stop - 1 with all their arrays loaded; neighbours in the store are read together.

        With ``prediction`` its scores are loaded too. Truth is loaded where there is any.
        """
        numbers = self.row_numbers[i_start:i_stop]
        loaded: list[dict[str, npt.NDArray[Any]]] = [{} for _ in numbers]
        paths = ["voxels/coords", "voxels/charge", "voxels/live", "voxels/truth"]
        columns = self.store.index_columns
        self._load(paths, "voxel", numbers, loaded, prediction)
        if max(columns.column("truth_start")[numbers].tolist(), default=-1) >= 0:
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
        starts, counts = (column.tolist() for column in self.store.index_columns.places(kind, numbers))
        order = sorted((start, i) for i, start in enumerate(starts) if start >= 0)
        breaks = [n for n, ((a, i), (b, _)) in enumerate(pairwise(order), 1) if b != a + counts[i]]
        for first, last in pairwise([0, *breaks, len(order)]):
            run = order[first:last]
            if not run:
                return
            low, high = run[0][0], max(start + counts[i] for start, i in run)
            arrays = self.store.read_arrays(paths, low, high)
            if prediction is not None:
                arrays[f"predictions/{prediction}/score"] = self.store.read_scores(prediction, low, high)
            for start, i in run:
                part = slice(start - low, start + counts[i] - low)
                loaded[i].update({path: values[part] for path, values in arrays.items()})

    def to_xarray(self) -> "xarray.Dataset":
        """These images as one lazy Dataset, a CF contiguous ragged array; see ``larstore.xarray``."""
        from larstore.xarray import dataset

        return dataset(self)

    def to_pandas(self, rows: str = "voxels") -> pd.DataFrame:
        """A table in memory, one row a voxel ("voxels"), truth voxel ("truth") or image ("images")."""
        from larstore.table_views import to_pandas

        return to_pandas(self, rows)

    def to_awkward(self) -> Any:
        """An Awkward array in memory, one record an image; needs the package awkward. See ``larstore.table_views``."""
        from larstore.table_views import to_awkward

        return to_awkward(self)


def expect_tpcs(store: "Store", tpcs: Sequence[int] | None, what: str) -> None:
    """ConfigError if the store has no image of one of these TPCs; ``what`` named them."""
    if not tpcs:
        return
    known = np.unique(store.select().column("tpc")).tolist()
    unknown = sorted(set(tpcs) - set(known))
    if unknown:
        raise ConfigError(
            f"{store.path}: has no image of TPC {', '.join(map(str, unknown))}. "
            f"Fix: {what} among {', '.join(map(str, known)) or 'none, it holds no image'}"
        )
