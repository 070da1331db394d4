"""A store as the research code's `xy` files, so that its users can go back; a prediction as its `yinf` files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import larstore
from larstore.archive import npy_bytes, write_zip
from larstore.selection import Selection
from larstore.yinf import by_file, write_scores
from preprocess.exchange.objects import write_objects
from preprocess.exchange.research import ELECTRONS_PER_UNIT, XyName, charge_order


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
    for head, tpc, part in by_file(selection):
        name = XyName(0, head, tpc)
        paths.append(folder / name.file("xy"))
        write_zip(paths[-1], _members(selection.store, part))
        if prediction is not None:
            paths.append(write_scores(folder / name.file("yinf"), part, prediction))
    return paths


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
