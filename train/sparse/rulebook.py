"""Rules: which input site meets which output site at which offset of a filter, listed as the kernels use them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from train.sparse import rule_kernels
from train.sparse.tensor import Coords, Sites, Triple, encode, number_sites, strides

BLOCK = 256  # output rows whose sums stay in the cache
ROOM = 16  # pairs that an offset of a block should have at least, for the tiles of rows to be full

Kind = Literal["submanifold", "strided", "transposed"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, grouped for threads that own blocks of output rows.

    Attributes:
        rows: (room, 2) int32 input row, output row; between the blocks there may be room that nothing is in.
        bounds: (blocks · volume, 2) int64; where the pairs of offset k in block b lie: ``bounds[b · volume + k]``.
        block: output rows of a block.
        volume: offsets of the filter.
        n_outputs: output rows.
    """

    rows: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int64]
    block: int
    volume: int
    n_outputs: int

    def __len__(self) -> int:
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    def listed(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """All pairs (pairs, 2), and the offset (pairs,) of each."""
        counts = self.bounds[:, 1] - self.bounds[:, 0]
        ends = np.cumsum(counts)
        places = np.arange(counts.sum()) + np.repeat(self.bounds[:, 0] - ends + counts, counts)
        return self.rows[places], np.repeat(np.arange(len(counts), dtype=np.int64) % self.volume, counts)


@dataclass(frozen=True)
class Rules:
    """The pairs of one kernel between two sets of sites.

    Attributes:
        kind: what layer they are for.
        filter_size, stride: of the kernel, x, y, z.
        input_coords, output_coords: (n, 4) int64 sites x, y, z, event, sorted by event, x, y, z.
        input_size, output_size: extents of the two levels.
        forward: pairs (input, output), grouped by output rows.
        backward: pairs (output, input), grouped by input rows; None if they are those of ``forward`` with the offsets
            in the opposite order, as for a submanifold filter of odd size.
        cache: what a backend makes of these rules once.
    """

    kind: Kind
    filter_size: Triple
    stride: Triple
    input_coords: Coords
    output_coords: Coords
    input_size: Triple
    output_size: Triple
    forward: Pairs
    backward: Pairs | None
    cache: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Pairs: multiply-adds per input and output channel."""
        return len(self.forward)

    def transposed(self) -> Rules:
        """The rules of the opposite direction."""
        known: Rules | None = self.cache.get("transposed")
        if known is None:
            assert self.backward is not None, "only strided rules are transposed"
            kind: Kind = "transposed" if self.kind == "strided" else "strided"
            known = Rules(
                kind, self.filter_size, self.stride, self.output_coords, self.input_coords, self.output_size,
                self.input_size, self.backward, self.forward,
            )  # fmt: skip
            self.cache["transposed"] = known
        return known

    def by_offset(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs (pairs, 2) of input and output rows ordered by offset, and where each begins, (volume + 1,)."""
        if "by_offset" not in self.cache:
            rows, offsets = self.forward.listed()
            order = np.argsort(offsets, kind="stable")
            starts = np.searchsorted(offsets[order], np.arange(self.forward.volume + 1))
            self.cache["by_offset"] = rows[order].astype(np.int64), starts
        pairs, starts = self.cache["by_offset"]
        return pairs, starts


def submanifold(sites: Sites, filter_size: Triple) -> Rules:
    """Output sites = input sites; offsets −f//2 … f − 1 − f//2 along each axis, z fastest."""
    key = ("submanifold", filter_size)
    if key not in sites.rules:
        forward = _neighbours(sites, filter_size)
        backward = None
        if not all(f % 2 for f in filter_size):
            rows, offsets = forward.listed()
            backward = _group(rows[:, 1], rows[:, 0], offsets, len(sites), forward.volume, BLOCK)
        sites.rules[key] = Rules(
            "submanifold", filter_size, (1, 1, 1), sites.coords, sites.coords, sites.size, sites.size, forward, backward
        )
    rules: Rules = sites.rules[key]
    return rules


def _neighbours(sites: Sites, filter_size: Triple) -> Pairs:
    n, width, volume = len(sites), filter_size[2], math.prod(filter_size)
    if volume == 1:
        edges = np.append(np.arange(0, n, BLOCK, dtype=np.int64), n)
        bounds = np.column_stack([edges[:-1], edges[1:]])
        return Pairs(np.repeat(np.arange(n, dtype=np.int32)[:, None], 2, axis=1), bounds, BLOCK, 1, n)
    radius = max(max(filter_size) // 2, 1)
    sx, sy, _ = strides(sites.size, radius)
    x, y = (np.arange(f) - f // 2 for f in filter_size[:2])
    steps = (x[:, None] * sx + y[None, :] * sy).ravel().astype(np.int64)
    keys = np.concatenate([encode(sites.coords, sites.size, radius), np.full(width, np.iinfo(np.int64).max // 2)])
    rows = np.empty((n * volume, 2), np.int32)  # what is not written to costs no memory
    bounds = np.empty((-(-n // BLOCK) * volume, 2), np.int64)
    rule_kernels.list_neighbours(keys, steps, -(width // 2), width, BLOCK, bounds, rows)
    return Pairs(rows, bounds, BLOCK, volume, n)


def strided(sites: Sites, filter_size: Triple, stride: Triple) -> tuple[Sites, Rules]:
    """Coarse sites wherever an input falls into a window, and the rules from fine to coarse."""
    key = ("strided", filter_size, stride)
    if key not in sites.rules:
        nx, ny, nz = ((n - f) // s + 1 for n, f, s in zip(sites.size, filter_size, stride, strict=True))
        size = (nx, ny, nz)
        most = len(sites) * math.prod(-(-f // s) for f, s in zip(filter_size, stride, strict=True))
        keys, fine, offsets = np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most, np.int64)
        n = rule_kernels.find_windows(
            sites.coords, np.asarray(filter_size), np.asarray(stride), np.asarray(size), keys, fine, offsets
        )
        keys, fine, offsets = keys[:n], fine[:n], offsets[:n]
        coarse, firsts = number_sites(keys)
        event, x, y, z = np.unravel_index(keys[firsts], (int(sites.coords[:, 3].max(initial=0)) + 1, *size))
        below = Sites(np.column_stack([x, y, z, event]).astype(np.int64), size)
        volume = math.prod(filter_size)
        forward = _group(fine, coarse, offsets, len(below), volume, BLOCK)
        # A fine site has few windows: more of them in a block, so that its lists are not too short for the tiles.
        backward = _group(coarse, fine, offsets, len(sites), volume, max(BLOCK, ROOM * volume))
        sites.rules[key] = (
            below,
            Rules("strided", filter_size, stride, sites.coords, below.coords, sites.size, size, forward, backward),
        )
    found: tuple[Sites, Rules] = sites.rules[key]
    return found


def _group(inputs: Any, outputs: Any, offsets: Any, n_outputs: int, volume: int, block: int) -> Pairs:
    bounds = np.zeros((-(-n_outputs // block) * volume, 2), np.int64)
    rows = np.empty((len(outputs), 2), np.int32)
    rule_kernels.group_pairs(inputs, outputs, offsets, volume, block, bounds, rows)
    return Pairs(rows, bounds, block, volume, n_outputs)
