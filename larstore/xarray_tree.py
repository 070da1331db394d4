"""A whole store as an xarray DataTree: what lies beside the images, labelled, with units; arrays are lazy."""

import json
from typing import Any

import numpy as np
import xarray as xr

from larstore.selection import Selection
from larstore.xarray import dataset, ragged_variable


def groups(selection: Selection) -> dict[str, xr.Dataset]:
    """Path -> Dataset, the whole store.

    ``/``: the store's attributes, what is no number or text as JSON. ``/images``: see ``dataset``. ``/inputs``
    (input_file) and ``/failures`` (failure): tables, read at once. ``/geometry`` (wire): the wires in mm; each TPC's
    frame as an attribute ``tpc_N``.
    ``/pixels`` (pixel, point), where the store keeps them: rows of the selected images one after the other,
    ``pixel_count`` and ``point_count`` (image) of each. ``/predictions/NAME``: attributes.
    """
    store = selection.store
    found = {"/": xr.Dataset(attrs=_plain(store.attributes)), "/images": dataset(selection)}
    found["/geometry"] = _geometry(selection)
    for name, table, dimension in (("inputs", store.inputs, "input_file"), ("failures", store.failures, "failure")):
        found[f"/{name}"] = xr.Dataset({column: (dimension, table[column].to_numpy()) for column in table.columns})
    for name, attributes in store.predictions.items():
        found[f"/predictions/{name}"] = xr.Dataset(attrs=_plain(attributes))
    if store.root.pixels:
        found["/pixels"] = _pixels(selection)
    return found


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as numbers and text."""
    return {key: v if isinstance(v, str | int | float) else json.dumps(v) for key, v in attributes.items()}


def _geometry(selection: Selection) -> xr.Dataset:
    geometry = selection.store.geometry
    variables: dict[str, Any] = {}
    for name, values in geometry.wires.items():
        ends = values.ndim == 2
        variables[name] = (("wire", "axis"), values, {"units": "mm"}) if ends else ("wire", values)
    frames = {f"tpc_{number}": frame.model_dump_json() for number, frame in geometry.tpcs.items()}
    described = {"detector": geometry.detector, "hash": geometry.hash} | frames
    return xr.Dataset(variables, {"axis": ("axis", np.array(["x", "y", "z"]))}, described)


def _pixels(selection: Selection) -> xr.Dataset:
    store = selection.store
    units = store.attributes["units"]
    bits = "bit p: charge of plane p comes from real wires"
    variables: dict[str, Any] = {
        "coords": ragged_variable(selection, "pixels/coords", "pixel", ("pixel", "axis"), units="tick, pixel, pixel"),
        "charge": ragged_variable(selection, "pixels/charge", "pixel", ("pixel", "plane"), units=units),
        "live": ragged_variable(selection, "pixels/live", "pixel", ("pixel",), long_name=bits),
        "truth_coords": ragged_variable(
            selection, "pixels/truth_coords", "point", ("point", "axis"), units="tick, pixel, pixel"
        ),
        "truth_value": ragged_variable(selection, "pixels/truth_value", "point", ("point",), units=units),
    }
    for name in store.root.truth_columns:
        about = {"units": units} if name == "collected" else {}
        path = f"pixels/truth_{name}"
        variables[f"truth_{name}"] = ragged_variable(selection, path, "point", ("point",), **about)
    for kind in ("pixel", "point"):
        variables[f"{kind}_count"] = ("image", selection.column(f"{kind}_count"), {"sample_dimension": kind})
    coordinates: dict[str, Any] = {name: ("image", selection.column(name)) for name in ("file", "event", "tpc")}
    coordinates["plane"] = ("plane", np.array(store.root.planes))
    coordinates["axis"] = ("axis", np.array(["x", "y", "z"]))
    return xr.Dataset(variables, coordinates)
