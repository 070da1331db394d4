"""verify: is everything that was committed there and right; diff: do two stores hold the same images."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.block import NO_VOXEL, known_column, sorted_unique
from larstore.commit import lagging_children
from larstore.errors import DamageError, StoreError
from larstore.format import index_columns, read_root, truth_bits
from larstore.image import Image
from larstore.shards import ShardDamageError
from larstore.store import Store, open

Key = tuple[int, int, int]
NAMED = 10  # images that a problem names in its line


@dataclass
class Problem:
    """One thing that is wrong, and the images that it touches."""

    what: str
    images: list[Key] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.images:
            return self.what
        more = f" and {len(self.images) - NAMED} more" if len(self.images) > NAMED else ""
        return f"{self.what}; images (file, event, tpc) {', '.join(map(str, self.images[:NAMED]))}{more}"


@dataclass
class Report:
    """What ``verify`` found. ``problems`` are damage; ``notes`` are harmless, the next writer mends them."""

    path: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    voxels: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no damage."""
        return not self.problems

    def add(self, what: str, *images: Key) -> None:
        """Record a problem, once, with all its images."""
        for problem in self.problems:
            if problem.what == what:
                problem.images += [key for key in images if key not in problem.images]
                return
        self.problems.append(Problem(what, list(images)))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-like values."""
        return {
            "path": self.path,
            "ok": self.ok,
            "images": self.images,
            "voxels": self.voxels,
            "problems": [{"what": p.what, "images": [list(key) for key in p.images]} for p in self.problems],
            "notes": self.notes,
        }


def verify(path: str | os.PathLike[str], fast: bool = False) -> Report:
    """Check a store against everything it promises; ``fast`` leaves the voxels out (metadata, index, tables only).

    Damage is reported, not raised; StoreError for a path that is no store.
    """
    report = Report(str(path))
    try:
        store = Store(Path(path), read_root(Path(path)))
    except DamageError as error:
        report.add(str(error))
        return report
    report.notes += [
        f"{path}/{node}/zarr.json differs from the root's copy, which counts; the next writer mends it"
        for node in lagging_children(store.path, store.root)
    ]
    if _tables(store, report):
        report.images = len(store)
        report.voxels = int(store.select().column("voxel_count").sum(dtype=np.int64))
        _ranges(store, report)
        if not fast and report.ok:
            for image in store.select():
                _image(image, store, report)
    return report


def _attempt(report: Report, action: Callable[[], Any]) -> bool:
    try:
        action()
    except StoreError as error:
        report.add(str(error))
        return False
    return True


def _tables(store: Store, report: Report) -> bool:
    """All columns readable and equally long; the geometry's hash."""
    _attempt(report, lambda: store.geometry)
    readable = _attempt(report, lambda: (store.inputs, store.failures))
    names = index_columns(store.root.planes, store.root.truth_columns, store.root.pixels)
    if set(names) - set(store.index_columns.names):
        report.add(f"{store.path}/index: columns {sorted(set(names) - set(store.index_columns.names))} are missing")
        return False
    for name in names:
        readable &= _attempt(report, partial(store.index_columns.column, name))
    lengths = {name: store.root.rows(f"index/{name}") for name in names}
    if len(set(lengths.values())) > 1:
        report.add(f"{store.path}/index: columns differ in length: {lengths}")
        return False
    return readable


def _ranges(store: Store, report: Report) -> None:
    """Every live image lies within the arrays and overlaps no other; inputs exist; predictions are aligned."""
    part = store.select()
    keys = np.stack([part.column(name) for name in ("file", "event", "tpc")], axis=1)
    for kind, arrays in store.root.row_arrays.items():
        start, count = part.column(f"{kind}_start"), part.column(f"{kind}_count").astype(np.int64)
        rows = min(store.root.rows(path) for path in arrays)
        lowest = 0 if kind == "voxel" else -1
        for i in np.flatnonzero((start < lowest) | (count < 0) | (start + count > rows)):
            report.add(f"{store.path}/index: {kind} rows outside the arrays' {rows}", _key(keys[i]))
        order = np.argsort(start, kind="stable")
        order = order[count[order] > 0]
        clash = np.flatnonzero(start[order][1:] < (start + count)[order][:-1])
        for i in clash:
            report.add(
                f"{store.path}/index: {kind} rows of two images overlap",
                _key(keys[order[i]]),
                _key(keys[order[i + 1]]),
            )
    if store.root.truth_columns:
        for i in np.flatnonzero(part.column("truth_columns") & ~truth_bits(store.root.truth_columns)):
            report.add(f"{store.path}/index: names a truth column that the store lacks", _key(keys[i]))
    unknown = part.column("input") >= len(store.inputs)
    for i in np.flatnonzero(unknown):
        report.add(f"{store.path}/index: names an input that inputs/ does not hold", _key(keys[i]))
    for name, attributes in store.predictions.items():
        score = f"predictions/{name}/score"
        rows = store.root.rows(score) if score in store.root.nodes else 0
        done = attributes.get("done", [])
        if score not in store.root.nodes or rows > store.root.rows("voxels/coords"):
            report.add(f"{store.path}/{score}: not aligned with voxels/")
        elif any(first < 0 or last < first or last * store.attributes["shard_rows"] >= rows for first, last in done):
            report.add(f"{store.path}/{score}: shards recorded as done lie beyond its {rows} rows")


def _key(values: npt.NDArray[Any]) -> Key:
    file, event, tpc = (int(v) for v in values)
    return file, event, tpc


def _image(image: Image, store: Store, report: Report) -> None:
    """All arrays of an image: checksums, and content against the format's rules and the index's sums."""
    readers: list[Callable[[], Any]] = [
        lambda: _coords(image, report),
        lambda: _charge(image, report),
        lambda: image.live,
        lambda: image.truth,
        lambda: _truth(image, report),
        lambda: _pixels(image, report),
        *(partial(image.score, name) for name in store.predictions),
    ]
    for read in readers:
        try:
            read()
        except ShardDamageError as error:
            report.add(error.what, image.key)
        except StoreError as error:
            report.add(str(error), image.key)


def _coords(image: Image, report: Report) -> None:
    if image.coords.size and int(image.coords.max()) >= NO_VOXEL:
        report.add(f"{image.store.path}/voxels/coords: rows of an image were never written", image.key)
    elif not sorted_unique(image.coords):
        report.add(f"{image.store.path}/voxels/coords: not sorted by (x, y, z) without doubles", image.key)


def _charge(image: Image, report: Report) -> None:
    sums = image.charge.sum(axis=0, dtype=np.float64)
    stored = [image.summary(f"charge_sum_{plane}") for plane in image.store.root.planes]
    if not np.isfinite(image.charge).all():
        report.add(f"{image.store.path}/voxels/charge: rows of an image were never written", image.key)
    elif not np.allclose(sums, stored, rtol=1e-9, atol=1e-6 * float(np.abs(image.charge).sum(dtype=np.float64) + 1)):
        report.add(f"{image.store.path}/voxels/charge: sums differ from the index's", image.key)


def _truth(image: Image, report: Report) -> None:
    voxels = image.truth_voxels
    if voxels is None:
        return
    if not sorted_unique(voxels[0]):
        report.add(f"{image.store.path}/truth/coords: not sorted by (x, y, z) without doubles", image.key)
    if not np.isfinite(voxels[1]).all():
        report.add(f"{image.store.path}/truth/value: rows of an image were never written", image.key)
    for name, values in image.truth_columns.items():
        if not known_column(values):
            report.add(f"{image.store.path}/truth/{name}: rows of an image were never written", image.key)


def _pixels(image: Image, report: Report) -> None:
    """The pixels' rules, and that they add up to the voxels' charge and truth."""
    if not image.store.root.pixels or image.summary("pixel_start") < 0:
        return
    pixels, where = image.pixels, f"{image.store.path}/pixels"
    if not sorted_unique(pixels.coords):
        report.add(f"{where}/coords: not sorted by (x, y, z) without doubles", image.key)
    sums = pixels.charge.sum(axis=0, dtype=np.float64)
    stored = [image.summary(f"charge_sum_{plane}") for plane in image.store.root.planes]
    if not np.allclose(sums, stored, rtol=0, atol=1e-6 * float(np.abs(pixels.charge).sum(dtype=np.float64) + 1)):
        report.add(f"{where}/charge: sums differ from the index's", image.key)
    if int(pixels.live.max(initial=0)) >= 1 << len(stored):
        report.add(f"{where}/live: rows of an image were never written", image.key)
    if pixels.truth_value is not None:
        total, size = float(pixels.truth_value.sum()), float(np.abs(pixels.truth_value).sum())
        if not abs(total - image.summary("truth_sum")) <= 1e-6 * (size + 1):
            report.add(f"{where}/truth_value: sum differs from the index's", image.key)
    for name, values in pixels.truth_columns.items():
        if not known_column(values):
            report.add(f"{where}/truth_{name}: rows of an image were never written", image.key)


def diff(a: str | os.PathLike[str] | Store, b: str | os.PathLike[str] | Store) -> list[str]:
    """Differences between two stores, one line each; empty if they hold the same images.

    Same means: the same keys and, per key, bit-equal coords, charge, live and truth (at the voxels, and the truth
    voxels with their columns). Where images lie, provenance and predictions do not count, pixels where both stores
    keep them. Raises DamageError if an image cannot be read.
    """
    first = a if isinstance(a, Store) else open(a)
    second = b if isinstance(b, Store) else open(b)
    found = []
    keys = [
        set(zip(*(s.select().column(n).tolist() for n in ("file", "event", "tpc")), strict=True))
        for s in (first, second)
    ]
    for one, other, names in ((first, second, keys[0] - keys[1]), (second, first, keys[1] - keys[0])):
        found += [f"{key}: in {one.path}, not in {other.path}" for key in sorted(names)]
    for key in sorted(keys[0] & keys[1]):
        found += [f"{key}: {name} differs" for name in _differences(first.image(*key), second.image(*key))]
    return found


def _differences(one: Image, other: Image) -> list[str]:
    """Names of the arrays of two images that are not bit-equal."""
    plain = ("coords", "charge", "live", "truth")
    found = [name for name in plain if not _same(getattr(one, name), getattr(other, name))]
    truths = one.truth_voxels, other.truth_voxels
    if truths[0] is None or truths[1] is None:
        same = truths[0] is truths[1]
    else:
        same = _same(truths[0][0], truths[1][0]) and _same(truths[0][1], truths[1][1])
    found += [] if same else ["truth_voxels"]
    found += _different_columns("truth column", one.truth_columns, other.truth_columns)
    if all(image.store.root.pixels and image.summary("pixel_start") >= 0 for image in (one, other)):
        a, b = one.pixels, other.pixels
        names = ("coords", "charge", "live", "truth_coords", "truth_value")
        found += [f"pixels' {name}" for name in names if not _same(getattr(a, name), getattr(b, name))]
        found += _different_columns("pixels' truth column", a.truth_columns, b.truth_columns)
    return found


def _different_columns(what: str, one: dict[str, npt.NDArray[Any]], other: dict[str, npt.NDArray[Any]]) -> list[str]:
    return [f"{what} {name}" for name in sorted({*one, *other}) if not _same(one.get(name), other.get(name))]


def _same(x: npt.NDArray[Any] | None, y: npt.NDArray[Any] | None) -> bool:
    if x is None or y is None:
        return x is y
    return x.shape == y.shape and x.tobytes() == y.tobytes()
