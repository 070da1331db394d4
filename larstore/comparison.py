"""diff: do two stores hold the same images, bit by bit, wherever they lie."""

import os
from typing import Any

import numpy.typing as npt

from larstore.image import Image
from larstore.store import Store, open


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
        found += [f"{key}: {name} differs" for name in differences(first.image(*key), second.image(*key))]
    return found


def differences(one: Image, other: Image) -> list[str]:
    """Names of the arrays of two images that are not bit-equal; pixels count where both stores keep them."""
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
