"""verify: is everything that was committed there and right."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.commit import lags
from larstore.comparison import diff
from larstore.debris import find
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.format import TRUTH_COLUMNS, index_columns, kind_of, truth_bits
from larstore.image import Image
from larstore.locations import Url, place_of
from larstore.predictions import ranges
from larstore.reading import ShardDamageError, UnreadableShardError
from larstore.rules import broken_rules
from larstore.store import Store

__all__ = ["Problem", "Report", "diff", "verify"]

Key = tuple[int, int, int]
NAMED = 10  # images that a problem names in its line
MOST_TRIED = 16_384  # chunks of an image's array that are looked at one by one when it is damaged
MOST_CHUNKS = 256  # that are named of an image's array: no need to go through a large one to its end


@dataclass
class Problem:
    """One thing that is wrong, and the images that it touches.

    Attributes:
        what: a line for people.
        array: path of the array below the root, as ``voxels/charge`` or ``index/file``; "" where no single one is.
        shard: number of the shard, the first one where the line names several; None where it is not about one.
        chunks: chunks of the shard that cannot be read, as far as images need them.
        images: (file, event, tpc) of the images that it makes unusable.
        unreadable: nobody could read it, so that nobody knows whether it is damaged.
    """

    what: str
    array: str = ""
    shard: int | None = None
    chunks: list[int] = field(default_factory=list)
    images: list[Key] = field(default_factory=list)
    unreadable: bool = False

    def __str__(self) -> str:
        if not self.images:
            return self.what
        more = f" and {len(self.images) - NAMED} more" if len(self.images) > NAMED else ""
        return f"{self.what}; images (file, event, tpc) {', '.join(map(str, self.images[:NAMED]))}{more}"


@dataclass
class Report:
    """What ``verify`` found. ``problems`` are damage or could not be read; ``notes`` are harmless: lagging metadata."""

    path: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    voxels: int = 0
    fast: bool = False
    _by_what: dict[str, Problem] = field(default_factory=dict, repr=False)
    _images: dict[str, set[Key]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is no damage, and all could be read."""
        return not self.problems

    @property
    def unreadable(self) -> list[Problem]:
        """What could not be read."""
        return [problem for problem in self.problems if problem.unreadable]

    @property
    def damaged(self) -> set[Key]:
        """Keys of all images that a problem touches, also in their scores alone."""
        return {key for problem in self.problems for key in problem.images}

    def add(
        self,
        what: str,
        *images: Key,
        array: str = "",
        shard: int | None = None,
        chunks: Iterable[int] = (),
        unreadable: bool = False,
    ) -> None:
        """Record a problem, once, with all its images and chunks."""
        problem = self._by_what.get(what)
        if problem is None:
            problem = self._by_what[what] = Problem(what, array, shard, unreadable=unreadable)
            self.problems.append(problem)
        known = self._images.setdefault(what, set())
        problem.images += [key for key in dict.fromkeys(images) if key not in known]
        known.update(images)
        problem.chunks = sorted({*problem.chunks, *chunks})

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-like values; docs/maintaining.md describes them."""
        return {
            "path": self.path,
            "ok": self.ok,
            "fast": self.fast,
            "images": self.images,
            "voxels": self.voxels,
            "problems": [
                asdict(p) | {"chunks": ranges(p.chunks), "images": [list(key) for key in p.images]}
                for p in self.problems
            ],
            "notes": self.notes,
        }


def verify(path: str | os.PathLike[str] | Url, fast: bool = False) -> Report:
    """Check a store against everything it promises; ``fast`` leaves the voxels out (metadata, index, tables only).

    Damage is reported, not raised, as are files that cannot be read; StoreError for a path that is no store, or of
    which not even the root can be read.
    """
    place = place_of(path)
    report = Report(str(place), fast=fast)
    try:
        store = Store(place)
    except DamageError as error:
        report.add(str(error))
        return report
    report.notes += _lagging(store)
    if _tables(store, report):
        report.images = len(store)
        report.voxels = int(store.index_columns.column("voxel_count")[store.index_columns.live].sum(dtype=np.int64))
        _ranges(store, report)
        if not isinstance(store.path, Url):  # what no commit holds is found by listing directories
            _note_debris(store, report)
        misplaced = report.damaged
        for image in store.select() if not fast else ():
            if image.key not in misplaced:
                _image(image, report)
    return report


def _lagging(store: Store) -> Iterator[str]:
    for node, document in store.root.nodes.items():
        try:
            if lags(store.path, node, document):
                file = f"{store.path}/{node}/zarr.json"
                yield f"{file} differs from the root's copy, which counts; the next writer mends it"
        except UnreadableError as error:
            yield f"{error}; the root's copy counts"


def _attempt(report: Report, array: str, action: Callable[[], Any]) -> bool:
    try:
        action()
    except StoreError as error:
        report.add(str(error), array=array, unreadable=isinstance(error, UnreadableError))
        return False
    return True


def _note_debris(store: Store, report: Report) -> None:
    try:
        found = find(store.path, store.root)
    except StoreError as error:  # damage of what is committed is found elsewhere
        report.notes.append(f"not looked for files that no commit holds: {error}")
        return
    if found:
        report.notes.append(
            f"{report.path}: {len(found)} file(s), {sum(d.n_bytes for d in found)} bytes, that no commit holds, of a "
            f"writer that runs or was killed, as {found[0].path}; 'larstore clean' removes old ones"
        )


def _tables(store: Store, report: Report) -> bool:
    """All columns readable and equally long; the geometry's hash."""
    _attempt(report, "geometry", lambda: store.geometry)
    readable = _attempt(report, "inputs", lambda: store.inputs)
    names = index_columns(store.root.planes, store.root.truth_columns, store.root.pixels)
    if set(names) - set(store.index_columns.names):
        missing = sorted(set(names) - set(store.index_columns.names))
        report.add(f"{store.path}/index: columns {missing} are missing", array="index")
        return False
    for name in names:
        readable &= _attempt(report, f"index/{name}", partial(store.index_columns.column, name))
    lengths = {name: store.root.rows(f"index/{name}") for name in names}
    if len(set(lengths.values())) > 1:
        report.add(f"{store.path}/index: columns differ in length: {lengths}", array="index")
        return False
    return readable and _attempt(report, "failures", lambda: store.failures)


def _ranges(store: Store, report: Report) -> None:
    """Every live image lies within the arrays and overlaps no other; inputs exist; predictions are aligned."""
    part = store.select()
    keys = np.stack([part.column(name) for name in ("file", "event", "tpc")], axis=1)
    for kind, arrays in store.root.row_arrays.items():
        start, count = (store.index_columns.column(f"{kind}_{what}")[part.row_numbers] for what in ("start", "count"))
        count = count.astype(np.int64)
        rows = min(store.root.rows(path) for path in arrays)
        lowest, array = 0 if kind == "voxel" else -1, f"index/{kind}_start"
        for i in np.flatnonzero((start < lowest) | (count < 0) | (start > rows - count)):
            report.add(f"{store.path}/index: {kind} rows outside the arrays' {rows}", _key(keys[i]), array=array)
        order = np.argsort(start, kind="stable")
        order = order[count[order] > 0]
        reached = np.maximum.accumulate((start + count)[order]) if len(order) else order
        late = order[1:][start[order][1:] < reached[:-1]]
        # The first image that reaches into each of these.
        others = order[np.searchsorted(reached, start[late], side="right")]
        if len(late):
            both = np.unique(np.concatenate([late, others]))
            report.add(f"{store.path}/index: {kind} rows of two images overlap", *map(_key, keys[both]), array=array)
    if store.root.truth_columns:
        for i in np.flatnonzero(part.column("truth_columns") & ~truth_bits(store.root.truth_columns)):
            what = f"{store.path}/index: names a truth column that the store lacks"
            report.add(what, _key(keys[i]), array="index/truth_columns")
    inputs = part.column("input")
    for i in np.flatnonzero((inputs < -1) | (inputs >= len(store.inputs))):
        what = f"{store.path}/index: names an input that inputs/ does not hold"
        report.add(what, _key(keys[i]), array="index/input")
    for name, attributes in store.predictions.items():
        _aligned(store, report, f"predictions/{name}/score", attributes.get("done", []))


def _aligned(store: Store, report: Report, score: str, done: list[list[int]]) -> None:
    """A prediction's rows are those of voxels/, in the same shards, and what is done lies within them."""
    node, rows, size = store.root.nodes.get(score), store.root.rows("voxels/coords"), store.attributes["shard_rows"]
    if node is None or node["shape"][0] > rows or node["chunk_grid"]["configuration"]["chunk_shape"] != [size]:
        report.add(f"{store.path}/{score}: not aligned with voxels/", array=score)
    elif any(first < 0 or last < first or last * size >= node["shape"][0] for first, last in done):
        what = f"{store.path}/{score}: shards recorded as done lie beyond its {node['shape'][0]} rows"
        report.add(what, array=score)


def _key(values: npt.NDArray[Any]) -> Key:
    file, event, tpc = (int(v) for v in values)
    return file, event, tpc


def _image(image: Image, report: Report) -> None:
    """All arrays of an image: checksums, and content against the format's rules and the index's sums."""
    store, loaded, readable = image.store, {}, True
    bits = image.summary("truth_columns") if store.root.truth_columns else 0
    for kind, arrays in store.root.row_arrays.items():
        start, count = image.summary(f"{kind}_start"), image.summary(f"{kind}_count")
        for path in arrays if start >= 0 else ():
            column = path.rpartition("/")[2].removeprefix("truth_")
            if kind_of(path) in ("voxel", "pixel") or column not in TRUTH_COLUMNS or truth_bits([column]) & bits:
                values = _rows(image, report, path, start, count, partial(store.read_rows, path))
                if values is not None:
                    loaded[path] = values
                else:
                    readable = False
    for name in store.predictions:
        path, start = f"predictions/{name}/score", image.summary("voxel_start")
        if not any(problem.array == path and not problem.images for problem in report.problems):
            _rows(image, report, path, start, len(image), partial(store.read_scores, name))
    if readable:
        whole = Image(store, image.row, loaded)
        for array, what in broken_rules(whole):
            shards = _shards(image, array)
            where = _named(shards)
            report.add(f"{store.path}/{array}: {where}{what}", image.key, array=array, shard=min(shards, default=None))


def _shards(image: Image, array: str) -> range:
    """The shards that hold an image's rows of an array."""
    kind, size = kind_of(array), image.store.attributes["shard_rows"]
    start, count = image.summary(f"{kind}_start"), image.summary(f"{kind}_count")
    return range(start // size, -(-(start + count) // size)) if start >= 0 and count else range(0)


def _named(shards: range) -> str:
    if len(shards) > 1:
        return f"shards {shards[0]} to {shards[-1]}, "
    return f"shard {shards[0]}, " if shards else ""


def _rows(
    image: Image, report: Report, path: str, start: int, count: int, read: Callable[[int, int], npt.NDArray[Any]]
) -> npt.NDArray[Any] | None:
    """Rows of an image, or None and a problem for each shard, with the chunks of it that cannot be read."""
    try:
        return read(start, start + count)
    except (ShardDamageError, UnreadableShardError) as whole:
        a, found, closed = image.store.attributes, 0, -1
        numbers = range(start // a["chunk_rows"], -(-(start + count) // a["chunk_rows"]))
        for number in numbers[:MOST_TRIED]:
            first = number * a["chunk_rows"]
            shard, chunk = divmod(number, a["shard_rows"] // a["chunk_rows"])
            if shard == closed:
                continue
            try:
                read(max(start, first), min(start + count, first + a["chunk_rows"]))
            except ShardDamageError as error:
                report.add(error.what, image.key, array=path, shard=shard, chunks=[chunk])
                found += 1
            except UnreadableShardError as error:
                report.add(error.what, image.key, array=path, shard=shard, unreadable=True)
                found, closed = found + 1, shard
            if found == MOST_CHUNKS:
                break
        if not found:  # it could be read the second time
            report.add(whole.what, image.key, array=path, unreadable=isinstance(whole, UnreadableError))
        return None
