"""Compiled steps from rows as the store has them to those of a batch: one call an array, without Python's lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def place_coords(
    rows: npt.NDArray[np.uint16], begin: Numbers, end: Numbers, to: Numbers, number: Numbers, out: Numbers
) -> None:
    """``rows[begin[i]:end[i]]`` (m, 3) to ``out`` (n, 4) from row ``to[i]`` on, with ``number[i]`` as the fourth."""
    _check(rows, begin, end, to, out)
    _place_coords(rows.reshape(-1), begin, end, to, number, out.reshape(-1))


def place_rows(rows: Floats, begin: Numbers, end: Numbers, to: Numbers, out: Floats) -> None:
    """``rows[begin[i]:end[i]]``, (m,) or (m, w), to ``out``, (n,) or (n, w), from row ``to[i]`` on."""
    _check(rows, begin, end, to, out)
    width = rows[0].size if len(rows) else 1
    _place_flat(rows.reshape(-1), begin * width, end * width, to * width, out.reshape(-1))


def is_finite(values: Floats) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(_is_finite(values.reshape(-1).view(np.uint32)))


def weigh(truth: Floats, weight: Floats) -> None:
    """Fill ``weight`` (n,) with 1 where the truth (n,) is known, with 0 where it is not; the truth is 0 there then."""
    _weigh(truth, weight)


def _check(rows: Any, begin: Numbers, end: Numbers, to: Numbers, out: Any) -> None:
    """What compiled code does not: that all of it lies within the arrays."""
    if len(begin) and not (
        begin.min() >= 0
        and (end >= begin).all()
        and end.max() <= len(rows)
        and to.min() >= 0
        and (to + end - begin).max() <= len(out)
        and out.flags.c_contiguous
    ):
        raise ValueError(f"rows {begin} to {end} of {rows.shape} do not fit {out.shape} at {to}")


# Flat arrays and slices of them, so that the innermost loops become vector instructions.


@njit(cache=True, nogil=True)
def _place_coords(rows, begin, end, to, number, out):  # type: ignore[no-untyped-def]
    for i in range(begin.shape[0]):
        image, n = number[i], end[i] - begin[i]
        source, target = rows[3 * begin[i] : 3 * end[i]], out[4 * to[i] : 4 * (to[i] + n)]
        for row in range(n):
            target[4 * row] = source[3 * row]
            target[4 * row + 1] = source[3 * row + 1]
            target[4 * row + 2] = source[3 * row + 2]
            target[4 * row + 3] = image


@njit(cache=True, nogil=True)
def _place_flat(rows, begin, end, to, out):  # type: ignore[no-untyped-def]
    for i in range(begin.shape[0]):
        source, target = rows[begin[i] : end[i]], out[to[i] : to[i] + end[i] - begin[i]]
        for k in range(source.shape[0]):
            target[k] = source[k]


@njit(cache=True, nogil=True)
def _is_finite(bits):  # type: ignore[no-untyped-def]
    largest = np.uint32(0)
    for k in range(bits.shape[0]):
        largest = max(largest, bits[k] & np.uint32(0x7FFFFFFF))  # without the sign
    return largest < np.uint32(0x7F800000)  # infinity; NaN is above it


@njit(cache=True, nogil=True)
def _weigh(truth, weight):  # type: ignore[no-untyped-def]
    for row in range(truth.shape[0]):
        known = np.isfinite(truth[row])
        weight[row] = 1.0 if known else 0.0
        truth[row] = truth[row] if known else 0.0
