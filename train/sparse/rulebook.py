"""Rules: which input site meets which output site at which offset of a filter, as tables with one column per offset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from train.sparse.tensor import Sites, strides

BLOCK = 4096  # rows whose neighbours one thread finds by walking the sorted keys

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Rules:
    """``gather[o, k]`` = input site that offset k brings to output site o, −1 if none; ``scatter`` is its transpose.

    Attributes:
        gather: (outputs, volume).
        scatter: (inputs, volume).
        kind: "submanifold", "strided" or "transposed".
        filter_size: cells along x, y, z; offsets are counted with x slowest and z fastest.
        stride: along x, y, z.
        input_coords: (inputs, 4) sorted, unique rows x, y, z, event.
        output_coords: (outputs, 4) likewise.
        input_size: extent of the input level.
        output_size: extent of the output level.
        cache: what a backend keeps for these rules; shared with the rules of the opposite direction.
    """

    gather: npt.NDArray[np.int32]
    scatter: npt.NDArray[np.int32]
    kind: str
    filter_size: Triple
    stride: Triple
    input_coords: npt.NDArray[np.int64]
    output_coords: npt.NDArray[np.int64]
    input_size: Triple
    output_size: Triple
    cache: dict[Any, Any] = field(default_factory=dict, compare=False)

    def transposed(self) -> Rules:
        """The rules of the opposite direction."""
        return Rules(
            self.scatter,
            self.gather,
            {"strided": "transposed", "transposed": "strided"}.get(self.kind, self.kind),
            self.filter_size,
            self.stride,
            self.output_coords,
            self.input_coords,
            self.output_size,
            self.input_size,
            self.cache,
        )

    def by_offset(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs (P, 2) of input and output row, grouped by offset, and where each offset starts (volume + 1,)."""
        offset, outputs = np.nonzero(self.gather.T >= 0)
        counts = np.bincount(offset, minlength=self.gather.shape[1])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return np.column_stack([self.gather[outputs, offset], outputs]).astype(np.int64), starts


@njit(cache=True, parallel=True, nogil=True)
def _neighbours(keys, steps, low, width, block, out):  # type: ignore[no-untyped-def]
    """For each key and each step, the positions of key + step + low … + width − 1 among the sorted keys."""
    n = keys.shape[0]
    for b in prange((n + block - 1) // block):
        begin, end = b * block, min((b + 1) * block, n)
        for s in range(steps.shape[0]):
            shift = steps[s] + low
            pointer = np.searchsorted(keys, keys[begin] + shift)
            for row in range(begin, end):
                target = keys[row] + shift
                while pointer < n and keys[pointer] < target:
                    pointer += 1
                walk = pointer
                while walk < n and keys[walk] < target + width:
                    out[row, s * width + keys[walk] - target] = walk
                    walk += 1


def submanifold(sites: Sites, filter_size: Triple) -> Rules:
    """Output sites = input sites; offsets −f//2 … f − 1 − f//2 along each axis, z fastest."""
    key = ("submanifold", filter_size)
    if key not in sites.rules:
        radius = max(max(filter_size) // 2, 1)
        sx, sy, _ = strides(sites.size, radius)
        x, y = (np.arange(f) - f // 2 for f in filter_size[:2])
        steps = (x[:, None] * sx + y[None, :] * sy).ravel().astype(np.int64)
        volume = int(np.prod(filter_size))
        gather = np.full((len(sites), volume), -1, np.int32)
        _neighbours(sites.keys(radius), steps, -(filter_size[2] // 2), filter_size[2], BLOCK, gather)
        odd = all(f % 2 for f in filter_size)
        scatter = np.ascontiguousarray(gather[:, ::-1]) if odd else _transpose(gather, len(sites))
        sites.rules[key] = Rules(
            gather, scatter, "submanifold", filter_size, (1, 1, 1), sites.coords, sites.coords, sites.size, sites.size
        )
    rules: Rules = sites.rules[key]
    return rules


@njit(cache=True, nogil=True)
def _meetings(coords, filter_size, stride, size, keys, rows, offsets):  # type: ignore[no-untyped-def]
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


def strided(sites: Sites, filter_size: Triple, stride: Triple) -> tuple[Sites, Rules]:
    """Coarse sites wherever an input falls into a window, and the rules from fine to coarse."""
    key = ("strided", filter_size, stride)
    if key not in sites.rules:
        size = tuple((n - f) // s + 1 for n, f, s in zip(sites.size, filter_size, stride, strict=True))
        most = len(sites) * int(np.prod([-(-f // s) for f, s in zip(filter_size, stride, strict=True)]))
        keys, met_rows, offset_of = np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most, np.int32)
        n = _meetings(
            sites.coords, np.asarray(filter_size), np.asarray(stride), np.asarray(size), keys, met_rows, offset_of
        )
        keys, met_rows, offset_of = keys[:n], met_rows[:n], offset_of[:n]
        unique, inverse = np.unique(keys, return_inverse=True)
        event, x, y, z = np.unravel_index(unique, (int(sites.coords[:, 3].max(initial=0)) + 1, *size))
        coarse = Sites(np.column_stack([x, y, z, event]).astype(np.int64), (size[0], size[1], size[2]))
        volume = int(np.prod(filter_size))
        gather = np.full((len(coarse), volume), -1, np.int32)
        scatter = np.full((len(sites), volume), -1, np.int32)
        gather[inverse, offset_of] = met_rows
        scatter[met_rows, offset_of] = inverse
        sites.rules[key] = (
            coarse,
            Rules(
                gather,
                scatter,
                "strided",
                filter_size,
                stride,
                sites.coords,
                coarse.coords,
                sites.size,
                coarse.size,
            ),
        )
    found: tuple[Sites, Rules] = sites.rules[key]
    return found


def _transpose(gather: npt.NDArray[np.int32], n_inputs: int) -> npt.NDArray[np.int32]:
    scatter = np.full((n_inputs, gather.shape[1]), -1, np.int32)
    output, offset = np.nonzero(gather >= 0)
    scatter[gather[output, offset], offset] = output
    return scatter
