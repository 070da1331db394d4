"""Chosen images of one or several stores in a new one: checked rows in, fresh shards out, whole or not at all.

The new store is built in a directory beside its place and moved there at the end. Rows are copied array by array and
shard by shard, so that memory holds one shard of one array, however large images are.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from larstore import fs
from larstore.chosen import Array, Chosen, Tables
from larstore.commit import write_child
from larstore.creation import create
from larstore.errors import StoreError
from larstore.format import (
    FAILURE_COLUMNS,
    INPUT_COLUMNS,
    SCORE,
    TRUTH_COLUMNS,
    group_document,
    sharded_document,
    truth_bits,
)
from larstore.predictions import OWN_ATTRIBUTES, ranges
from larstore.root import Root, new_root, read_root
from larstore.row_copying import copy_rows, places, runs_of
from larstore.shards import layout_of
from larstore.store import Store
from larstore.table import appended
from larstore.workshop import workshop

OF_A_COMMIT = ("commit", "images_commit", "provenance", "sha256")  # attributes that a copy has of its own


def note(provenance: dict[str, Any], action: str, stores: Sequence[Store]) -> dict[str, Any]:
    """A store's provenance, and in its ``history`` what was done now to which stores, by which version, and when."""
    sources = [{"store": str(store.path.resolve()), "commit": store.attributes["commit"]} for store in stores]
    entry = {
        "action": action,
        "sources": sources,
        "larstore": version("larstore"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return provenance | {"history": [*provenance.get("history", []), entry]}


def write_store(
    target: Path,
    chosen: Chosen,
    tables: Tables,
    provenance: dict[str, Any],
    without_scores: dict[str, Array] | None = None,
    leave_out: Sequence[str] = (),
) -> Store:
    """Write a new store with these images, bit by bit, their predictions and tables; settings are the first store's.

    Args:
        target: where; must not exist, nor lie inside a store.
        chosen: the images; the stores must agree in all settings but the truth columns.
        tables: inputs and failures.
        provenance: the new store's.
        without_scores: prediction -> (n,) whether an image's scores are left out, as if it were not predicted.
        leave_out: predictions that are not copied.

    Raises StoreError for a target or a setting that cannot be, DamageError for a row that fails its checksum; there is
    no new store then. An image lies within one shard of the voxels, unless it is larger than one, so that predictions
    can be made shard by shard; there are no other gaps.
    """
    first = chosen.stores[0]
    with workshop(target) as bench:
        place = bench / "store"
        _create_like(place, chosen.stores, provenance)
        root = read_root(place).copy()
        _describe_like(root, first)
        starts = _copy_arrays(place, root, chosen)
        for name, attributes in _predictions(chosen.stores).items():
            if name not in leave_out:
                keep = ~(without_scores or {}).get(name, np.zeros(len(chosen), bool))
                _copy_prediction(place, root, chosen, starts["voxel"], name, attributes, keep)
        _fill_tables(place, root, chosen, starts, tables)
        root.attributes["commit"] = root.attributes["images_commit"] = 1
        done = new_root(root.attributes, root.nodes)
        for node, document in done.nodes.items():
            write_child(place, node, document)
        fs.replace(place / "zarr.json", done.sealed())
        fs.move_directory(place, target)
    return Store(target)


def _create_like(place: Path, stores: Sequence[Store], provenance: dict[str, Any]) -> None:
    a = stores[0].attributes
    known = {name for store in stores for name in store.root.truth_columns}
    create(
        place,
        geometry=stores[0].geometry,
        downsample=a["downsample"],
        units=a["units"],
        provenance=provenance,
        planes=a["planes"],
        shard_rows=a["shard_rows"],
        chunk_rows=a["chunk_rows"],
        truth_columns=[name for name in TRUTH_COLUMNS if name in known],
        pixels=stores[0].root.pixels,
    )


def _describe_like(root: Root, source: Store) -> None:
    """Let the new store say all that the source says of itself and its arrays, codecs and rounding among it.

    StoreError where it cannot: never a silent loss.
    """
    described = source.root.copy()
    for path in (path for arrays in source.root.row_arrays.values() for path in arrays):
        root.nodes[path] = described.nodes[path]
        root.set_rows(path, 0)
    ours, theirs = root.attributes, source.attributes
    for key in sorted({*ours, *theirs} - set(OF_A_COMMIT)):
        if ours.get(key) != theirs.get(key):
            raise StoreError(
                f"{source.path}: has {key} = {theirs.get(key)}, a copy would have {ours.get(key)}. "
                "Fix: use the version of larstore that wrote it"
            )


def _copy_arrays(place: Path, root: Root, chosen: Chosen) -> dict[str, Array]:
    """Copy all arrays of the images; returns for each kind of row where each image's begin."""
    starts = {}
    bits = chosen.column("truth_columns") if root.truth_columns else np.zeros(len(chosen), np.int32)
    for kind, arrays in root.row_arrays.items():
        source = chosen.column(f"{kind}_start").astype(np.int64)
        count = np.where(source < 0, 0, chosen.column(f"{kind}_count")).astype(np.int64)
        at = places(count, root.attributes["shard_rows"]) if kind == "voxel" else np.cumsum(count) - count
        rows = int((at + count).max(initial=0))
        for path in arrays:
            root.set_rows(path, rows)
            column = path.rpartition("/")[2].removeprefix("truth_")
            optional = kind in ("truth", "point") and column in TRUTH_COLUMNS
            keep = (bits & truth_bits([column])) != 0 if optional else np.ones(len(chosen), bool)

            runs = runs_of(chosen.store, source, at, count, keep)

            def read(store: Store, start: int, stop: int, path: str = path) -> Array:
                return store.read_rows(path, start, stop)

            copy_rows(place, layout_of(path, root.nodes[path]), chosen.stores, runs, read)
        starts[kind] = np.where(source < 0, source, at)
    return starts


def _predictions(stores: Sequence[Store]) -> dict[str, dict[str, Any]]:
    """Name and attributes of all predictions; of one that several stores have, those of the first of them."""
    known = {name: attributes for store in reversed(stores) for name, attributes in store.predictions.items()}
    return dict(sorted(known.items()))


def _copy_prediction(
    place: Path, root: Root, chosen: Chosen, at: Array, name: str, attributes: dict[str, Any], keep: Array
) -> None:
    """Copy the scores of the images to keep, NaN where a store has none; a shard without any is not written."""
    a, group, array = root.attributes, f"predictions/{name}", f"predictions/{name}/score"
    root.nodes[array] = sharded_document(SCORE, None, a["shard_rows"], a["chunk_rows"], root.rows("voxels/coords"))

    def read(store: Store, start: int, stop: int) -> Array:
        if name in store.predictions:
            return store.read_scores(name, start, stop)
        return np.full(stop - start, np.nan, np.float32)

    source, count = chosen.column("voxel_start").astype(np.int64), chosen.column("voxel_count").astype(np.int64)
    runs = runs_of(chosen.store, source, at, count, keep)
    done = copy_rows(place, layout_of(array, root.nodes[array]), chosen.stores, runs, read, score=True)
    own = {key: value for key, value in attributes.items() if key not in OWN_ATTRIBUTES}
    root.nodes[group] = group_document(own | {"done": ranges(done), "commit": 1})


def _fill_tables(place: Path, root: Root, chosen: Chosen, starts: dict[str, Array], tables: Tables) -> None:
    index = {name.partition("/")[2] for name in root.nodes if name.startswith("index/")}
    values: dict[str, Array] = {f"index/{name}": chosen.column(name) for name in index}
    values |= {f"index/{kind}_start": at for kind, at in starts.items()}
    old, new = chosen.column("input"), np.full(len(chosen), -1, np.int32)
    for number, rows in enumerate(tables.input_rows):
        mine = np.flatnonzero((chosen.store == number) & (old >= 0))
        new[mine] = rows[old[mine]]
    values |= {"index/input": new, "index/commit": np.ones(len(chosen), np.int32)}
    values |= {f"inputs/{name}": tables.inputs[name].to_numpy() for name in INPUT_COLUMNS}
    values |= {f"failures/{name}": tables.failures[name].to_numpy() for name in FAILURE_COLUMNS if name != "commit"}
    values["failures/commit"] = np.ones(len(tables.failures), np.int32)
    for path, column in values.items():
        for file, data in appended(place, path, root.nodes[path], column).items():
            fs.make_directories((place / file).parent)
            fs.write_new(place / file, data)
        root.set_rows(path, len(column))
