"""What the content of an image must keep, beyond its checksums: order, no empty rows, the sums of the index."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from larstore.block import NO_VOXEL, known_column, sorted_unique
from larstore.image import Image

EMPTY = "rows of an image were never written"
UNSORTED = "not sorted by (x, y, z) without doubles"
SUM = "sum differs from the index's"
SUMS = "sums differ from the index's"
CLOSE = 1e-6  # of the sum of magnitudes: the index's sums were taken in another order

Broken = Iterator[tuple[str, str]]  # path of the array, what is wrong with it


def broken_rules(image: Image) -> Broken:
    """Array and rule, for each rule of the format that an image breaks. DamageError if it cannot be read."""
    for check in (_voxels, _truth, _pixels):
        yield from check(image)


def _voxels(image: Image) -> Broken:
    if image.coords.size and int(image.coords.max()) >= NO_VOXEL:
        yield "voxels/coords", EMPTY
    elif not sorted_unique(image.coords):
        yield "voxels/coords", UNSORTED
    if not np.isfinite(image.charge).all():
        yield "voxels/charge", EMPTY
    elif not _sums_agree(image, image.charge):
        yield "voxels/charge", SUMS
    if _beyond_planes(image, image.live):
        yield "voxels/live", EMPTY
    if image.truth is not None and np.isinf(image.truth).any():
        yield "voxels/truth", "holds infinity"


def _truth(image: Image) -> Broken:
    if image.truth_voxels is None:
        if image.truth is not None and not _close(image.summary("truth_sum"), image.truth[~np.isnan(image.truth)]):
            yield "voxels/truth", SUM
        return
    coords, values = image.truth_voxels
    if not sorted_unique(coords):
        yield "truth/coords", UNSORTED
    if not np.isfinite(values).all():
        yield "truth/value", EMPTY
    elif not _close(image.summary("truth_sum"), values):
        yield "truth/value", SUM
    for name, column in image.truth_columns.items():
        if not known_column(column):
            yield f"truth/{name}", EMPTY


def _pixels(image: Image) -> Broken:
    """The pixels' rules, and that they add up to the voxels' charge and truth."""
    if not image.store.root.pixels or image.summary("pixel_start") < 0:
        return
    pixels = image.pixels
    if not sorted_unique(pixels.coords):
        yield "pixels/coords", UNSORTED
    if not _sums_agree(image, pixels.charge):
        yield "pixels/charge", SUMS
    if _beyond_planes(image, pixels.live):
        yield "pixels/live", EMPTY
    if pixels.truth_value is not None and not _close(image.summary("truth_sum"), pixels.truth_value):
        yield "pixels/truth_value", SUM
    for name, values in pixels.truth_columns.items():
        if not known_column(values):
            yield f"pixels/truth_{name}", EMPTY


def _sums_agree(image: Image, charge: npt.NDArray[np.float32]) -> bool:
    planes = image.store.root.planes
    return all(_close(image.summary(f"charge_sum_{plane}"), charge[:, i]) for i, plane in enumerate(planes))


def _close(expected: float, values: npt.NDArray[np.floating]) -> bool:
    """Whether values add up to what is expected; never for NaN."""
    total, size = float(values.sum(dtype=np.float64)), float(np.abs(values).sum(dtype=np.float64))
    return abs(total - expected) <= CLOSE * (size + 1)


def _beyond_planes(image: Image, live: npt.NDArray[np.uint8]) -> bool:
    return int(live.max(initial=0)) >= 1 << len(image.store.root.planes)
