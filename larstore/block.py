"""The worker's side: images into the shards of one block, in memory, then as new files; no lock, from any process."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.codecs import round_mantissas
from larstore.errors import StoreError
from larstore.format import POINT_COLUMNS, TRUTH_COLUMNS, UNKNOWN_NUMBER, ArraySpec, row_arrays
from larstore.records import BlockSpec, ImageRecord, ImageRows, InputFile, Pixels, Receipt
from larstore.root import Root, read_root
from larstore.shards import Layout, encode_shard, layout_of

NO_VOXEL = 65535  # the fill value of coordinates
CHECKED_ROWS = 1 << 18  # at once: they are widened for it, and images at full resolution are large


class BlockFull(StoreError):  # noqa: N818 - a signal to ask for a larger block, not a fault
    """The images do not fit their block. ``needed``: shards that they need."""

    def __init__(self, needed: int, given: int) -> None:
        super().__init__(f"a block of {given} shard(s) is too small. Fix: reserve(n_shards={needed})")
        self.needed = needed
        self.given = given

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockFull, (self.needed, self.given)


def layouts(root: Root, spec: BlockSpec) -> dict[str, Layout]:
    """Path -> layout of all arrays that a block of this store has shards of."""
    rows = (spec.first_shard + spec.n_shards) * spec.shard_rows
    found = (layout_of(path, root.nodes[path]) for arrays in root.row_arrays.values() for path in arrays)
    return {layout.path: replace(layout, rows=rows) for layout in found}


def shards_needed(shard_rows: int, images: Sequence[ImageRecord]) -> int:
    """Shards that the longest kind of arrays needs."""
    pixels = [image.pixels for image in images if image.pixels is not None]
    rows = [sum(len(image.coords) for image in images), sum(len(each.coords) for each in pixels)]
    rows += [sum(_n_truth(holder) for holder in holders) for holders in (images, pixels)]
    return max(1, -(-max(rows) // shard_rows))


def _n_truth(holder: ImageRecord | Pixels) -> int:
    return 0 if holder.truth_coords is None else len(holder.truth_coords)


def sorted_unique(coords: npt.NDArray[Any]) -> bool:
    """Whether (n, 3) coordinates ascend strictly by (x, y, z)."""
    for start in range(0, len(coords) - 1, CHECKED_ROWS):
        part = coords[start : start + CHECKED_ROWS + 1].astype(np.int64)
        packed = part[:, 0] << 32 | part[:, 1] << 16 | part[:, 2]
        if not (packed[1:] > packed[:-1]).all():
            return False
    return True


def _expect(image: ImageRecord, name: str, value: npt.NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if value.dtype != np.dtype(dtype) or value.shape != shape:
        raise StoreError(
            f"image {image.key} of {image.input or 'no input'}: {name} is {value.dtype}{value.shape}, "
            f"expected {dtype}{shape}. Fix: hand over arrays as ImageRecord describes them"
        )


def _check_coords(image: ImageRecord, name: str, coords: npt.NDArray[Any]) -> None:
    if coords.size and int(coords.max()) >= NO_VOXEL:
        what = f"{name} reaches {NO_VOXEL}, the mark of an empty row. Fix: downsample more or split the axis"
    elif not sorted_unique(coords):
        what = f"{name} is not sorted by (x, y, z) without doubles. Fix: sort and merge them"
    else:
        return
    raise StoreError(f"image {image.key} of {image.input or 'no input'}: {what}")


def check_image(image: ImageRecord, n_planes: int) -> None:
    """StoreError, with the key and the value, for an image that the format cannot hold."""
    n = len(image.coords)
    where = f"image {image.key} of {image.input or 'no input'}"
    if min(image.key) < 0 or max(image.key) > np.iinfo(np.int32).max:
        raise StoreError(f"{where}: a key is not in 0 … 2^31 - 1. Fix: number files, events and TPCs from 0")
    _expect(image, "coords", image.coords, "uint16", (n, 3))
    _expect(image, "charge", image.charge, "float32", (n, n_planes))
    _expect(image, "live", image.live, "uint8", (n,))
    _check_coords(image, "coords", image.coords)
    if not np.isfinite(image.charge).all():
        raise StoreError(f"{where}: charge holds NaN or infinity. Fix: mark bad channels and leave them out")
    if int(image.live.max(initial=0)) >= 1 << n_planes:
        raise StoreError(f"{where}: live has bits beyond its {n_planes} planes. Fix: bit p stands for plane p")
    if image.truth is not None:
        _expect(image, "truth", image.truth, "float32", (n,))
        if np.isinf(image.truth).any():
            raise StoreError(f"{where}: truth holds infinity. Fix: look at the truth of this event")
    if (image.truth_coords is None) != (image.truth_value is None) or (
        image.truth is None and image.truth_coords is not None
    ):
        raise StoreError(f"{where}: truth, truth_coords and truth_value belong together. Fix: give all, or truth alone")
    if image.truth_coords is not None and image.truth_value is not None:
        m = len(image.truth_coords)
        _expect(image, "truth_coords", image.truth_coords, "uint16", (m, 3))
        _expect(image, "truth_value", image.truth_value, "float32", (m,))
        _check_coords(image, "truth_coords", image.truth_coords)
        if not np.isfinite(image.truth_value).all():
            raise StoreError(f"{where}: truth_value holds NaN or infinity. Fix: look at the truth of this event")
    _check_truth_columns(image, image, TRUTH_COLUMNS, "truth column")
    if image.pixels is not None:
        _check_pixels(image, image.pixels, n_planes)


def _check_pixels(image: ImageRecord, pixels: Pixels, n_planes: int) -> None:
    """The same for an image's pixels; its truth, if any, must be there as points."""
    where = f"image {image.key} of {image.input or 'no input'}"
    n = len(pixels.coords)
    _expect(image, "pixels.coords", pixels.coords, "uint16", (n, 3))
    _expect(image, "pixels.charge", pixels.charge, "float32", (n, n_planes))
    _expect(image, "pixels.live", pixels.live, "uint8", (n,))
    _check_coords(image, "pixels.coords", pixels.coords)
    if not np.isfinite(pixels.charge).all() or int(pixels.live.max(initial=0)) >= 1 << n_planes:
        raise StoreError(f"{where}: pixels hold NaN, infinity or unknown planes. Fix: give what the Tiler returns")
    if (image.truth is None) != (pixels.truth_coords is None) or set(image.truth_columns) != set(pixels.truth_columns):
        raise StoreError(f"{where}: voxels and pixels know different truth. Fix: give all its truth points too")
    if pixels.truth_coords is not None and pixels.truth_value is not None:
        m = len(pixels.truth_coords)
        _expect(image, "pixels.truth_coords", pixels.truth_coords, "uint16", (m, 3))
        _expect(image, "pixels.truth_value", pixels.truth_value, "float64", (m,))
        if not np.isfinite(pixels.truth_value).all() or int(pixels.truth_coords.max(initial=0)) >= NO_VOXEL:
            raise StoreError(f"{where}: a truth point is not finite or beyond the grid. Fix: leave it out")
    elif pixels.truth_coords is not None:
        raise StoreError(f"{where}: truth points without values. Fix: give pixels.truth_value too")
    _check_truth_columns(image, pixels, POINT_COLUMNS, "truth points' column")


def _check_truth_columns(
    image: ImageRecord, holder: ImageRecord | Pixels, specs: dict[str, ArraySpec], what: str
) -> None:
    where = f"image {image.key} of {image.input or 'no input'}"
    if holder.truth_columns and holder.truth_coords is None:
        raise StoreError(f"{where}: truth_columns without truth_coords. Fix: give the truth voxels too")
    for name, values in holder.truth_columns.items():
        if name not in specs:
            raise StoreError(f"{where}: {what} {name!r} is unknown. Fix: choose among {', '.join(specs)}")
        _expect(image, f"{what} {name}", values, specs[name].dtype, (_n_truth(holder),))
        if not known_column(values):
            raise StoreError(
                f"{where}: {what} {name} holds NaN, infinity or {UNKNOWN_NUMBER}. Fix: write 0 for an unknown "
                "pdg, -1 for an unknown track, and leave collected out"
            )


def known_column(values: npt.NDArray[Any]) -> bool:
    """Whether no entry of a truth column is its fill value, or not finite."""
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).all())
    return bool((values != UNKNOWN_NUMBER).all())


def _truth_sum(image: ImageRecord) -> float:
    """Sum over all truth voxels, or over the tiled ones where only these are known; NaN without truth."""
    if image.truth is None:
        return float("nan")
    values = image.truth if image.truth_value is None else image.truth_value
    return float(np.nansum(values, dtype=np.float64))


def _placed(images: Sequence[ImageRecord], spec: BlockSpec) -> list[ImageRows]:
    """Where each image lies: one after the other from the block's first row."""
    at = dict.fromkeys(row_arrays((), True), spec.first_shard * spec.shard_rows)
    rows = []
    for image in images:
        pixels = image.pixels
        points = None if pixels is None else pixels.truth_coords
        lengths = {
            "voxel": len(image.coords),
            "truth": _n_truth(image),
            "pixel": 0 if pixels is None else len(pixels.coords),
            "point": 0 if pixels is None else _n_truth(pixels),
        }
        rows.append(
            ImageRows(
                file=image.file,
                event=image.event,
                tpc=image.tpc,
                voxel_start=at["voxel"],
                voxel_count=lengths["voxel"],
                truth_start=-1 if image.truth_coords is None else at["truth"],
                truth_count=lengths["truth"],
                run=image.run,
                subrun=image.subrun,
                event_id=image.event_id,
                input=image.input,
                charge_sum=tuple(float(s) for s in image.charge.sum(axis=0, dtype=np.float64)),
                truth_sum=_truth_sum(image),
                n_bad_channels=image.n_bad_channels,
                truth_columns=tuple(name for name in spec.truth_columns if name in image.truth_columns),
                pixel_start=-1 if pixels is None else at["pixel"],
                pixel_count=lengths["pixel"],
                point_start=-1 if points is None else at["point"],
                point_count=lengths["point"],
            )
        )
        at = {kind: first + lengths[kind] for kind, first in at.items()}
    return rows


def _shards(parts: Iterable[npt.NDArray[Any]], shard_rows: int) -> Iterator[npt.NDArray[Any]]:
    """The parts' rows, one after the other, a shard at a time."""
    held: list[npt.NDArray[Any]] = []
    room = shard_rows
    for part in parts:
        rest = part
        while len(rest) >= room:
            yield np.concatenate([*held, rest[:room]])
            rest, held, room = rest[room:], [], shard_rows
        held.append(rest)
        room -= len(rest)
    if room < shard_rows:
        yield np.concatenate(held)


def _parts(path: str, images: Sequence[ImageRecord], layout: Layout) -> list[npt.NDArray[Any]]:
    """Each image's rows of one array."""
    if path == "voxels/truth":
        return [np.full(len(i.coords), np.nan, np.float32) if i.truth is None else i.truth for i in images]
    group, _, name = path.partition("/")
    if group == "truth":
        name = f"truth_{name}"
    holders: list[ImageRecord | Pixels] = [*images]
    if group == "pixels":
        holders = [image.pixels for image in images if image.pixels is not None]
    column = name.removeprefix("truth_")
    if column in TRUTH_COLUMNS:
        if not any(column in holder.truth_columns for holder in holders):
            return []  # nothing known in this block: no shard, and the index says so
        return [_column_or_fill(holder, column, layout) for holder in holders]
    return [part for holder in holders if (part := getattr(holder, name)) is not None]


def _column_or_fill(holder: ImageRecord | Pixels, column: str, layout: Layout) -> npt.NDArray[Any]:
    if column in holder.truth_columns:
        return holder.truth_columns[column]
    return np.full(_n_truth(holder), layout.fill, layout.dtype)


def _write(path: Path, data: bytes) -> None:
    """Write a shard; a scheduler may run a task again, so an equal file of its first attempt is as good."""
    try:
        fs.write_new(path, data)
    except fs.ExistsError:
        if fs.content(path) != data:
            raise
        fs.sync_directory(path.parent)


def write_block(
    path: str | Path, spec: BlockSpec, images: Sequence[ImageRecord], inputs: Sequence[InputFile] = ()
) -> Receipt:
    """Write images into a block and return the receipt that the coordinator commits.

    Nothing is visible to readers before that. Needs no lock, and never touches a file that exists: a second attempt
    that makes the same bytes gives the same receipt, one that makes others raises ``larstore.fs.ExistsError``
    (reserve a new block then). Raises StoreError for an image the format cannot hold, ``BlockFull`` (with ``needed``)
    if the block is too small; nothing is written then.
    """
    place, root = Path(path), read_root(Path(path))
    if not spec.pixels:
        images = [replace(image, pixels=None) for image in images]
    for image in images:
        check_image(image, spec.n_planes)
    needed = shards_needed(spec.shard_rows, images)
    if needed > spec.n_shards:
        raise BlockFull(needed, spec.n_shards)
    bits = root.charge_bits
    if bits is not None:
        images = [replace(image, charge=round_mantissas(image.charge, bits)) for image in images]
    files: dict[str, tuple[int, str]] = {}
    for array, layout in layouts(root, spec).items():
        for number, values in enumerate(_shards(_parts(array, images, layout), spec.shard_rows)):
            data = encode_shard(layout, values)
            name = layout.file(spec.first_shard + number)
            fs.make_directories((place / name).parent)
            _write(place / name, data)
            files[name] = (len(data), hashlib.sha256(data).hexdigest())
    return Receipt(spec, tuple(_placed(images, spec)), files, tuple(inputs))
