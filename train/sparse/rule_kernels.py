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
def list_neighbours(keys, steps, low, width, block, bounds, pairs):  # type: ignore[no-untyped-def]
    """Pairs (neighbour, row), neighbours those with key ``key + steps[s] + low + d`` at offset s · width + d.

    ``keys`` (n + width,) ascending, with ``width`` unreachable ones at the end. Block b of rows writes its pairs by
    offset from ``pairs[b · block · volume]`` on, and where those of offset k lie to ``bounds[b · volume + k]``.
    """
    n = keys.shape[0] - width
    volume = steps.shape[0] * width
    for b in prange((n + block - 1) // block):
        begin, end = b * block, min((b + 1) * block, n)
        table = np.full((volume + 1, block), -1, np.int32)  # the last offset holds nothing of use
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
                    table[offset, row - begin] = pointer + ahead
        m = begin * volume
        for k in range(volume):
            bounds[b * volume + k, 0] = m
            for row in range(begin, end):
                if m == pairs.shape[0]:  # all pairs that there can be are there
                    break
                i = table[k, row - begin]
                pairs[m, 0] = i  # overwritten by the next one if it is none
                pairs[m, 1] = row
                m += i >= 0
            bounds[b * volume + k, 1] = m


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
def group_pairs(inputs, outputs, offsets, volume, block, bounds, pairs):  # type: ignore[no-untyped-def]
    """A counting sort of pairs by (block of output rows, offset), which keeps the order inside a group."""
    for j in range(outputs.shape[0]):
        bounds[outputs[j] // block * volume + offsets[j], 1] += 1
    total = 0
    for group in range(bounds.shape[0]):
        bounds[group, 0] = total
        total += bounds[group, 1]
        bounds[group, 1] = bounds[group, 0]
    for j in range(outputs.shape[0]):
        group = outputs[j] // block * volume + offsets[j]
        pairs[bounds[group, 1], 0] = inputs[j]
        pairs[bounds[group, 1], 1] = outputs[j]
        bounds[group, 1] += 1
