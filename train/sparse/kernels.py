"""Numba kernels of the native backend: bare loops over float32 arrays that write into what they are given.

A thread owns blocks of output rows, or fixed parts of a sum: there are no atomics, and the result has the same bits for
any number of threads.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, prange

from train.sparse.tiles import make_outer_tile, make_row_tile


def _rows_of_a_tile() -> tuple[int, int]:
    """Rows whose sums of 16 floats fit the vector registers, for `multiply` and for `weight_gradient`."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 8, 8
    return (6, 4) if features.get("avx2") else (4, 4)


ROWS, CHANNELS = _rows_of_a_tile()


def _make_columns(width: int) -> Any:
    """A loop over pairs for ``width`` columns of the output."""
    tile = make_row_tile(ROWS, width)

    @njit(nogil=True)
    def columns(x, w, y, pairs, first, stop, c_in, c_out, column):  # type: ignore[no-untyped-def]
        for pair in range(first, stop, ROWS):
            tile(x, w, y, pairs, pair, stop, c_in, c_out, column)

    return columns


def _make_outer_columns(width: int) -> Any:
    """A loop over input channels for ``width`` columns of a weight's gradient."""
    many, four, one = (make_outer_tile(rows, width) for rows in (CHANNELS, 4, 1))

    @njit(nogil=True)
    def columns(x, g, y, pairs, first, stop, c_in, c_out, column):  # type: ignore[no-untyped-def]
        channel = 0
        while channel < c_in:
            left = c_in - channel
            if left >= CHANNELS:
                many(x, g, y, pairs, first, stop, c_in, c_out, channel, column)
                channel += CHANNELS
            elif left >= 4:
                four(x, g, y, pairs, first, stop, c_in, c_out, channel, column)
                channel += 4
            else:
                one(x, g, y, pairs, first, stop, c_in, c_out, channel, column)
                channel += 1

    return columns


_columns_16, _columns_8, _columns_4, _columns_1 = (_make_columns(width) for width in (16, 8, 4, 1))
_outer_16, _outer_8, _outer_4, _outer_1 = (_make_outer_columns(width) for width in (16, 8, 4, 1))


@njit(cache=True, parallel=True, nogil=True)
def multiply(features, weight, pairs, bounds, block, added, out):  # type: ignore[no-untyped-def]
    """``out[o] = added[o] + Σ features[i] · weight[k]`` over the pairs (i, o) of each offset k; no rows added: zeros.

    ``bounds[b · volume + k]``: where those of offset k among the output rows [b · block, (b + 1) · block) lie.
    """
    volume, c_in, c_out = weight.shape
    x, w, y, p = features.ctypes.data, weight.ctypes.data, out.ctypes.data, pairs.ctypes.data
    for b in prange((out.shape[0] + block - 1) // block):
        if added.shape[0] > 0:
            out[b * block : (b + 1) * block] = added[b * block : (b + 1) * block]
        else:
            out[b * block : (b + 1) * block] = 0.0
        for k in range(volume):
            first, stop = bounds[b * volume + k, 0], bounds[b * volume + k, 1]
            wk = w + 4 * k * c_in * c_out
            column = 0
            while first < stop and column < c_out:
                left = c_out - column
                if left >= 16:
                    _columns_16(x, wk, y, p, first, stop, c_in, c_out, column)
                    column += 16
                elif left >= 8:
                    _columns_8(x, wk, y, p, first, stop, c_in, c_out, column)
                    column += 8
                elif left >= 4:
                    _columns_4(x, wk, y, p, first, stop, c_in, c_out, column)
                    column += 4
                else:
                    _columns_1(x, wk, y, p, first, stop, c_in, c_out, column)
                    column += 1


@njit(cache=True, parallel=True, nogil=True)
def weight_gradient(features, gradient, pairs, bounds, parts):  # type: ignore[no-untyped-def]
    """``parts[p, k] = Σ features[i]ᵀ · gradient[o]`` over the pairs of offset k in the p-th part of the blocks."""
    n_parts, volume = parts.shape[:2]
    c_in, c_out = features.shape[1], gradient.shape[1]
    x, g, y, p = features.ctypes.data, gradient.ctypes.data, parts.ctypes.data, pairs.ctypes.data
    n_blocks = bounds.shape[0] // volume
    for part in prange(n_parts):
        parts[part] = 0.0
        for b in range(part * n_blocks // n_parts, (part + 1) * n_blocks // n_parts):
            for k in range(volume):
                first, stop = bounds[b * volume + k, 0], bounds[b * volume + k, 1]
                out = y + 4 * (part * volume + k) * c_in * c_out
                column = 0
                while first < stop and column < c_out:
                    left = c_out - column
                    if left >= 16:
                        _outer_16(x, g, out, p, first, stop, c_in, c_out, column)
                        column += 16
                    elif left >= 8:
                        _outer_8(x, g, out, p, first, stop, c_in, c_out, column)
                        column += 8
                    elif left >= 4:
                        _outer_4(x, g, out, p, first, stop, c_in, c_out, column)
                        column += 4
                    else:
                        _outer_1(x, g, out, p, first, stop, c_in, c_out, column)
                        column += 1


@njit(cache=True, parallel=True, nogil=True)
def channel_sums(x, rows, sums):  # type: ignore[no-untyped-def]
    """``sums[p] = Σ x, Σ x²`` over the p-th ``rows`` rows, in float64."""
    n, channels = x.shape
    for part in prange(sums.shape[0]):
        one, two = np.zeros(channels), np.zeros(channels)
        for row in range(part * rows, min((part + 1) * rows, n)):
            for c in range(channels):
                value = np.float64(x[row, c])
                one[c] += value
                two[c] += value * value
        sums[part, 0] = one
        sums[part, 1] = two


@njit(cache=True, parallel=True, nogil=True)
def scale_and_rectify(x, scale, shift, leak, rows, out):  # type: ignore[no-untyped-def]
    """``out = max(y, leak · y)`` with ``y = x · scale + shift``."""
    n, channels = x.shape
    for part in prange((n + rows - 1) // rows):
        for row in range(part * rows, min((part + 1) * rows, n)):
            for c in range(channels):
                y = x[row, c] * scale[c] + shift[c]
                out[row, c] = y if y > 0 else y * leak


@njit(cache=True, parallel=True, nogil=True)
def rectified_sums(x, gradient, scale, shift, mean, leak, rows, sums):  # type: ignore[no-untyped-def]
    """``sums[p] = Σ g, Σ g · (x − mean)`` over the p-th ``rows`` rows, g the gradient before the rectifier."""
    n, channels = x.shape
    for part in prange(sums.shape[0]):
        one, two = np.zeros(channels), np.zeros(channels)
        for row in range(part * rows, min((part + 1) * rows, n)):
            for c in range(channels):
                g = np.float64(gradient[row, c])
                g = g if x[row, c] * scale[c] + shift[c] > 0 else g * leak
                one[c] += g
                two[c] += g * (np.float64(x[row, c]) - mean[c])
        sums[part, 0] = one
        sums[part, 1] = two


@njit(cache=True, parallel=True, nogil=True)
def rectified_gradient(x, gradient, scale, shift, mean, slope, offset, leak, rows, added, out):  # type: ignore[no-untyped-def]
    """``out = added + g · scale + (x − mean) · slope + offset``, g that before the rectifier; no rows: zeros."""
    n, channels = x.shape
    for part in prange((n + rows - 1) // rows):
        for row in range(part * rows, min((part + 1) * rows, n)):
            for c in range(channels):
                g = gradient[row, c]
                g = g if x[row, c] * scale[c] + shift[c] > 0 else g * leak
                out[row, c] = g * scale[c] + (x[row, c] - mean[c]) * slope[c] + offset[c]
            if added.shape[0] > 0:
                for c in range(channels):
                    out[row, c] += added[row, c]


@njit(cache=True, parallel=True, nogil=True)
def start_threads():  # type: ignore[no-untyped-def]
    """Nothing, in parallel: numba starts its threads at the first such call."""
    total = 0
    for i in prange(2):
        total += i
    return total
