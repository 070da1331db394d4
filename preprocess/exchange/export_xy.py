"""A store as the research code's `xy` files, so that its users can go back; a prediction as its `yinf` files."""

from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np

import larstore
from larstore.errors import StoreError
from larstore.image import Image
from larstore.selection import Selection
from preprocess.exchange.archive import npy_bytes, write_zip
from preprocess.exchange.objects import write_objects
from preprocess.exchange.research import BATCH, ELECTRONS_PER_UNIT, XyName, charge_order
from preprocess.sources.names import parse_name


def export_xy(selection: Selection, folder: Path, prediction: str | None = None) -> list[Path]:
    """Write ``batch0-<head>_xy-TPC<n>.npz`` for each input file and TPC; returns the paths.

    ``X`` (n, 4 + planes) float32 x, y, z, event, charges: electrons × 0.001, planes by increasing wire angle;
    ``Y`` (n, 1) and ``Y_truth`` (object array, (m, 4) float64 an event) where all images of the file have truth;
    ``starts`` (events,). Events count from 0 in each file; ``events`` says which these are in the store. With a
    prediction ``…_yinf-TPC<n>.npz`` lie beside them, ``arr_0`` (n, 1) float32 in the order of ``X``.

    Joined TPCs 1, 5 and 9 are named TPC159.

    Raises:
        StoreError: two inputs of the store would get one name; a voxel that is not predicted.
        ConfigError: a file that exists; joined TPCs with different orders of planes.
    """
    paths: list[Path] = []
    for name, part in _by_file(selection):
        path = folder / name.file("xy")
        if path in paths:
            raise StoreError(f"{selection.store.path}: two inputs are named {name.head}. Fix: export with --files A:B")
        write_zip(path, _members(selection.store, part))
        paths.append(path)
        if prediction is not None:
            scores = [_score(image, prediction) for image in part]
            joined = np.concatenate([np.empty(0, np.float32), *scores]).astype(np.float32)
            path = folder / name.file("yinf")
            write_zip(path, [("arr_0.npy", npy_bytes(joined[:, None]))])
            paths.append(path)
    return paths


def _by_file(selection: Selection) -> Iterator[tuple[XyName, Selection]]:
    """The images of each file and TPC, and the name that its `xy` file gets."""
    inputs = selection.store.inputs
    keys = np.stack([selection.column("file"), selection.column("tpc")], axis=1)
    pairs, member, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    joined = "".join(map(str, selection.store.geometry.joined))
    groups = np.split(np.argsort(member.reshape(-1), kind="stable"), np.cumsum(counts)[:-1])
    for (file, tpc), rows in zip(pairs.tolist(), groups, strict=True):
        part = Selection(selection.store, selection.row_numbers[rows])
        row = int(part.column("input")[0])
        yield XyName(0, _head(str(inputs["path"][row]) if row >= 0 else "", file), int(joined or tpc)), part


def _head(path: str, file: int) -> str:
    """``<head>`` of an input that is named as the research code does, else of our own."""
    name = parse_name(Path(PurePath(path).name))
    if name is None:
        return f"larstore_{file}"
    match = BATCH.fullmatch(name.head)
    return name.head if match is None else match[2]


def _members(store: larstore.Store, images: Selection) -> Iterator[tuple[str, bytes]]:
    rows, truths, voxels = [], [], []
    for number, image in enumerate(images):
        order = charge_order(store.geometry, image.key[2])
        charge = (image.charge[:, order].astype(np.float64) / ELECTRONS_PER_UNIT).astype(np.float32)
        event = np.full((len(image), 1), number)
        rows.append(np.concatenate([image.coords, event, charge], axis=1, dtype=np.float32))
        truth, every = image.truth, image.truth_voxels
        if truth is not None and every is not None:
            truths.append(truth[:, None])
            voxels.append(np.column_stack(every).astype(np.float64))
    starts = np.concatenate([[0], np.cumsum([len(part) for part in rows])[:-1]]).astype(np.int64)
    yield "X.npy", npy_bytes(np.concatenate(rows))
    if len(truths) == len(rows):
        yield "Y.npy", npy_bytes(np.concatenate(truths))
    yield "starts.npy", npy_bytes(starts)
    if len(truths) == len(rows):
        yield "Y_truth.npy", write_objects(voxels)
    yield "events.npy", npy_bytes(images.column("event").astype(np.int64))


def _score(image: Image, prediction: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    score = image.score(prediction)
    if np.isnan(score).any():
        raise StoreError(
            f"{image.store.path}: image {image.key} is not predicted by {prediction!r}. "
            "Fix: infer it, or choose images with --files, --events, --tpcs"
        )
    return score
