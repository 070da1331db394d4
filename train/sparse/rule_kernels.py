"""Numba kernels that find the pairs of a rule: linear walks through sorted keys, counting sorts; no hash."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(cache=True, nogil=True)
def count_outside(coords, size):  # type: ignore[no-untyped-def]
    """Rows x, y, z, event that do not lie in [0, size), and the first of them."""
    n, first = 0, -1
    for row in range(coords.shape[0]):
        inside = coords[row, 3] >= 0
        for axis in range(3):
            inside &= (coords[row, axis] >= 0) & (coords[row, axis] < size[axis])
        if not inside:
            n += 1
            first = row if first < 0 else first
    return n, first


@njit(cache=True, parallel=True, nogil=True)
def find_neighbours(keys, steps, low, width, block, table, counts):  # type: ignore[no-untyped-def]
    """For each row and offset, the row whose key is ``key + steps[s] + low + d``, at offset s · width + d; −1 if none.

    ``keys`` (n + width,) ascending, with ``width`` unreachable ones at the end; ``table`` (blocks, volume + 1, block):
    the last offset holds nothing of use. ``counts`` (blocks, volume) neighbours.
    """
    n = keys.shape[0] - width
    volume = steps.shape[0] * width
    for b in prange(table.shape[0]):
        begin, end = b * block, min((b + 1) * block, n)
        table[b] = -1
        for s in range(steps.shape[0]):
            shift = steps[s] + low
            pointer = np.searchsorted(keys, keys[begin] + shift)
            for row in range(begin, end):
                target = keys[row] + shift
                while keys[pointer] < target:
                    pointer += 1
                for ahead in range(width):
                    distance = keys[pointer + ahead] - target
                    # Without a branch, which would be guessed wrong as often as not.
                    offset = s * width + distance if distance < width else volume
                    table[b, offset, row - begin] = pointer + ahead
        for k in range(volume):
            found = 0
            for row in range(end - begin):
                found += table[b, k, row] >= 0
            counts[b, k] = found


@njit(cache=True, parallel=True, nogil=True)
def list_neighbours(table, starts, n, pairs):  # type: ignore[no-untyped-def]
    """The pairs (neighbour, row) of each block and offset, from ``starts[b · volume + k]`` on."""
    block = table.shape[2]
    volume = table.shape[1] - 1
    for b in prange(table.shape[0]):
        begin, end = b * block, min((b + 1) * block, n)
        found = np.empty((block + 1, 2), np.int32)  # one more: what is no pair is written and then overwritten
        for k in range(volume):
            m = 0
            for row in range(begin, end):
                i = table[b, k, row - begin]
                found[m, 0] = i
                found[m, 1] = row
                m += i >= 0
            first = starts[b * volume + k]
            for j in range(m):
                pairs[first + j, 0] = found[j, 0]
                pairs[first + j, 1] = found[j, 1]


@njit(cache=True, nogil=True)
def find_windows(coords, filter_size, stride, size, keys, rows, offsets):  # type: ignore[no-untyped-def]
    """All pairs of an input and a window that it falls into: the window's key, the input's row, its offset there."""
    n = 0
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for row in range(coords.shape[0]):
        for axis in range(3):
            # Windows start at w · stride and reach over filter_size cells.
            first[axis] = max(0, (coords[row, axis] - filter_size[axis] + stride[axis]) // stride[axis])
            last[axis] = min(size[axis] - 1, coords[row, axis] // stride[axis])
        for x in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for z in range(first[2], last[2] + 1):
                    keys[n] = ((coords[row, 3] * size[0] + x) * size[1] + y) * size[2] + z
                    rows[n] = row
                    offset = (coords[row, 0] - x * stride[0]) * filter_size[1] + coords[row, 1] - y * stride[1]
                    offsets[n] = offset * filter_size[2] + coords[row, 2] - z * stride[2]
                    n += 1
    return n


@njit(cache=True, nogil=True)
def number_keys(keys, order, numbers, firsts):  # type: ignore[no-untyped-def]
    """Number different keys in ascending ``order``: each place's number, and the first place of each; their number."""
    n = 0
    for j in range(order.shape[0]):
        place = order[j]
        if j == 0 or keys[place] != keys[order[j - 1]]:
            firsts[n] = place
            n += 1
        numbers[place] = n - 1
    return n


@njit(cache=True, nogil=True)
def group_pairs(inputs, outputs, offsets, volume, block, starts, pairs):  # type: ignore[no-untyped-def]
    """A counting sort of pairs by (block of output rows, offset), which keeps the order inside a group."""
    for j in range(outputs.shape[0]):
        starts[outputs[j] // block * volume + offsets[j] + 1] += 1
    for group in range(1, starts.shape[0]):
        starts[group] += starts[group - 1]
    for j in range(outputs.shape[0]):
        group = outputs[j] // block * volume + offsets[j]
        pairs[starts[group], 0] = inputs[j]
        pairs[starts[group], 1] = outputs[j]
        starts[group] += 1
    for group in range(starts.shape[0] - 1, 0, -1):
        starts[group] = starts[group - 1]
    starts[0] = 0
