"""Columns of decoded chunks to rows; whoever has compiled code for it may have it used."""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
TurnFlat = Callable[[Array, int, int, Array], None]

_compiled: TurnFlat | None = None


def use_compiled(turn_flat: TurnFlat | None) -> None:
    """Have chunks turned by ``turn_flat(columns, width, chunk_rows, rows)``, flat arrays of one type; None: by numpy.

    This package has no compiler; `train.streaming.placing` has, and does it five times as fast.
    """
    global _compiled
    _compiled = turn_flat


def turn(columns: Array, out: Array) -> None:
    """Columns of some chunks, (chunks, width, chunk_rows), to their rows, of any type that holds them."""
    n, width, length = columns.shape
    alike = out.dtype == columns.dtype and out.flags.c_contiguous and columns.flags.c_contiguous
    if _compiled is not None and alike:
        _compiled(columns.reshape(-1), width, length, out.reshape(-1))
        return
    rows = out.reshape(n, length, width)
    for number in range(width):  # one at a time: numpy is 7 times slower with all at once
        rows[:, :, number] = columns[:, number]
