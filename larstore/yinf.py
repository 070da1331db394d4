"""A prediction as the research code's `yinf` files, row by row beside the `xy` files of the same images."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from larstore.archive import npy_bytes, write_zip
from larstore.errors import StoreError
from larstore.image import Image
from larstore.selection import Selection

# `[batch<n>-]<head>_<product>-TPC<n>.<suffix>`, as the research code names its files
NAME = re.compile(r"(?:batch\d{1,6}-)?(?P<head>.+)_[A-Za-z0-9]+-TPC\d{1,6}(?:\.[a-z0-9.]+)?")


def by_file(selection: Selection) -> Iterator[tuple[str, int, Selection]]:
    """The images of each file and TPC: head of its `xy` file's name, the TPC in there (159 for joined 1, 5, 9), images.

    Raises StoreError where two inputs would get one name.
    """
    inputs = selection.store.inputs
    keys = np.stack([selection.column("file"), selection.column("tpc")], axis=1)
    pairs, member, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    joined = "".join(map(str, selection.store.geometry.joined))
    groups = np.split(np.argsort(member.reshape(-1), kind="stable"), np.cumsum(counts)[:-1])
    seen = set()
    for (file, tpc), rows in zip(pairs.tolist(), groups, strict=True):
        part = selection.take(rows)
        row = int(part.column("input")[0])
        name = head(str(inputs["path"][row]) if row >= 0 else "", file), int(joined or tpc)
        if name in seen:
            raise StoreError(f"{selection.store.path}: two inputs are named {name[0]}. Fix: export with --files A:B")
        seen.add(name)
        yield *name, part


def head(path: str, file: int) -> str:
    """``<head>`` of an input that is named as the research code does, else of our own."""
    match = NAME.fullmatch(PurePath(path).name)
    return f"larstore_{file}" if match is None else match["head"]


def export_yinf(selection: Selection, folder: Path, prediction: str) -> list[Path]:
    """Write ``batch0-<head>_yinf-TPC<n>.npz`` for each input file and TPC; returns the paths.

    ``arr_0`` (n, 1) float32: the scores of the file's images in the order of their events, voxels sorted by (x, y, z):
    the rows of ``X`` in the `xy` file that `larstore export --to xy` writes of the same images.

    Raises:
        StoreError: no image; two inputs of the store would get one name; a voxel that is not predicted.
        ConfigError: a file that exists.
    """
    if not len(selection):
        raise StoreError(f"{selection.store.path}: no images to export. Fix: choose others")
    return [
        write_scores(folder / f"batch0-{name}_yinf-TPC{tpc}.npz", part, prediction)
        for name, tpc, part in by_file(selection)
    ]


def write_scores(path: Path, images: Selection, prediction: str) -> Path:
    """Write the scores of these images, one after the other, as one `yinf` file; see ``export_yinf``."""
    scores = [_score(image, prediction) for image in images]
    joined = np.concatenate([np.empty(0, np.float32), *scores]).astype(np.float32)
    write_zip(path, [("arr_0.npy", npy_bytes(joined[:, None]))])
    return path


def _score(image: Image, prediction: str) -> npt.NDArray[np.float32]:
    score = image.score(prediction)
    if np.isnan(score).any():
        raise StoreError(
            f"{image.store.path}: image {image.key} is not predicted by {prediction!r}. "
            "Fix: infer it, or choose images with --files, --events, --tpcs"
        )
    return score
