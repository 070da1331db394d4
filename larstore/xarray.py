"""Stores as xarray Datasets: gaps closed, labelled, lazy; a CF contiguous ragged array."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from larstore.format import ATTRIBUTE, truth_bits
from larstore.index import KEYS, Rows
from larstore.selection import Selection
from larstore.store import open

Array = npt.NDArray[Any]


class RaggedArray(BackendArray):
    """Rows of the selected images one after the other, read when indexed. ``read(start, stop)`` gives stored rows.

    Images whose ``start`` is -1 have no stored rows: ``fill`` stands for theirs.
    """

    def __init__(
        self,
        start: Rows,
        count: Rows,
        width: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[int, int], Array],
        fill: Any,
    ) -> None:
        self._start = start
        self._fill = fill
        self._ends = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        self.shape = (int(self._ends[-1]), *width)
        self.dtype = dtype
        self._read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Any indexer of xarray's; only basic ones are asked of ``_basic``."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._basic)

    def _basic(self, key: tuple[Any, ...]) -> Array:
        rows, *rest = key
        if isinstance(rows, slice):
            low, high, step = rows.indices(self.shape[0])  # xarray turns negative steps round itself
            found: Array = self._rows(low, max(low, high))[(slice(None, None, step), *rest)]
        else:
            row = int(rows) % self.shape[0]
            found = self._rows(row, row + 1)[(0, *rest)]
        return found

    def _rows(self, low: int, high: int) -> Array:
        """Rows [low, high) of the closed-up array; runs that touch in the store are read at once."""
        out = np.full((high - low, *self.shape[1:]), self._fill, dtype=self.dtype)
        if high <= low:
            return out
        images = np.arange(np.searchsorted(self._ends, low, "right") - 1, np.searchsorted(self._ends, high, "left"))
        first = np.maximum(self._ends[images], low)
        last = np.minimum(self._ends[images + 1], high)
        stored = self._start[images] + first - self._ends[images]
        filled = (last > first) & (self._start[images] >= 0)
        first, last, stored = first[filled], last[filled], stored[filled]
        together = (stored[1:] == (stored + last - first)[:-1]) & (first[1:] == last[:-1])
        breaks = np.flatnonzero(~together) + 1
        for a, b in zip([0, *breaks], [*breaks, len(stored)], strict=True):
            n = int(last[b - 1] - first[a])
            begin = int(first[a]) - low
            out[begin : begin + n] = self._read(int(stored[a]), int(stored[a]) + n)
        return out


def dataset(selection: Selection) -> xr.Dataset:
    """A selection as a Dataset.

    Dimensions image, voxel, true_voxel, plane, axis. ``voxel_count`` (image) says how many rows of ``voxel`` belong
    to each image, one after the other; ``truth_count`` likewise. Truth is NaN where it is not known, and so is
    ``truth_collected``; unknown ``truth_pdg`` and ``truth_track`` are -2^31. Predictions are ``score_NAME`` (voxel).
    Everything but the index is read when it is asked for.
    """
    store, attributes = selection.store, selection.store.attributes
    units = attributes["units"]

    def ragged(path: str, kind: str, dimensions: tuple[str, ...], name: str | None = None, **attrs: Any) -> xr.Variable:
        layout = store.reader(path).layout
        start = selection.column(f"{kind}_start")
        count = selection.column(f"{kind}_count").astype(np.int64)
        column = path.removeprefix("truth/")
        if column in store.root.truth_columns:
            start = np.where(selection.column("truth_columns") & truth_bits([column]), start, -1)

        def read(low: int, high: int) -> Array:
            return store.read_rows(path, low, high) if name is None else store.read_scores(name, low, high)

        array = RaggedArray(start, count, layout.width, layout.dtype.newbyteorder("="), read, layout.fill)
        return xr.Variable(dimensions, indexing.LazilyIndexedArray(array), attrs)

    variables: dict[str, Any] = {
        "coords": ragged(
            "voxels/coords", "voxel", ("voxel", "axis"), units="voxel", voxel_mm=str(attributes["voxel_mm"])
        ),
        "charge": ragged("voxels/charge", "voxel", ("voxel", "plane"), units=units),
        "live": ragged("voxels/live", "voxel", ("voxel",), long_name="bit p: charge of plane p comes from real wires"),
        "truth": ragged("voxels/truth", "voxel", ("voxel",), units=units),
        "truth_coords": ragged("truth/coords", "truth", ("true_voxel", "axis"), units="voxel"),
        "truth_value": ragged("truth/value", "truth", ("true_voxel",), units=units),
    }
    for name in store.root.truth_columns:
        about = {"units": units} if name == "collected" else {"long_name": f"{name} of the particle that gave most"}
        variables[f"truth_{name}"] = ragged(f"truth/{name}", "truth", ("true_voxel",), **about)
    for name in store.predictions:
        variables[f"score_{name}"] = ragged(f"predictions/{name}/score", "voxel", ("voxel",), name)
    places = {"voxel_start", "truth_start", "pixel_start", "point_start", "deleted", "truth_columns", *KEYS}
    for name in store.index_columns.names:
        if name not in places:
            variables[name] = ("image", selection.column(name))
    variables["voxel_count"] = ("image", selection.column("voxel_count"), {"sample_dimension": "voxel"})
    variables["truth_count"] = ("image", selection.column("truth_count"), {"sample_dimension": "true_voxel"})
    coordinates: dict[str, Any] = {name: ("image", selection.column(name), {"long_name": name}) for name in KEYS}
    coordinates["plane"] = ("plane", np.array(store.root.planes))
    coordinates["axis"] = ("axis", np.array(["x", "y", "z"]))
    described = {"Conventions": "CF-1.11", "detector": attributes["detector"]}
    return xr.Dataset(variables, coordinates, described)


class LarstoreBackend(BackendEntrypoint):
    """``xarray.open_dataset(path, engine="larstore")``."""

    description = "larstore: sparse images of LArTPC events"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "files", "events", "tpcs", "query")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        files: tuple[int, int] | None = None,
        events: tuple[int, int] | None = None,
        tpcs: list[int] | None = None,
        query: str | None = None,
    ) -> xr.Dataset:
        """The images that ``Store.select`` chooses with the same arguments."""
        found = dataset(open(filename_or_obj).select(files, events, tpcs, query))
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or [])
        return found.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a store of ours."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        root = Path(filename_or_obj) / "zarr.json"
        return root.is_file() and f'"{ATTRIBUTE}"'.encode() in root.read_bytes()[:4096]
