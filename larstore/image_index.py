"""``Dataset.sel`` by file, event and TPC, which takes the voxels of the chosen images along."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing
from xarray.core.indexing import IndexSelResult

from larstore.errors import StoreError
from larstore.index import KEYS, Rows

Array = npt.NDArray[Any]


class ImageNumbers(BackendArray):
    """The image that each row belongs to, (rows,) int64, computed when indexed; ``ends``: (images,) where each ends."""

    def __init__(self, ends: Rows) -> None:
        self._ends = ends
        self.shape = (int(ends[-1]) if len(ends) else 0,)
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Any indexer of xarray's; only basic ones are asked of ``_basic``."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._basic)

    def _basic(self, key: tuple[Any, ...]) -> Any:
        (rows,) = key
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        return np.searchsorted(self._ends, rows, side="right")


class ImageIndex(xr.Index):
    """Index of a ragged Dataset's coordinates file, event, tpc (image), and ``image_of_DIMENSION``.

    ``keys``: name -> (images,); ``counts``: dimension of rows -> (images,) rows of each image. ``sel`` gives whole
    images in their order. It has coordinates along all dimensions that ``sel`` shortens, so that it is told of any
    indexing of these by position: that parts images from rows, and from then on ``sel`` is refused.
    """

    def __init__(self, keys: Mapping[str, Array], counts: Mapping[str, Array]) -> None:
        self._keys = dict(keys)
        self._ends = {name: np.cumsum(count, dtype=np.int64) for name, count in counts.items()}

    def coordinates(self) -> xr.Coordinates:
        """The coordinates that have this index."""
        variables = self._variables()
        return xr.Coordinates(variables, indexes=dict.fromkeys(variables, self))

    def _variables(self) -> dict[Any, xr.Variable]:
        """The coordinates' variables; those along rows are computed when they are asked for."""
        made: dict[Any, xr.Variable] = {k: xr.Variable("image", v, {"long_name": k}) for k, v in self._keys.items()}
        for name, ends in self._ends.items():
            about = {"long_name": f"position of each {name}'s image"}
            made[f"image_of_{name}"] = xr.Variable(name, indexing.LazilyIndexedArray(ImageNumbers(ends)), about)
        return made

    def isel(self, indexers: Mapping[Any, Any]) -> xr.Index:
        """What is left of it after indexing by position."""
        return PartedIndex()

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """The images with these labels: a number, an inclusive slice, or a list of numbers.

        Raises KeyError for a number that no image has (together with the other labels), StoreError for other labels.
        """
        keep = np.ones(len(self._keys["file"]), dtype=bool)
        for name, label in labels.items():
            if name not in self._keys or method is not None or tolerance is not None:
                raise StoreError(f"sel({name}={label!r}): Fix: select exact numbers of {', '.join(KEYS)}")
            keep &= self._having(name, label)
        may_be_empty = any(isinstance(label, slice) or np.size(label) == 0 for label in labels.values())
        if not keep.any() and not may_be_empty:
            raise KeyError("no image with " + ", ".join(f"{name}={label}" for name, label in labels.items()))
        chosen = np.flatnonzero(keep)
        positions: dict[Any, Any] = {"image": chosen}
        counts = {}
        for name, ends in self._ends.items():
            count = np.diff(ends, prepend=0)
            positions[name] = _rows_of(ends[chosen] - count[chosen], count[chosen])
            counts[name] = count[chosen]
        index = ImageIndex({name: values[chosen] for name, values in self._keys.items()}, counts)
        variables = index._variables()
        return IndexSelResult(positions, dict.fromkeys(variables, index), variables)

    def _having(self, name: str, label: Any) -> npt.NDArray[np.bool_]:
        """Which images have this label."""
        values = self._keys[name]
        if isinstance(label, slice) and label.step is None:
            low = label.start if label.start is not None else -np.inf
            high = label.stop if label.stop is not None else np.inf
            return np.asarray((values >= low) & (values <= high), dtype=bool)
        numbers = np.asarray(label)
        if numbers.ndim > 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise StoreError(f"sel({name}={label!r}): Fix: give a whole number, a list of them, or slice(first, last)")
        missing = np.setdiff1d(numbers, values)
        if len(missing):
            raise KeyError(f"no image with {name}={missing[0]}")
        return np.isin(values, numbers)

    def equals(self, other: xr.Index, **kwargs: Any) -> bool:
        """Whether the other one has the same images with the same numbers of rows."""
        if not isinstance(other, ImageIndex) or self._ends.keys() != other._ends.keys():
            return False
        pairs = [(self._keys[name], other._keys[name]) for name in KEYS]
        pairs += [(ends, other._ends[name]) for name, ends in self._ends.items()]
        return all(np.array_equal(a, b) for a, b in pairs)


class PartedIndex(xr.Index):
    """Takes an ``ImageIndex``'s place where images and rows may not belong together any more."""

    def isel(self, indexers: Mapping[Any, Any]) -> xr.Index:
        """Still parted."""
        return self

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> dict[Any, xr.Variable]:
        """None: the coordinates are indexed as all variables are."""
        return {}

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Refused with StoreError: xarray would choose images and leave the rows as they are."""
        asked = ", ".join(f"{name}={label!r}" for name, label in labels.items())
        raise StoreError(f"sel({asked}): images and rows were indexed by position. Fix: first sel, then isel")

    def equals(self, other: xr.Index, **kwargs: Any) -> bool:
        """Like without an index: what is indexed by position is taken together by position."""
        return isinstance(other, PartedIndex)


def _rows_of(start: Rows, count: Rows) -> "slice | Rows":
    """All rows of images with these starts and counts, one image after the other; a slice where they touch."""
    filled = count > 0
    start, count = start[filled], count[filled]
    if len(start) == 0:
        return slice(0, 0)
    if (start[1:] == (start + count)[:-1]).all():
        return slice(int(start[0]), int(start[-1] + count[-1]))
    before = np.cumsum(count) - count  # rows of the images before
    return np.repeat(start - before, count) + np.arange(int(count.sum()))
