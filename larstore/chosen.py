"""What a new store is made of: images of some stores, in the order of their keys, and the tables that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.format import FAILURE_COLUMNS, INPUT_COLUMNS
from larstore.index import KEYS
from larstore.store import Store

Array = npt.NDArray[Any]


class Chosen:
    """Images of some stores in the order of their keys: image i is row ``row[i]`` of the index of ``stores[store[i]]``.

    ``rows``: for each store, row numbers of its index. Keys must differ.
    """

    def __init__(self, stores: Sequence[Store], rows: Sequence[Array]) -> None:
        self.stores = tuple(stores)
        self.store = np.repeat(np.arange(len(stores)), [len(each) for each in rows])
        self.row: npt.NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *rows])
        order = np.lexsort([self.column(name) for name in reversed(KEYS)])
        self.store, self.row = self.store[order], self.row[order]

    def __len__(self) -> int:
        return len(self.row)

    def column(self, name: str) -> Array:
        """(n,) one column of the index; 0 for images of a store that lacks it."""
        parts, places = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for number, store in enumerate(self.stores):
            mine = np.flatnonzero(self.store == number)
            there = name in store.index_columns.names
            parts.append(store.index_columns.column(name)[self.row[mine]] if there else np.zeros(len(mine), np.int32))
            places.append(mine)
        out: Array = np.concatenate([part for part in parts if len(part)] or parts[:1])
        out[np.concatenate(places)] = out.copy()
        return out


@dataclass(frozen=True)
class Tables:
    """What goes with the images. ``input_rows``: for each store, the row of ``inputs`` of each row of its own."""

    inputs: pd.DataFrame
    input_rows: Sequence[Array]
    failures: pd.DataFrame


def gather_tables(chosen: Chosen, failures: Sequence[pd.DataFrame], all_inputs: bool = False) -> Tables:
    """The inputs that the images need, each path and content once, and these failures.

    A store of which all images are chosen gives all its inputs, as all do with ``all_inputs``; else those with a file
    number of a chosen image.
    """
    parts: list[pd.DataFrame] = []
    for number, store in enumerate(chosen.stores):
        mine = chosen.store == number
        inputs = store.inputs
        if not all_inputs and mine.sum() < len(store):
            used = np.isin(np.arange(len(inputs)), chosen.column("input")[mine])
            inputs = inputs[used | inputs["file"].isin(chosen.column("file")[mine]).to_numpy()]
        parts.append(inputs)
    together = pd.concat(parts).drop_duplicates(["path", "sha256"])[list(INPUT_COLUMNS)].reset_index(drop=True)
    place = {key: row for row, key in enumerate(zip(together["path"], together["sha256"], strict=True))}
    rows: list[Array] = [
        np.array([place.get(key, -1) for key in zip(s.inputs["path"], s.inputs["sha256"], strict=True)], np.int32)
        for s in chosen.stores
    ]
    failed = pd.concat(list(failures))[list(FAILURE_COLUMNS)].drop_duplicates(["file", "tpc", "input"], keep="last")
    return Tables(together, rows, failed.reset_index(drop=True))
