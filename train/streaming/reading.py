"""Reads any images of a selection as one `Sample`, in as few reads as their places in the store allow."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, DamageError
from larstore.format import truth_names
from larstore.image import at_voxels
from train.streaming.placing import is_finite, place_coords, place_rows, weigh
from train.streaming.steps import Sample

VOXELS = ("voxels/coords", "voxels/charge", "voxels/truth")
MOST_CHUNKS = 256  # some 100 MB of the three arrays

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Empty = Callable[[Any, Any], npt.NDArray[Any]]  # (shape, type): np.empty, or room that is there already


class ImageReader:
    """Places of the images of one selection, as its store had them when it was opened.

    Args:
        selection: a `larstore` selection.
        full_y: read all truth voxels, too.
        kind: what the target is made of: "truth", the electrons freed, or "collected", those that attachment lets
            reach the wires.
        window: runs of images that are shuffled together: so many chunks are kept for the run that begins in them.
    """

    def __init__(self, selection: Any, full_y: bool = False, kind: str = "truth", window: int = 0) -> None:
        self.store, self.full_y, self.kind = copy.copy(selection.store), full_y, kind
        self.window = window
        self._keep_chunks()
        columns = [selection.column(name) for name in ("file", "event", "tpc")]
        self.keys = np.column_stack(columns).astype(np.int64)
        self.start, self.count = (selection.column(f"voxel_{what}").astype(np.int64) for what in ("start", "count"))
        self.known = ~np.isnan(selection.column("truth_sum"))  # images with truth
        self.truth: tuple[Numbers, Numbers] | None = None
        if full_y or kind != "truth":
            start, count = (selection.column(f"truth_{what}").astype(np.int64) for what in ("start", "count"))
            self.truth = start, np.where(start < 0, 0, count)
        if kind != "truth":
            told = selection.column("truth_columns") if self.store.root.truth_columns else np.zeros(len(self.keys))
            self.known &= np.array([kind in truth_names(int(bits)) for bits in told], bool)

    def _keep_chunks(self) -> None:
        for path in VOXELS:
            reader = self.store.reader(path)
            reader.cached_chunks = max(reader.cached_chunks, min(self.window, MOST_CHUNKS))
            reader.scattered = reader.scattered or self.window > 0

    def reopen(self) -> None:
        """Have threads and files of this process's own, after a fork."""
        self.store = copy.copy(self.store)
        self._keep_chunks()

    def where(self, image: int) -> str:
        """An image's name for errors."""
        return f"{self.store.path}: image {tuple(self.keys[image].tolist())}"

    def refuse_without_truth(self) -> None:
        """ConfigError where an image has no truth, or no truth voxels where they are wanted."""
        unknown = ~self.known if self.truth is None else ~self.known | (self.truth[0] < 0)
        if unknown.any():
            where = self.where(int(np.argmax(unknown)))
            more = f" ({int(unknown.sum())} of {len(unknown)} have none)" if unknown.sum() > 1 else ""
            what, other = ("truth", "") if self.kind == "truth" else (f"{self.kind} truth", ", or data.truth: truth")
            raise ConfigError(
                f"{where} has no {what} to train on{more}. Fix: leave its file out of data.train_i{other}"
            )

    def __call__(self, images: Numbers, empty: Empty = np.empty) -> Sample:
        """These images one after another; the fourth column of the coordinates says which one a voxel is of.

        ``empty`` makes the arrays. Raises DamageError for a charge that is not finite, and whatever reading raises.
        """
        start, count = self.start[images], self.count[images]
        coords, charge, truth = read_voxels(
            self.store, start, count, lambda image: self.where(int(images[image])), empty, truth=True
        )
        weight = empty(len(coords), np.float32)
        points = None if self.truth is None else self._points(images)
        if points is not None and self.kind != "truth":
            unknown = np.isnan(truth)  # where TPCs are bridged, in images that do tell
            _place(truth, coords, *points, self.known[images])
            truth[unknown] = np.nan
        weigh(truth, weight)
        sample = Sample(coords, charge, truth[:, None], weight[:, None])
        if points is None or not self.full_y:
            return sample
        return sample.replaced(truth_coords=points[0], truth_value=points[1][:, None])

    def _points(self, images: Numbers) -> tuple[Numbers, Floats]:
        """All truth voxels (m, 4) of these images and their values (m,); none of images that do not tell."""
        assert self.truth is not None
        start, count = self.truth[0][images], np.where(self.known, self.truth[1], 0)[images]
        coords, value = np.empty((int(count.sum()), 4), np.int64), np.empty(int(count.sum()), np.float32)
        paths = ("truth/coords", "truth/value" if self.kind == "truth" else f"truth/{self.kind}")
        read_rows(self.store, dict(zip(paths, (coords, value), strict=True)), start, count)
        return coords, value


def _place(truth: Floats, coords: Numbers, points: Numbers, value: Floats, known: npt.NDArray[np.bool_]) -> None:
    """Fill ``truth`` (n,) with the values of the truth voxels at ``coords``, NaN for images that do not tell."""
    numbers = np.arange(len(known) + 1)
    rows, ends = np.searchsorted(coords[:, 3], numbers), np.searchsorted(points[:, 3], numbers)
    for image, told in enumerate(known.tolist()):
        voxels, own = slice(rows[image], rows[image + 1]), slice(ends[image], ends[image + 1])
        here, there = coords[voxels, :3].astype(np.uint16), points[own, :3].astype(np.uint16)
        truth[voxels] = at_voxels(here, there, value[own]) if told else np.nan


def read_voxels(
    store: Any,
    start: Numbers,
    count: Numbers,
    where: Callable[[int], str],
    empty: Empty = np.empty,
    truth: bool = False,
) -> tuple[Numbers, Floats, Floats]:
    """Coordinates (n, 4), charges (n, planes) and truth (n,) of images, one after another, by first rows and sizes.

    The fourth coordinate is the image's number among them. ``where`` names an image in errors. Without ``truth`` there
    is none of it. Raises DamageError for a charge that is not finite: no store writes one.
    """
    n = int(count.sum())
    coords: Numbers = empty((n, 4), np.int64)
    if empty is np.empty and n and (start[1:] == (start + count)[:-1]).all():
        # Neighbours in the store: all other arrays are what was decoded.
        first, to = int(start[0]), np.cumsum(count) - count
        found = store.read_arrays(VOXELS if truth else VOXELS[:2], first, first + n)
        place_coords(found[VOXELS[0]], (to, to + count, to), np.arange(len(count)), coords)
        charge, told = found[VOXELS[1]], found.get(VOXELS[2])
    else:
        charge = empty((n, len(store.attributes["planes"])), np.float32)
        told = empty(n, np.float32) if truth else None
        arrays = (coords, charge) if told is None else (coords, charge, told)
        read_rows(store, dict(zip(VOXELS, arrays, strict=False)), start, count)
    if not is_finite(charge):
        wrong = int(np.argmin(np.isfinite(charge).all(axis=1)))
        raise DamageError(
            f"{where(int(coords[wrong, 3]))}: charge holds NaN or infinity. Fix: run larstore verify on the store"
        )
    return coords, charge, np.empty(0, np.float32) if told is None else told


def read_rows(store: Any, out: dict[str, npt.NDArray[Any]], start: Numbers, count: Numbers) -> None:
    """Fill arrays with the rows of images, given by their first rows and sizes, one image after another.

    Coordinates (n, 4) get the image's number as the fourth. Images between which less than a chunk lies are read in one
    go: all of it has to be decoded anyway.
    """
    offset = np.cumsum(count) - count
    used = np.flatnonzero(count)
    if not len(used):
        return
    used = used[np.argsort(start[used], kind="stable")]
    low, high, to = start[used], (start + count)[used], offset[used]
    reached = np.maximum.accumulate(high)
    layouts = {path: store.reader(path).layout for path in out}
    gap = next(iter(layouts.values())).chunk_rows
    breaks = (np.flatnonzero(low[1:] - reached[:-1] >= gap) + 1).tolist()
    # Whether an image follows its neighbour in the store, in the batch too.
    apart = (low[1:] != high[:-1]) | (to[1:] - to[:-1] != (high - low)[:-1])
    wanted: list[tuple[str, int, int, npt.NDArray[Any] | None]] = []
    steps: list[partial[None] | None] = []
    for a, b in pairwise([0, *breaks, len(used)]):
        first, last, images = int(low[a]), int(reached[b - 1]), slice(a, b)
        places = (low[images] - first, high[images] - first, to[images])
        for path, values in out.items():
            room, step = None, None
            if layouts[path].width == (3,) and values.shape[1:] == (4,):
                step = partial(place_coords, images=places, number=used[images], out=values)
            elif apart[a : b - 1].any():
                step = partial(place_rows, images=places, out=values)
            else:
                room = values[int(to[a]) :][: last - first]
            wanted.append((path, first, last, room))
            steps.append(step)
    for step, found in zip(steps, store.read_ranges(wanted), strict=True):
        if step is not None:
            step(found)
