"""Rows of sharded arrays of some stores into shards of another: checked when read, one shard in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from larstore import fs
from larstore.chosen import Array
from larstore.shards import Layout, encode_shard
from larstore.store import Store


class Runs(NamedTuple):
    """Rows that lie together in the source and in the copy: number of the store, first rows, and how many."""

    store: Array
    first: Array
    at: Array
    length: Array


def places(count: Array, shard_rows: int) -> Array:
    """First rows of images one after the other, such that none without need lies in two shards."""
    starts, at = np.empty(len(count), np.int64), 0
    for i, n in enumerate(count.tolist()):
        room = -at % shard_rows
        at += room if n > room else 0
        starts[i] = at
        at += n
    return starts


def runs_of(store: Array, source: Array, at: Array, count: Array, keep: Array) -> Runs:
    """Rows [source, source + count) of the images to keep, as few runs as possible; ``at`` must ascend.

    All are (n,): of each image the number of its store, its first row there and in the copy, how many rows it has,
    and whether these are copied.
    """
    some = np.flatnonzero(keep & (count > 0))
    of, first, to, n = store[some], source[some], at[some], count[some]
    new = np.ones(len(some), bool)
    new[1:] = (of[1:] != of[:-1]) | (first[1:] != (first + n)[:-1]) | (to[1:] != (to + n)[:-1])
    heads = np.flatnonzero(new)
    return Runs(of[heads], first[heads], to[heads], np.add.reduceat(n, heads) if len(heads) else n)


def copy_rows(
    place: Path,
    layout: Layout,
    stores: Sequence[Store],
    runs: Runs,
    read: Callable[[Store, int, int], Array],
    score: bool = False,
) -> list[int]:
    """Write the shards of an array that the runs touch; returns which.

    Those of a ``score`` reach to the array's end, since an image without one is no damage, and are written if they
    hold any; the others end with their last image.
    """
    size, ends = layout.shard_rows, runs.at + runs.length
    spans = zip((runs.at // size).tolist(), (-(-ends // size)).tolist(), strict=True)
    touched = sorted({shard for first, stop in spans for shard in range(first, stop)})
    written = []
    for shard in touched:
        low, high = shard * size, min((shard + 1) * size, layout.rows)
        inside = range(int(np.searchsorted(ends, low, "right")), int(np.searchsorted(runs.at, high, "left")))
        stop = high if score else min(high, int(ends[inside[-1]]))
        values = np.full((stop - low, *layout.width), layout.fill, layout.dtype)
        for i in inside:
            begin, end = max(int(runs.at[i]), low), min(int(ends[i]), high)
            start = int(runs.first[i]) + begin - int(runs.at[i])
            values[begin - low : end - low] = read(stores[int(runs.store[i])], start, start + end - begin)
        if not score or not np.isnan(values).all():
            file = place / layout.file(shard)
            fs.make_directories(file.parent)
            fs.write_new(file, encode_shard(layout, values))
            written.append(shard)
    return written
