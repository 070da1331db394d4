"""Selections as tables in memory: one row a voxel for pandas, one record an image for Awkward Array."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import StoreError
from larstore.xarray import dataset

if TYPE_CHECKING:
    import xarray as xr

    from larstore.selection import Selection

# What a row can be -> the dimension of the Dataset that it lies along, and the column that says how many an image has.
ROWS = {"voxels": ("voxel", "voxel_count"), "truth": ("true_voxel", "truth_count")}


def to_pandas(selection: "Selection", rows: str = "voxels") -> pd.DataFrame:
    """The voxels of a selection (or its ``truth`` voxels, or its ``images``), one row each, in memory.

    Columns of voxels: x, y, z (uint16, voxels), charge_PLANE (float32, the store's units), live (uint8), truth
    (float32, NaN: not known), score_NAME of each prediction (float32, NaN: not predicted). Of truth voxels: x, y, z,
    truth_value and the truth columns that the store has, such as truth_pdg. All are indexed by the image's (file,
    event, tpc). Of images: those of the index. Raises StoreError for other rows, DamageError for damaged arrays.
    """
    if rows == "images":
        return selection.rows
    if rows not in ROWS:
        raise StoreError(f"to_pandas(rows={rows!r}): Fix: use one of images, {', '.join(ROWS)}")
    dimension, count = ROWS[rows]
    columns = _columns(dataset(selection), dimension)  # first: as many rows are there as the index says
    return pd.DataFrame(columns, index=selection.keys.repeat(selection.column(count)))


def to_awkward(selection: "Selection") -> Any:
    """A selection as an Awkward array in memory: one record an image.

    The records have the index's columns, and ``voxels`` and ``truth_voxels``: lists of records with the fields that
    ``to_pandas`` has as columns. Raises StoreError where the package awkward is not installed.
    """
    try:
        ak: Any = import_module("awkward")
    except ModuleNotFoundError as error:
        if error.name != "awkward":
            raise
        raise StoreError("to_awkward needs the package awkward. Fix: pip install awkward") from error
    found = dataset(selection)
    images = {str(name): found[name].values for name in found.variables if found[name].dims == ("image",)}
    for field, (dimension, count) in zip(("voxels", "truth_voxels"), ROWS.values(), strict=True):
        images[field] = ak.unflatten(ak.zip(_columns(found, dimension)), selection.column(count).astype(np.int64))
    return ak.zip(images, depth_limit=1)


def _columns(found: "xr.Dataset", dimension: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays along a dimension, read; those with axes or planes as one column for each of these."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, array in found.data_vars.items():
        if array.dims == (dimension,):
            columns[str(name)] = array.values
        elif array.dims[:1] == (dimension,):
            (across,) = array.dims[1:]
            values, labels = array.values, found[across].values
            prefix = "" if across == "axis" else f"{name}_"
            columns |= {f"{prefix}{label}": np.ascontiguousarray(values[:, i]) for i, label in enumerate(labels)}
    return columns
