"""Which side of a split each image lands on: groups stay whole, and only their keys and the seed decide."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.index import sorted_rows

Keys = Sequence[npt.NDArray[Any]]
Numbers = npt.NDArray[np.uint64]


def first_side(keys: Keys, fraction: float, seed: int) -> npt.NDArray[np.bool_] | None:
    """Whether each image is on the first side, (n,), or None if there are fewer than two groups.

    ``keys``: columns (n,); images with equal keys are a group. Groups are shuffled by a hash of seed and key, so
    that neither the order of the images matters nor, for most, what else is there: when files are added, few of the
    old ones change sides. In that order each group joins the first side if it fits into ``fraction`` of the images;
    at last the smallest one that did not, if that is nearer. So the first side is off by at most half of the smallest
    group of the second side.
    """
    group, first_image = _groups(keys)
    sizes = np.bincount(group, minlength=len(first_image))
    if len(sizes) < 2:
        return None
    order = np.argsort(_hashes([column[first_image] for column in keys], seed), kind="stable")
    ends = np.cumsum(sizes[order])
    n_fit = int(np.searchsorted(ends, fraction * len(group), side="right"))
    room = fraction * len(group) - (ends[n_fit - 1] if n_fit else 0)
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:n_fit]] = True
    least = sizes.min()
    for i in order[n_fit:]:
        if room < least:
            break
        if sizes[i] <= room:
            chosen[i] = True
            room -= sizes[i]
    left = order[~chosen[order]]
    smallest = left[np.argmin(sizes[left])]
    if len(left) > 1 and (not chosen.any() or sizes[smallest] - room < room):
        chosen[smallest] = True
    return chosen[group]


def _groups(keys: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The number of each image's group, in the order of their keys, and one image of each group."""
    order, starts = sorted_rows(keys)
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(starts) - 1
    return group, order[starts]


def _hashes(keys: Keys, seed: int) -> Numbers:
    """A hash of each row of keys, as random as the mixing of SplitMix64 (Steele, Lea and Flood, 2014)."""
    state = _mixed(np.full(len(keys[0]), seed % 2**64, dtype=np.uint64))
    for column in keys:
        state = _mixed(state ^ column.astype(np.int64).view(np.uint64))
    return state


def _mixed(state: Numbers) -> Numbers:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
