"""The worker's side: images into the shards of one block, in memory, then as new files; no lock, from any process."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore import fs
from larstore.errors import StoreError
from larstore.format import TRUTH_COLUMNS, UNKNOWN_NUMBER, VOXEL_ARRAYS, sharded_document, truth_arrays
from larstore.records import BlockSpec, ImageRecord, ImageRows, InputFile, Receipt
from larstore.shards import Layout, encode_shard, layout_of

NO_VOXEL = 65535  # the fill value of coordinates


class BlockFull(StoreError):  # noqa: N818 - a signal to ask for a larger block, not a fault
    """The images do not fit their block. ``needed``: shards that they need."""

    def __init__(self, needed: int, given: int) -> None:
        super().__init__(f"a block of {given} shard(s) is too small. Fix: reserve(n_shards={needed})")
        self.needed = needed
        self.given = given

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockFull, (self.needed, self.given)


def layouts(spec: BlockSpec) -> dict[str, Layout]:
    """Path -> layout of all arrays that a block has shards of."""
    widths = {"voxels/charge": spec.n_planes, "voxels/coords": 3, "truth/coords": 3}
    rows = (spec.first_shard + spec.n_shards) * spec.shard_rows
    return {
        path: layout_of(path, sharded_document(array, widths.get(path), spec.shard_rows, spec.chunk_rows, rows))
        for path, array in (VOXEL_ARRAYS | truth_arrays(spec.truth_columns)).items()
    }


def shards_needed(shard_rows: int, images: Sequence[ImageRecord]) -> int:
    """Shards that the longer of voxel and truth arrays needs."""
    voxels = sum(len(image.coords) for image in images)
    truth = sum(len(image.truth_coords) for image in images if image.truth_coords is not None)
    return max(1, -(-max(voxels, truth) // shard_rows))


def sorted_unique(coords: npt.NDArray[Any]) -> bool:
    """Whether (n, 3) coordinates ascend strictly by (x, y, z)."""
    packed = coords.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1], dtype=np.int64)
    return bool((np.diff(packed) > 0).all())


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
    _check_truth_columns(image, where)


def _check_truth_columns(image: ImageRecord, where: str) -> None:
    if image.truth_columns and image.truth_coords is None:
        raise StoreError(f"{where}: truth_columns without truth_coords. Fix: give the truth voxels too")
    for name, values in image.truth_columns.items():
        if name not in TRUTH_COLUMNS:
            raise StoreError(f"{where}: truth column {name!r} is unknown. Fix: choose among {', '.join(TRUTH_COLUMNS)}")
        n_truth = 0 if image.truth_coords is None else len(image.truth_coords)
        _expect(image, f"truth column {name}", values, TRUTH_COLUMNS[name].dtype, (n_truth,))
        if not known_column(values):
            raise StoreError(
                f"{where}: truth column {name} holds NaN, infinity or {UNKNOWN_NUMBER}. Fix: write 0 for an unknown "
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
    voxel = truth = spec.first_shard * spec.shard_rows
    rows = []
    for image in images:
        has_truth = image.truth_coords is not None
        n, m = len(image.coords), len(image.truth_coords) if image.truth_coords is not None else 0
        rows.append(
            ImageRows(
                file=image.file,
                event=image.event,
                tpc=image.tpc,
                voxel_start=voxel,
                voxel_count=n,
                truth_start=truth if has_truth else -1,
                truth_count=m,
                run=image.run,
                subrun=image.subrun,
                event_id=image.event_id,
                input=image.input,
                charge_sum=tuple(float(s) for s in image.charge.sum(axis=0, dtype=np.float64)),
                truth_sum=_truth_sum(image),
                n_bad_channels=image.n_bad_channels,
                truth_columns=tuple(name for name in spec.truth_columns if name in image.truth_columns),
            )
        )
        voxel, truth = voxel + n, truth + m
    return rows


def _joined(parts: Iterable[npt.NDArray[Any]], layout: Layout) -> npt.NDArray[Any]:
    """All images' rows of one array, one after the other."""
    present = [part for part in parts if len(part)]
    return np.concatenate(present) if present else np.empty((0, *layout.width), dtype=layout.dtype)


def _values(path: str, images: Sequence[ImageRecord], layout: Layout) -> npt.NDArray[Any]:
    if path == "voxels/truth":
        unknown = [np.full(len(i.coords), np.nan, np.float32) if i.truth is None else i.truth for i in images]
        return _joined(unknown, layout)
    column = path.removeprefix("truth/")
    if column in TRUTH_COLUMNS:
        if not any(column in image.truth_columns for image in images):
            return _joined((), layout)  # nothing known in this block: no shard, and the index says so
        truths = [image for image in images if image.truth_coords is not None]
        return _joined((_column_or_fill(image, column, layout) for image in truths), layout)
    name = {"truth/coords": "truth_coords", "truth/value": "truth_value"}.get(path, path.partition("/")[2])
    return _joined((part for image in images if (part := getattr(image, name)) is not None), layout)


def _column_or_fill(image: ImageRecord, column: str, layout: Layout) -> npt.NDArray[Any]:
    if column in image.truth_columns:
        return image.truth_columns[column]
    return np.full(0 if image.truth_coords is None else len(image.truth_coords), layout.fill, layout.dtype)


def _write(path: Path, data: bytes) -> None:
    """Write a shard; a scheduler may run a task again, so an equal file of its first attempt is as good."""
    try:
        fs.write_new(path, data)
    except fs.ExistsError:
        if path.read_bytes() != data:
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
    root = Path(path)
    if not (root / "zarr.json").is_file():
        raise StoreError(f"{root}: not a larstore store. Fix: create it first")
    for image in images:
        check_image(image, spec.n_planes)
    needed = shards_needed(spec.shard_rows, images)
    if needed > spec.n_shards:
        raise BlockFull(needed, spec.n_shards)
    files: dict[str, tuple[int, str]] = {}
    for array, layout in layouts(spec).items():
        values = _values(array, images, layout)
        for number, start in enumerate(range(0, len(values), spec.shard_rows)):
            data = encode_shard(layout, values[start : start + spec.shard_rows])
            name = layout.file(spec.first_shard + number)
            fs.make_directories((root / name).parent)
            _write(root / name, data)
            files[name] = (len(data), hashlib.sha256(data).hexdigest())
    return Receipt(spec, tuple(_placed(images, spec)), files, tuple(inputs))
