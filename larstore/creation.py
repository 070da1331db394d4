"""A new, empty store: built beside its place, then moved there in one step."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larstore import fs
from larstore.errors import StoreError
from larstore.format import (
    CHUNK_ROWS,
    FAILURE_COLUMNS,
    FORMAT_VERSION,
    INPUT_COLUMNS,
    KEPT_BITS,
    MANTISSA_BITS,
    ROUNDED_CHARGE,
    SHARD_ROWS,
    TABLE_ROWS,
    TEXT_TABLE_ROWS,
    TRUTH_COLUMNS,
    Document,
    group_document,
    index_columns,
    row_arrays,
    sharded_document,
    to_bytes,
    voxel_size_mm,
    width_of,
)
from larstore.geometry import WIRE_COLUMNS, Geometry
from larstore.locations import local_path
from larstore.root import check, new_root
from larstore.table import appended, column_document
from larstore.workshop import refuse_target

GROUPS = ("index", "inputs", "failures", "voxels", "truth", "predictions", "geometry")


def _geometry_nodes(geometry: Geometry) -> tuple[dict[str, Document], dict[str, Any]]:
    """Documents and values of geometry/: WIRE_COLUMNS, with tail and head as x, y, z columns in mm."""
    values: dict[str, Any] = {}
    for name, dtype in WIRE_COLUMNS.items():
        column = np.ascontiguousarray(geometry.wires[name], dtype=dtype)
        if name in ("tail", "head"):
            values |= {f"{name}_{axis}": column[:, i] for i, axis in enumerate("xyz")}
        else:
            values[name] = column
    nodes = {
        f"geometry/{n}": column_document(v.dtype.name, "wire", min(max(len(v), 1), TABLE_ROWS))
        for n, v in values.items()
    }
    return nodes, {f"geometry/{n}": v for n, v in values.items()}


def _common(values: list[float | None]) -> float | None:
    """The value that all TPCs share, or None."""
    return values[0] if values and all(v == values[0] for v in values) else None


def create(
    path: str | os.PathLike[str],
    *,
    geometry: Geometry,
    downsample: tuple[int, int, int] = (8, 4, 4),
    units: str = "electrons",
    provenance: dict[str, Any],
    planes: Sequence[str] = ("u", "v", "w"),
    shard_rows: int = SHARD_ROWS,
    chunk_rows: int = CHUNK_ROWS,
    truth_columns: Sequence[str] = (),
    pixels: bool = False,
    charge_bits: int | None = None,
) -> None:
    """Create an empty store. Its directory appears whole or not at all.

    ``provenance`` is any JSON-like dict (software versions, resolved configuration). ``shard_rows`` must be a
    multiple of ``chunk_rows``. ``truth_columns``: which of collected, pdg and track the store can hold for its truth
    voxels; those that no image has cost no disk. ``pixels``: whether it can keep images at full resolution as well.
    ``charge_bits``: round the mantissas of voxels' charges to so many bits, 1 … 22 (within 2^-(bits+1) of each value; 9
    for 1e-3), which is recorded in the array; pixels keep all bits. None = all 23.
    Raises StoreError if the path exists already or lies inside a store, or a setting cannot be stored.
    """
    target = local_path(path)
    refuse_target(target)
    if chunk_rows < 1 or shard_rows < chunk_rows or shard_rows % chunk_rows:
        raise StoreError(f"shard_rows={shard_rows}, chunk_rows={chunk_rows}: Fix: whole chunks in a shard")
    if not 1 <= len(planes) <= 7:
        raise StoreError(f"planes={tuple(planes)}: Fix: name 1 to 7 planes")
    if set(truth_columns) - set(TRUTH_COLUMNS):
        raise StoreError(f"truth_columns={tuple(truth_columns)}: Fix: choose among {', '.join(TRUTH_COLUMNS)}")
    if charge_bits is not None and not 1 <= charge_bits < MANTISSA_BITS:
        raise StoreError(f"charge_bits={charge_bits}. Fix: 1 … {MANTISSA_BITS - 1}, or None for all of them")
    frames = [geometry.tpcs[n] for n in sorted(geometry.tpcs)]
    tick_us = _common([f.tick_us for f in frames])
    speed = _common([f.drift_speed_mm_us for f in frames])
    pixel = _common([f.pixel_mm for f in frames]) or 2.0
    attributes: Document = {
        "format_version": FORMAT_VERSION,
        "detector": geometry.detector,
        "geometry_hash": geometry.hash,
        "tick_us": tick_us,
        "voxel_mm": voxel_size_mm(tick_us, speed, pixel, downsample),
        "downsample": [int(n) for n in downsample],
        "units": units,
        "planes": list(planes),
        "shard_rows": shard_rows,
        "chunk_rows": chunk_rows,
        "provenance": provenance,
        "commit": 0,
        "images_commit": 0,
    }
    if geometry.joined:
        attributes["joined"] = geometry.joined
    nodes = {group: group_document() for group in (*GROUPS, *(["pixels"] if pixels else []))}
    for arrays in row_arrays(truth_columns, pixels).values():
        for name, spec in arrays.items():
            nodes[name] = sharded_document(spec, width_of(spec, len(planes)), shard_rows, chunk_rows)
            if np.dtype(spec.dtype).kind == "f":
                nodes[name]["attributes"] = {"units": units}
    if charge_bits is not None:
        name = "voxels/charge"
        nodes[name] = sharded_document(ROUNDED_CHARGE, len(planes), shard_rows, chunk_rows)
        nodes[name]["attributes"] = {"units": units, "quantization": "bit rounding", KEPT_BITS: charge_bits}
    index = index_columns(list(planes), truth_columns, pixels)
    tables = {"index": index, "inputs": INPUT_COLUMNS, "failures": FAILURE_COLUMNS}
    dimensions = {"index": "image", "inputs": "input_file", "failures": "failure"}
    for group, columns in tables.items():
        rows = TABLE_ROWS if group == "index" else TEXT_TABLE_ROWS
        nodes |= {f"{group}/{c}": column_document(kind, dimensions[group], rows) for c, kind in columns.items()}
    wire_nodes, wires = _geometry_nodes(geometry)
    nodes |= wire_nodes
    nodes["geometry"]["attributes"] = {
        "detector": geometry.detector,
        "tpcs": {str(n): geometry.tpcs[n].model_dump(mode="json") for n in sorted(geometry.tpcs)},
    }
    _build(target, attributes, nodes, wires)


def _build(target: Path, attributes: Document, nodes: dict[str, Document], wires: dict[str, Any]) -> None:
    fs.make_directories(target.parent)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        files: dict[str, bytes] = {}
        for name, values in wires.items():
            files |= appended(scratch, name, nodes[name], values)
            nodes[name]["shape"] = [len(values)]
        try:
            files |= {f"{name}/zarr.json": to_bytes(document) for name, document in nodes.items()}
            root = new_root(attributes, nodes)
            check(root)
            files["zarr.json"] = root.sealed()
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"{target}: a setting is no JSON value that can be stored ({error}). "
                "Fix: plain numbers, text, lists, of usual size"
            ) from error
        for name, data in files.items():
            fs.make_directories((scratch / name).parent)
            fs.write_new(scratch / name, data)
        fs.move_directory(scratch, target)
    except BaseException:  # Ctrl-C, too
        shutil.rmtree(scratch, ignore_errors=True)
        raise
