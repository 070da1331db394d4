"""Stores as xarray Datasets: gaps closed, labelled, lazy; a CF contiguous ragged array."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from larstore.errors import StoreError
from larstore.format import ATTRIBUTE, CHUNK_ROWS, truth_bits
from larstore.image_index import ImageIndex
from larstore.index import KEYS, Rows
from larstore.locations import place_of
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
        """Any indexer of xarray's; only outer ones, sorted and not negative, are asked of ``_outer``."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._outer)

    def _outer(self, key: tuple[Any, ...]) -> Array:
        rows, *rest = key
        if isinstance(rows, slice):
            low, high, step = rows.indices(self.shape[0])  # xarray turns negative steps round itself
            found: Array = self._rows(low, max(low, high))[(slice(None, None, step), *rest)]
        elif isinstance(rows, np.ndarray):
            found = self._scattered(rows)[(slice(None), *rest)]
        else:
            row = int(rows) % self.shape[0]
            found = self._rows(row, row + 1)[(0, *rest)]
        return found

    def _scattered(self, rows: Rows) -> Array:
        """Some rows, sorted; those that lie near each other are read at once."""
        near = np.split(rows, np.flatnonzero(np.diff(rows) > CHUNK_ROWS) + 1)
        found = [self._rows(int(part[0]), int(part[-1]) + 1)[part - part[0]] for part in near if len(part)]
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *found])

    def _rows(self, low: int, high: int) -> Array:
        """Rows [low, high) of the closed-up array; runs that touch in the store are read at once."""
        try:
            out = np.empty((high - low, *self.shape[1:]), dtype=self.dtype)  # takes memory as it is filled
        except MemoryError as error:
            raise StoreError(f"{high - low} rows do not fit the memory. Fix: select fewer images") from error
        images = np.arange(np.searchsorted(self._ends, low, "right") - 1, np.searchsorted(self._ends, high, "left"))
        first = np.maximum(self._ends[images], low)
        last = np.minimum(self._ends[images + 1], high)
        stored = self._start[images] + first - self._ends[images]
        filled = (last > first) & (self._start[images] >= 0)
        first, last, stored = first[filled], last[filled], stored[filled]
        together = (stored[1:] == (stored + last - first)[:-1]) & (first[1:] == last[:-1])
        breaks = np.flatnonzero(~together) + 1
        done = 0
        for a, b in zip([0, *breaks], [*breaks, len(stored)], strict=True) if len(stored) else ():
            n = int(last[b - 1] - first[a])
            begin = int(first[a]) - low
            out[begin : begin + n] = self._read(int(stored[a]), int(stored[a]) + n)
            out[done:begin] = self._fill
            done = begin + n
        out[done:] = self._fill
        return out


def ragged_variable(
    selection: Selection, path: str, kind: str, dimensions: tuple[str, ...], name: str | None = None, **attrs: Any
) -> xr.Variable:
    """Rows of the selected images of a sharded array, lazy; ``name`` is that of the prediction for its scores."""
    store = selection.store
    layout = store.reader(path).layout
    start = selection.column(f"{kind}_start")
    count = selection.column(f"{kind}_count").astype(np.int64)
    column = path.removeprefix("pixels/truth_").removeprefix("truth/")
    if column in store.root.truth_columns:
        start = np.where(selection.column("truth_columns") & truth_bits([column]), start, -1)

    def read(low: int, high: int) -> Array:
        return store.read_rows(path, low, high) if name is None else store.read_scores(name, low, high)

    array = RaggedArray(start, count, layout.width, layout.dtype.newbyteorder("="), read, layout.fill)
    encoding = {"preferred_chunks": {dimensions[0]: layout.shard_rows}}  # what dask reads at once, unless told
    return xr.Variable(dimensions, indexing.LazilyIndexedArray(array), attrs, encoding)


def dataset(selection: Selection) -> xr.Dataset:
    """A selection as a Dataset.

    Dimensions image, voxel, true_voxel, plane, axis. ``voxel_count`` (image) says how many rows of ``voxel`` belong
    to each image, one after the other; ``truth_count`` likewise. ``sel`` by file, event and tpc takes the rows of the
    chosen images along; ``image_of_voxel`` (voxel) is the position of each row's image. Truth is NaN where it is not
    known, and so is ``truth_collected``; unknown ``truth_pdg`` and ``truth_track`` are -2^31. Predictions are
    ``score_NAME`` (voxel). Everything but the index is read when it is asked for.
    """
    store, attributes = selection.store, selection.store.attributes
    units, ragged = attributes["units"], partial(ragged_variable, selection)
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
            about = {"units": units} if name.startswith("charge_sum_") or name == "truth_sum" else {}
            variables[name] = ("image", selection.column(name), about)
    variables["voxel_count"] = ("image", selection.column("voxel_count"), {"sample_dimension": "voxel"})
    variables["truth_count"] = ("image", selection.column("truth_count"), {"sample_dimension": "true_voxel"})
    counts = {"voxel": selection.column("voxel_count"), "true_voxel": selection.column("truth_count")}
    coordinates = ImageIndex({name: selection.column(name) for name in KEYS}, counts).coordinates()
    for kind, rows in (("voxel", "charge"), ("true_voxel", "truth_value")):  # in the same chunks as all along them
        coordinates[f"image_of_{kind}"].encoding = dict(variables[rows].encoding)
    coordinates["plane"] = ("plane", np.array(store.root.planes))
    coordinates["axis"] = ("axis", np.array(["x", "y", "z"]))
    described = {"Conventions": "CF-1.11", "detector": attributes["detector"]}
    return xr.Dataset(variables, coordinates, described)


def _without(found: xr.Dataset, drop_variables: str | Iterable[str] | None) -> xr.Dataset:
    """A Dataset without some variables, if it has them."""
    dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or [])
    for name in found.xindexes.keys() & set(dropped):  # an index needs all its coordinates
        if name in found.xindexes:
            found = found.drop_indexes(list(found.xindexes.get_all_coords(name)))
    return found.drop_vars(dropped, errors="ignore")


def _groups_below(selection: Selection, group: str) -> dict[str, xr.Dataset]:
    """Path below ``group`` -> Dataset, ``/`` first. StoreError for a group that the store does not have."""
    from larstore.xarray_tree import groups

    found = groups(selection)
    top = "/" + group.strip("/")
    below = {"/": xr.Dataset()} | {
        path.removeprefix(top.rstrip("/")) or "/": part
        for path, part in found.items()
        if path == top or path.startswith(f"{top.rstrip('/')}/")
    }
    if top not in found and len(below) == 1:
        known = ", ".join(path.strip("/") for path in found if path != "/")
        raise StoreError(f"{selection.store.path}: no group {group!r}. Fix: one of {known}")
    return below


class LarstoreBackend(BackendEntrypoint):
    """``xarray.open_dataset(path, engine="larstore")``."""

    description = "larstore: sparse images of LArTPC events"
    supports_groups = True
    open_dataset_parameters = (
        "filename_or_obj",
        "drop_variables",
        "files",
        "events",
        "tpcs",
        "query",
        "sample",
        "storage_options",
        "group",
    )

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        files: tuple[int, int] | None = None,
        events: tuple[int, int] | None = None,
        tpcs: list[int] | None = None,
        query: str | None = None,
        sample: str | list[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        group: str | None = None,
    ) -> xr.Dataset:
        """The images that ``Store.select`` chooses with the same arguments, of the store that ``open`` opens.

        ``group``: another part of the store instead, as ``open_datatree`` names them.
        """
        selection = open(filename_or_obj, storage_options).select(files, events, tpcs, query, sample)
        if group is None or group.strip("/") == "images":
            found = dataset(selection)
        else:
            found = next(iter(_groups_below(selection, group).values()))
        return _without(found, drop_variables)

    def open_datatree(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        **chosen: Any,
    ) -> xr.DataTree:
        """The whole store: ``images`` as ``open_dataset`` gives them, and what goes with them; see ``xarray_tree``."""
        return xr.DataTree.from_dict(
            self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, group=group, **chosen)
        )

    def open_groups_as_dict(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        **chosen: Any,
    ) -> dict[str, xr.Dataset]:
        """The groups of ``open_datatree``, ``/`` first; for ``xarray.open_groups``. ``group``: that one and below."""
        selection = open(filename_or_obj, storage_options).select(**chosen)
        if drop_variables is not None and not isinstance(drop_variables, str):
            drop_variables = list(drop_variables)  # it is gone through once a group
        return {name: _without(found, drop_variables) for name, found in _groups_below(selection, group or "/").items()}

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a store of ours; a URL is not asked, so that ``engine`` must be given for it."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        root = place_of(filename_or_obj) / "zarr.json"
        return isinstance(root, Path) and root.is_file() and f'"{ATTRIBUTE}"'.encode() in root.read_bytes()[:4096]
