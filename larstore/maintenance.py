"""A part of a store, or all of it, as a new store: copying a selection, and compacting."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from larstore.chosen import Chosen, gather_tables
from larstore.copying import note, write_store
from larstore.selection import Selection
from larstore.store import Store, open


def copy_images(
    selection: Selection, path: str | os.PathLike[str], failures: pd.DataFrame | None = None, action: str = "copy"
) -> Store:
    """Copy the images of a selection into a new store, bit by bit; returns it.

    With them go their predictions, the geometry, all settings, the provenance with a record of this copy in its
    ``history``, and the inputs of their files. Rows are written into new shards without gaps. The new store appears
    whole or not at all; memory holds one shard of one array.

    Args:
        selection: which images; the store itself is ``store.select()``.
        path: the new store.
        failures: rows of the store's ``failures`` to take along; None: those of the files of the selection, and all
            of them where it is the whole store.
        action: the name of this in the ``history``.

    Raises StoreError if the path exists or lies inside a store, DamageError if an image cannot be read ('larstore
    repair' leaves such images out).
    """
    store = selection.store
    chosen = Chosen([store], [np.unique(selection.row_numbers)])
    if failures is None:
        failures = store.failures
        if len(chosen) < len(store):
            failures = failures[failures["file"].isin(chosen.column("file"))]
    tables = gather_tables(chosen, [failures])
    return write_store(Path(path), chosen, tables, note(store.attributes["provenance"], action, [store]))


def compact(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Store:
    """Copy all images that a store still has: rows of deleted and replaced ones, and debris, stay behind.

    Inputs whose images are all deleted are kept: they tell what has been looked at. Raises as ``copy_images``.
    """
    return copy_images(open(source).select(), path, action="compact")


def size_on_disk(path: str | os.PathLike[str]) -> int:
    """Bytes of all files of a store."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
