"""The images of a selection as pages of a list: found by file, event and TPC without reading a voxel."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from larstore.errors import InputError
from larstore.index import KEYS
from larstore.selection import Selection

MOST = 500  # rows of an answer
RANGE = re.compile(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?")
Range = tuple[int, int] | None


class Listing:
    """The images of a selection, and parts of them by ranges of file, event and TPC; safe to use from threads."""

    def __init__(self, selection: Selection) -> None:
        self.all = selection
        self._part = lru_cache(maxsize=32)(self._select)  # a search is paged through

    def part(self, asked: Mapping[str, str]) -> Selection:
        """The images that fit ``file``, ``event`` and ``tpc`` of a request: each a number, A:B (inclusive) or empty."""
        return self._part(*(one_range(asked.get(name, ""), name) for name in KEYS))

    def _select(self, file: Range, event: Range, tpc: Range) -> Selection:
        if file is event is tpc is None:
            return self.all
        found = self.all.select(files=file, events=event)
        if tpc is None:
            return found
        column = found.column("tpc")
        return found.take(np.flatnonzero((column >= tpc[0]) & (column <= tpc[1])))

    def rows(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """``count`` images from position ``start`` on, and how many there are in all."""
        part = self.part(asked)
        start = whole_number(asked.get("start", "0"), "start")
        some = part[start : start + min(whole_number(asked.get("count", "50"), "count"), MOST)]
        planes = part.store.root.planes
        names = [*KEYS, "voxel_count", "truth_count", *(f"charge_sum_{plane}" for plane in planes), "truth_sum", "run"]
        columns = [some.column(name).tolist() for name in names]
        rows = [[None if value != value else value for value in row] for row in zip(*columns, strict=True)]
        return {
            "total": len(part),
            "start": start,
            "names": names,
            "rows": rows,
            "units": part.store.attributes["units"],
        }

    def position(self, row: int) -> int | None:
        """Where an image (a row of the index) stands among all, None if it is not one of them."""
        found = np.flatnonzero(self.all.row_numbers == row)
        return int(found[0]) if len(found) else None


def one_range(text: str, name: str) -> Range:
    """``A`` or ``A:B`` as an inclusive range, None for nothing; InputError for anything else."""
    if not text.strip():
        return None
    match = RANGE.fullmatch(text)
    if match is None:
        raise InputError(f"{name} = {text!r}: is no number. Fix: for example 701, or 701:950")
    first = int(match[1])
    return first, int(match[2]) if match[2] else first


def whole_number(text: str, name: str) -> int:
    """A number ≥ 0; InputError for anything else."""
    if not re.fullmatch(r"\d{1,12}", text):
        raise InputError(f"{name} = {text!r}: is no number. Fix: a whole number, 0 or more")
    return int(text)
