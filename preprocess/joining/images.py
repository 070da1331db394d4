"""Images of several TPCs as one: voxels in the common frame, those at one place summed, with truth and all of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from larstore.coordinates import LARGEST
from larstore.errors import StoreError
from larstore.format import TRUTH_COLUMNS
from larstore.image import Image, at_voxels, pack
from larstore.records import ImageRecord
from preprocess.joining.bridge import Bridge, Bridged, bridged
from preprocess.joining.frame import JoinedFrame

Array = npt.NDArray[Any]


class Merged(NamedTuple):
    """Voxels of several images by place: rows of all of them, ordered, and where in this each place begins."""

    coords: npt.NDArray[np.uint16]
    order: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]

    @property
    def n_shared(self) -> int:
        """Voxels that took another one's place."""
        return len(self.order) - len(self.start)

    def sums(self, parts: Sequence[Array]) -> npt.NDArray[np.float32]:
        """Values summed at each place, in double precision."""
        values = np.concatenate(parts)[self.order]
        if self.n_shared:
            values = np.add.reduceat(values.astype(np.float64), self.start, axis=0)
        return values.astype(np.float32, copy=False)

    def largest(self, parts: Sequence[Array]) -> npt.NDArray[np.float32]:
        """The largest value at each place."""
        values = np.concatenate(parts)[self.order]
        return np.maximum.reduceat(values, self.start) if self.n_shared else values

    def common_bits(self, parts: Sequence[Array]) -> npt.NDArray[np.uint8]:
        """Bits that all voxels of a place have."""
        bits = np.concatenate(parts)[self.order]
        return np.bitwise_and.reduceat(bits, self.start) if self.n_shared else bits

    def of_largest(self, parts: Sequence[Array], values: Sequence[Array]) -> Array:
        """At each place the entry of the voxel with the largest value, the first one of equals."""
        column = np.concatenate(parts)
        if not self.n_shared:
            return column[self.order]
        place = np.zeros(len(self.order), np.int64)
        place[self.start] = 1
        by_value = np.lexsort((-np.concatenate(values)[self.order], np.cumsum(place)))
        return column[self.order][by_value[self.start]]


def joined_voxels(
    images: Sequence[Image], frame: JoinedFrame, bridge: Bridge | None = None
) -> tuple[Merged, Bridged | None]:
    """The voxels of the images of an event by place, those that bridge gaps behind all others, and these alone.

    Raises StoreError for an image that reaches beyond what coordinates can count, or that lacks the bridge's scores.
    """
    places = [_placed(image, image.coords, frame) for image in images]
    if bridge is None:
        return _merged(places), None
    between = bridged(images, frame, bridge).without(np.concatenate(places))
    return _merged([*places, pack(between.places)]), between


def joined_image(
    images: Sequence[Image], frame: JoinedFrame, bridge: Bridge | None = None
) -> tuple[ImageRecord, int, int]:
    """One image of the images of an event, in the order of their TPCs; voxels that lay on another one's, and bridged.

    Voxels at one place: charges and truth are summed, ``live`` has the bits that all have, pdg and track are those of
    the larger truth. Truth voxels, and each of their columns, are there if all images have them; truth is NaN at the
    voxels of an image without truth. Voxels that bridge a gap are like any place without wires: no plane is live, the
    charge is 0; and their truth is not known. Raises StoreError as ``joined_voxels``.
    """
    file, event, _ = images[0].key
    voxels, between = joined_voxels(images, frame, bridge)
    n = 0 if between is None else len(between.places)
    charge = voxels.sums([*(image.charge for image in images), np.zeros((n, images[0].charge.shape[1]), np.float32)])
    live = voxels.common_bits([*(image.live for image in images), np.zeros(n, np.uint8)])
    truth, truth_coords, truth_value, columns = _truth(images, voxels, frame, n)
    record = ImageRecord(
        file=file,
        event=event,
        tpc=frame.tpcs[0],
        coords=voxels.coords,
        charge=charge,
        live=live,
        truth=truth,
        truth_coords=truth_coords,
        truth_value=truth_value,
        truth_columns=columns,
        input=images[0].input_path,
        run=_known(images, "run"),
        subrun=_known(images, "subrun"),
        event_id=_known(images, "event_id"),
        n_bad_channels=sum(image.summary("n_bad_channels") for image in images),
    )
    return record, voxels.n_shared, n


def _truth(
    images: Sequence[Image], voxels: Merged, frame: JoinedFrame, n_bridged: int
) -> tuple[
    npt.NDArray[np.float32] | None, npt.NDArray[np.uint16] | None, npt.NDArray[np.float32] | None, dict[str, Array]
]:
    """Truth of the joined voxels, the joined truth voxels and their columns; None where they are not known."""
    truths = [image.truth for image in images]
    if all(truth is None for truth in truths):
        return None, None, None, {}
    given = zip(truths, images, strict=True)
    parts = [np.full(len(image), np.nan, np.float32) if truth is None else truth for truth, image in given]
    truth = voxels.sums([*parts, np.full(n_bridged, np.nan, np.float32)])
    found = [image.truth_voxels for image in images]
    every = [each for each in found if each is not None]
    if len(every) < len(images):
        return truth, None, None, {}
    merged = _merged([_placed(i, coords, frame) for i, (coords, _) in zip(images, every, strict=True)])
    values = [value for _, value in every]
    total = merged.sums(values)
    # What one TPC alone has tiled may hold truth of another one, so it is looked up again.
    truth = np.where(np.isnan(truth), truth, at_voxels(voxels.coords, merged.coords, total))
    known = [image.truth_columns for image in images]
    columns: dict[str, Array] = {}
    for name in TRUTH_COLUMNS:
        if all(name in each for each in known):
            entries = [each[name] for each in known]
            columns[name] = merged.sums(entries) if name == "collected" else merged.of_largest(entries, values)
    return truth, merged.coords, total, columns


def _placed(image: Image, coords: npt.NDArray[np.uint16], frame: JoinedFrame) -> npt.NDArray[np.int64]:
    """(n,) voxels of an image in the frame, each as one number."""
    places = frame.places(image.key[2], coords)
    if len(places):
        low, high = places.min(axis=0), places.max(axis=0)
        if low.min() < 0 or high.max() > LARGEST:
            raise StoreError(
                f"{image.store.path}: image {image.key} reaches from {tuple(low.tolist())} to {tuple(high.tolist())} "
                f"in the joined frame, outside 0 to {LARGEST}: its read-out is longer than the geometry says, "
                f"x = {coords[:, 0].max()}. Fix: --ticks N and a new store, or downsample more"
            )
    return places[:, 0] << 32 | places[:, 1] << 16 | places[:, 2]


def _merged(parts: Sequence[npt.NDArray[np.int64]]) -> Merged:
    keys = np.concatenate(parts)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    start = np.flatnonzero(np.diff(keys, prepend=-1))
    unique = keys[start]
    coords = np.empty((len(unique), 3), np.uint16)
    for axis, shift in enumerate((32, 16, 0)):
        coords[:, axis] = unique >> shift & 0xFFFF
    return Merged(coords, order, start)


def _known(images: Sequence[Image], name: str) -> int:
    """A number that images of one frame share, -1 where none tells."""
    return max(int(image.summary(name)) for image in images)
