"""Several stores as one: of the same geometry and settings, or refused with what differs; nothing is guessed."""

import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from larstore.chosen import Array, Chosen, gather_tables
from larstore.comparison import differences
from larstore.copying import note, write_store
from larstore.errors import StoreError
from larstore.format import row_arrays
from larstore.index import KEYS
from larstore.predictions import OWN_ATTRIBUTES
from larstore.store import Store, open
from larstore.workshop import refuse_target

Prefer = Literal["first", "last"]
SETTINGS = ("detector", "geometry_hash", "tick_us", "voxel_mm", "downsample", "units", "planes")


def merge(
    paths: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    prefer: Prefer | None = None,
    same_files: bool = False,
) -> Store:
    """Copy the images of several stores into a new one, bit by bit, with predictions, inputs and failures.

    Args:
        paths: the stores, two or more. Shard sizes and provenance are the first one's; the ``history`` in it says
            which stores were merged and keeps the provenance of the others.
        path: the new store.
        prefer: which store's image is taken where several hold one key; None: they must be bit-equal.
        same_files: files of one number are one recording, though their inputs differ, as where each TPC has a file
            of its own.

    An input of the same path and sha256 in several stores is one input; truth columns are those of any store.

    Raises StoreError, naming the setting, prediction, image or inputs and both values, for stores that do not belong
    together; and as ``copy_images``.
    """
    if len(paths) < 2:
        raise StoreError(f"merge of {len(paths)} store(s). Fix: give two or more")
    refuse_target(Path(path))
    stores = [open(each) for each in paths]
    for one, other in combinations(stores, 2):
        _refuse_other_settings(one, other)
    if not same_files:
        _refuse_other_inputs(stores)
    chosen = Chosen(stores, _without_doubles(stores, prefer))
    tables = gather_tables(chosen, [_open_failures(store, stores) for store in stores])
    provenance = note(stores[0].attributes["provenance"], "merge", stores)
    for source, store in zip(provenance["history"][-1]["sources"][1:], stores[1:], strict=True):
        source["provenance"] = store.attributes["provenance"]
    return write_store(Path(path), chosen, tables, provenance)


def _refuse_other_settings(one: Store, other: Store) -> None:
    """StoreError for the first setting, or prediction of the same name, that differs."""

    def settings(store: Store) -> dict[str, Any]:
        a = store.attributes
        found: dict[str, Any] = {name: a[name] for name in SETTINGS} | {"pixels kept": store.root.pixels}
        for name, value in a["provenance"].get("tiling", {}).items():
            found[f"tiling.{name}"] = value
        for path in sorted(path for arrays in shared.values() for path in arrays):
            found[f"attributes of {path}"] = store.root.nodes[path]["attributes"]  # units, rounding
        return found

    columns = [name for name in one.root.truth_columns if name in other.root.truth_columns]
    shared = row_arrays(columns, one.root.pixels and other.root.pixels)
    ours, theirs = settings(one), settings(other)
    for key in {**ours, **theirs}:
        if key == "geometry_hash" and ours[key] != theirs[key]:
            _refuse_other_geometry(one, other)
        if ours.get(key) != theirs.get(key):
            raise StoreError(
                f"{other.path}: has {key} = {theirs.get(key)}, {one.path} has {ours.get(key)}. "
                "Fix: merge stores that were made with the same settings"
            )
    for name in sorted(set(one.predictions) & set(other.predictions)):
        a, b = one.predictions[name], other.predictions[name]
        for key in sorted({*a, *b} - set(OWN_ATTRIBUTES)):
            if a.get(key) != b.get(key):
                raise StoreError(
                    f"{other.path}: prediction {name!r} has {key} = {b.get(key)}, in {one.path} {a.get(key)}. "
                    "Fix: predict one of them under another name"
                )


def _refuse_other_geometry(one: Store, other: Store) -> None:
    """StoreError for the first difference of two geometries, unless only their hashes differ."""
    found = other.geometry.difference(one.geometry)
    if found:
        raise StoreError(
            f"{other.path}: has another geometry than {one.path}: {found}. "
            "Fix: merge stores that were made with one detector and the same TPCs"
        )


def _refuse_other_inputs(stores: Sequence[Store]) -> None:
    """StoreError where one file number means different inputs in two stores; one may know fewer of them."""
    known: dict[int, tuple[Store, dict[str, str]]] = {}
    for store in stores:
        inputs: dict[int, dict[str, str]] = {}
        columns = (store.inputs[name].tolist() for name in ("file", "sha256", "path"))
        for file, sha256, place in zip(*columns, strict=True):
            inputs.setdefault(file, {})[sha256] = place
        for file, mine in sorted(inputs.items()):
            other, theirs = known.setdefault(file, (store, mine))
            if not (mine.keys() <= theirs.keys() or theirs.keys() <= mine.keys()):
                here, there = (
                    next(place for sha256, place in a.items() if sha256 not in b)
                    for a, b in ((mine, theirs), (theirs, mine))
                )
                raise StoreError(
                    f"{store.path}: its file {file} is {here}, that of {other.path} is {there}, and their contents "
                    "differ. Fix: --same-files if they are one recording, else preprocess one with other file numbers"
                )
            if len(mine) > len(theirs):
                known[file] = store, mine


def _without_doubles(stores: Sequence[Store], prefer: Prefer | None) -> list[Array]:
    """Row numbers for each store, each key once. StoreError for images of one key that differ, without ``prefer``."""
    rows = [store.select().row_numbers for store in stores]
    owner = np.repeat(np.arange(len(stores)), [len(each) for each in rows])
    row = np.concatenate(rows)
    keys = [np.concatenate([store.select().column(name) for store in stores]) for name in KEYS]
    order = np.lexsort([owner, *reversed(keys)])  # within a key in the order of the stores
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in keys:
        same &= column[order][1:] == column[order][:-1]
    first = np.append(True, ~same)[: len(order)]
    last = np.append(~same, True)[: len(order)]
    if prefer is None:
        heads = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
        for i in np.flatnonzero(~first):
            _refuse_unequal(stores, owner, row, order[heads[i]], order[i])
    kept = order[last if prefer == "last" else first]
    return [row[kept[owner[kept] == number]] for number in range(len(stores))]


def _refuse_unequal(stores: Sequence[Store], owner: Array, row: Array, a: int, b: int) -> None:
    one, other = (stores[owner[i]] for i in (a, b))
    key = one.index_columns.keys(int(row[a]))
    found = differences(one.image(*key), other.image(*key))
    if found:
        raise StoreError(
            f"image {key}: {', '.join(found)} differs between {one.path} and {other.path}. "
            "Fix: --prefer first or last, or delete one"
        )


def _open_failures(store: Store, stores: Sequence[Store]) -> pd.DataFrame:
    """The failures of a store that no other store has settled: it has images of that unit and no such failure."""
    failures = store.failures
    settled = np.zeros(len(failures), bool)
    for other in stores:
        if other is store:
            continue
        pairs = np.unique(np.stack([other.select().column(name) for name in ("file", "tpc")], axis=1), axis=0)
        done = {(file, tpc) for file, tpc in pairs.tolist()}
        files = {file for file, _ in done}
        failed = set(zip(other.failures["file"].tolist(), other.failures["tpc"].tolist(), strict=True))
        units = list(zip(failures["file"].tolist(), failures["tpc"].tolist(), strict=True))
        settled |= np.array([(u in done or (u[1] < 0 and u[0] in files)) and u not in failed for u in units], bool)
    return failures[~settled]
