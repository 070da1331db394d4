"""Whether a store is still the one that was opened: commits may have been added, images may not have changed."""

from typing import Any

import numpy as np

from larstore.errors import StoreError
from larstore.index import Index
from larstore.root import read_root

SAME = ("detector", "geometry_hash", "units", "planes", "downsample", "provenance")
ROWS = ("file", "event", "tpc", "voxel_start", "voxel_count")


def remember(selection: Any) -> None:
    """Load the columns that `refuse_replaced` compares, which later would be those of another store."""
    for name in _columns(selection):
        selection.column(name)


def _columns(selection: Any) -> list[str]:
    return [*ROWS, f"charge_sum_{selection.store.root.planes[0]}"]


def refuse_replaced(selection: Any) -> None:
    """Raise StoreError where another store lies where the selection's was, or none.

    A store only grows: what was committed stays in its rows. So a newer commit is fine as long as it holds the images
    of the selection where they were. That is looked up only where there is one.
    """
    store = selection.store
    then, now = store.attributes, read_root(store.path)
    if now.attributes["sha256"] == then["sha256"]:
        return
    what = next((name for name in SAME if now.attributes.get(name) != then.get(name)), None)
    if now.attributes["commit"] <= then["commit"]:
        what = f"commit ({then['commit']} then, {now.attributes['commit']} now)"
    if what is None:
        index = Index(store.path, now)
        for name in _columns(selection):
            column = index.column(name)
            rows = selection.row_numbers
            if len(column) <= rows.max(initial=-1) or not np.array_equal(
                column[rows], selection.column(name), equal_nan=True
            ):
                what = f"index/{name}"
                break
    if what is not None:
        raise StoreError(
            f"{store.path}: was replaced by another store since it was opened: another {what}. "
            "Fix: start again with it, or put the old one back"
        )
