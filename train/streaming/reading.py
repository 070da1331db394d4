"""Reads any images of a selection as one `Sample`, in as few reads as their places in the store allow."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, DamageError
from larstore.format import truth_names
from larstore.image import at_voxels
from train.streaming.steps import Sample

VOXELS = ("voxels/coords", "voxels/charge", "voxels/truth")
MOST_CHUNKS = 256  # some 100 MB of the three arrays

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Empty = Callable[[Any, Any], npt.NDArray[Any]]  # (shape, type): np.empty, or room that is there already
LARGE = 1000  # voxels an image from which on it is quicker to number them one image after another


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
        self._keep_chunks(window)
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

    def _keep_chunks(self, window: int) -> None:
        for path in VOXELS:
            reader = self.store.reader(path)
            reader.cached_chunks = max(reader.cached_chunks, min(window, MOST_CHUNKS))

    def reopen(self) -> None:
        """Have threads and files of this process's own, after a fork."""
        kept = self.store.reader(VOXELS[0]).cached_chunks
        self.store = copy.copy(self.store)
        self._keep_chunks(kept)

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
        truth, weight = (empty(int(count.sum()), np.float32) for _ in range(2))
        coords, charge = read_voxels(
            self.store, start, count, lambda image: self.where(int(images[image])), truth, empty
        )
        points = None if self.truth is None else self._points(images)
        if points is not None and self.kind != "truth":
            _place(truth, coords, *points, self.known[images])
        known = np.isfinite(truth)
        weight[:] = known
        if not known.all():
            truth[~known] = 0
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
        _number(coords, count)
        return coords, value


def _place(truth: Floats, coords: Numbers, points: Numbers, value: Floats, known: npt.NDArray[np.bool_]) -> None:
    """Fill ``truth`` (n,) with the values of the truth voxels at ``coords``, NaN for images that do not tell."""
    numbers = np.arange(len(known) + 1)
    rows, ends = np.searchsorted(coords[:, 3], numbers), np.searchsorted(points[:, 3], numbers)
    for image, told in enumerate(known.tolist()):
        voxels, own = slice(rows[image], rows[image + 1]), slice(ends[image], ends[image + 1])
        here, there = coords[voxels, :3].astype(np.uint16), points[own, :3].astype(np.uint16)
        truth[voxels] = at_voxels(here, there, value[own]) if told else np.nan


def _number(coords: Numbers, count: Numbers) -> None:
    """Fill the fourth column of the coordinates (n, 4) of images of these sizes with the images' numbers."""
    if len(coords) < LARGE * len(count):
        coords[:, 3] = np.repeat(np.arange(len(count)), count)
        return
    for image, (begin, end) in enumerate(pairwise([0, *np.cumsum(count).tolist()])):
        coords[begin:end, 3] = image


def read_voxels(
    store: Any,
    start: Numbers,
    count: Numbers,
    where: Callable[[int], str],
    truth: Floats | None = None,
    empty: Empty = np.empty,
) -> tuple[Numbers, Floats]:
    """Coordinates (n, 4) and charges (n, planes) of images, one after another, given by first rows and sizes.

    The fourth coordinate is the image's number among them. ``where`` names an image in errors. ``truth`` (n,) is filled
    too. Raises DamageError for a charge that is not finite: no store writes one.
    """
    coords: Numbers = empty((int(count.sum()), 4), np.int64)
    charge = empty((len(coords), len(store.attributes["planes"])), np.float32)
    arrays = (coords, charge) if truth is None else (coords, charge, truth)
    read_rows(store, dict(zip(VOXELS, arrays, strict=False)), start, count)
    _number(coords, count)
    if len(charge) and not (np.isfinite(charge.max()) and np.isfinite(charge.min())):
        wrong = int(np.argmin(np.isfinite(charge).all(axis=1)))
        raise DamageError(
            f"{where(int(coords[wrong, 3]))}: charge holds NaN or infinity. Fix: run larstore verify on the store"
        )
    return coords, charge


def read_rows(store: Any, out: dict[str, npt.NDArray[Any]], start: Numbers, count: Numbers) -> None:
    """Fill arrays with the rows of images, given by their first rows and sizes, one image after another.

    Images between which less than a chunk lies are read in one go: all of it has to be decoded anyway. Columns that an
    array of the store does not have are filled with anything.
    """
    offset = np.cumsum(count) - count
    used = np.flatnonzero(count)
    if not len(used):
        return
    used = used[np.argsort(start[used], kind="stable")]
    low, high, to = start[used], (start + count)[used], offset[used]
    reached = np.maximum.accumulate(high)
    gap = store.reader(next(iter(out))).layout.chunk_rows
    breaks = (np.flatnonzero(low[1:] - reached[:-1] >= gap) + 1).tolist()
    for a, b in pairwise([0, *breaks, len(used)]):
        first, last = int(low[a]), int(reached[b - 1])
        if (low[a + 1 : b] == high[a : b - 1]).all() and (
            to[a + 1 : b] - to[a : b - 1] == (high - low)[a : b - 1]
        ).all():
            at = int(to[a])
            _read(store, first, last, {path: values[at : at + last - first] for path, values in out.items()})
            continue
        # Rows of the same type and width: a block of them is copied as it lies in memory.
        read = {path: np.empty((last - first, *v.shape[1:]), v.dtype) for path, v in out.items()}
        _read(store, first, last, read)
        # Neighbours that are neighbours in the store, too, are copied together.
        apart = (low[a + 1 : b] != high[a : b - 1]) | (to[a + 1 : b] - to[a : b - 1] != (high - low)[a : b - 1])
        bounds = [a, *(np.flatnonzero(apart) + a + 1).tolist(), b]
        blocks = [(int(to[i]), int(low[i]) - first, int(high[j - 1]) - first) for i, j in pairwise(bounds)]
        for path, values in out.items():
            rows = read[path]
            for at, begin, end in blocks:
                values[at : at + end - begin] = rows[begin:end]


def _read(store: Any, first: int, last: int, out: dict[str, npt.NDArray[Any]]) -> None:
    """Rows [first, last) of arrays, to the first columns of ``out``."""
    rooms = []
    for path, values in out.items():
        width = store.reader(path).layout.width
        rooms.append(values[:, : width[0]] if width else values)
    store.read_arrays(list(out), first, last, rooms)
