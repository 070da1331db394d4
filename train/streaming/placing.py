"""Compiled steps from rows as the store has them to those of a batch: one call an array, without Python's lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from larstore.turning import use_compiled

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Places = tuple[Numbers, Numbers, Numbers]  # first row, end and place in the batch of each image


def place_coords(rows: npt.NDArray[np.uint16], images: Places, number: Numbers, out: Numbers) -> None:
    """Rows [begin, end) of ``rows`` (m, 3) of each image to ``out`` (n, 4), with its number as the fourth.

    ValueError for rows that are not there.
    """
    if not _place_coords(rows.reshape(-1), *images, number, out.reshape(-1, copy=False)):
        raise _outside(rows, images, out)


def place_rows(rows: Floats, images: Places, out: Floats) -> None:
    """Rows [begin, end) of ``rows``, (m,) or (m, w), of each image to ``out``, (n,) or (n, w). ValueError."""
    width = rows.shape[1] if rows.ndim > 1 else 1
    if not _place_flat(rows.reshape(-1), width, *images, out.reshape(-1, copy=False)):
        raise _outside(rows, images, out)


def _outside(rows: npt.NDArray[Any], images: Places, out: npt.NDArray[Any]) -> ValueError:
    begin, end, to = images
    return ValueError(f"rows {begin} to {end} of {rows.shape} do not fit {out.shape} at {to}")


def is_finite(values: Floats) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(_is_finite(values.reshape(-1).view(np.uint32)))


def weigh(truth: Floats, weight: Floats) -> None:
    """Fill ``weight`` (n,) with 1 where the truth (n,) is known, with 0 where it is not; the truth is 0 there then."""
    _weigh(truth, weight)


# Flat arrays and slices of them, so that the innermost loops become vector instructions.


@njit(cache=True, nogil=True)
def _inside(begin, end, to, n_rows, n_out):  # type: ignore[no-untyped-def]
    for i in range(begin.shape[0]):
        if begin[i] < 0 or end[i] < begin[i] or end[i] > n_rows or to[i] < 0 or to[i] + end[i] - begin[i] > n_out:
            return False
    return True


@njit(cache=True, nogil=True)
def _place_coords(rows, begin, end, to, number, out):  # type: ignore[no-untyped-def]
    if not _inside(begin, end, to, rows.shape[0] // 3, out.shape[0] // 4):
        return False
    for i in range(begin.shape[0]):
        image, n = number[i], end[i] - begin[i]
        source, target = rows[3 * begin[i] : 3 * end[i]], out[4 * to[i] : 4 * (to[i] + n)]
        for row in range(n):
            target[4 * row] = source[3 * row]
            target[4 * row + 1] = source[3 * row + 1]
            target[4 * row + 2] = source[3 * row + 2]
            target[4 * row + 3] = image
    return True


@njit(cache=True, nogil=True)
def _place_flat(rows, width, begin, end, to, out):  # type: ignore[no-untyped-def]
    if not _inside(begin, end, to, rows.shape[0] // width, out.shape[0] // width):
        return False
    for i in range(begin.shape[0]):
        first, last, at = width * begin[i], width * end[i], width * to[i]
        source, target = rows[first:last], out[at : at + last - first]
        for k in range(source.shape[0]):
            target[k] = source[k]
    return True


@njit(cache=True, nogil=True)
def _is_finite(bits):  # type: ignore[no-untyped-def]
    largest = np.uint32(0)
    for k in range(bits.shape[0]):
        largest = max(largest, bits[k] & np.uint32(0x7FFFFFFF))  # without the sign
    return largest < np.uint32(0x7F800000)  # infinity; NaN is above it


@njit(cache=True, nogil=True)
def turn_flat(columns, width, length, rows):  # type: ignore[no-untyped-def]
    """Columns of some chunks, ``width`` of ``length`` each, to rows; see `larstore.turning`."""
    for first in range(0, columns.shape[0], width * length):
        if width == 3:  # known, it is done with vectors
            x = columns[first : first + length]
            y = columns[first + length : first + 2 * length]
            z = columns[first + 2 * length : first + 3 * length]
            turned = rows[first : first + 3 * length]
            for row in range(length):
                turned[3 * row] = x[row]
                turned[3 * row + 1] = y[row]
                turned[3 * row + 2] = z[row]
        else:
            for column in range(width):
                values = columns[first + column * length : first + (column + 1) * length]
                for row in range(length):
                    rows[first + row * width + column] = values[row]


@njit(cache=True, nogil=True)
def _weigh(truth, weight):  # type: ignore[no-untyped-def]
    for row in range(truth.shape[0]):
        known = np.isfinite(truth[row])
        weight[row] = 1.0 if known else 0.0
        truth[row] = truth[row] if known else 0.0


use_compiled(turn_flat)
