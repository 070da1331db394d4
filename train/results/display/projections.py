"""The wire planes of an image: its voxels' charges on the wires of the stored geometry, tick × channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from larstore.errors import StoreError
from larstore.geometry import TpcGeometry
from train.results.solving import slice_wires, wire_sums
from train.results.wire_shares import PlaneWires, plane_wires, voxel_shares, wire_shares

NONE = 65535  # a voxel on no wire


@dataclass(frozen=True)
class PlaneImage:
    """Charge of each channel of a plane in each slice of ``downsample`` ticks, where there is any.

    Attributes:
        name: of the plane.
        channels: (columns,) numbers of its channels, ascending.
        x, column, charge: (m,) slice, place in ``channels`` and charge, sorted by slice and column.
        main: (n,) column of the channel on which most of each point of a cloud lies, ``NONE`` where there is none.
        reach: columns on either side of it that the point also touches.
    """

    name: str
    channels: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    charge: npt.NDArray[np.float64]
    main: npt.NDArray[np.int64]
    reach: int


def refusal(store: Any, tpc: int) -> str | None:
    """Why the wire planes of a TPC's images cannot be drawn, None if they can."""
    if store.geometry.joined:
        return "No wire planes: the TPCs of this image are joined, their wires are not."
    try:
        plane_wires(store.geometry, tpc)
    except StoreError as error:
        return f"No wire planes: {error}"
    return None


def plane_images(image: Any, points: npt.NDArray[Any], side: int) -> list[PlaneImage]:
    """The planes of an image in drift order.

    The store has a voxel's charge summed over its wires; as for the classical solver it is divided among them so that
    each wire's charge per area fits all its voxels (`train.results.solving.wire_sums`). Where all voxels are live, a
    plane's image sums to the charge of its voxels. A channel that lies mostly in voxels where a bad channel stood in
    is left out.

    Args:
        image: of a TPC that is not joined.
        points: (n, 3) points that are drawn, in voxels divided by ``side``; see `train.results.cloud.Cloud`.
        side: voxels along a point.

    Raises:
        StoreError: no wires, or no pitch, in the store's geometry.
    """
    frame = image.store.geometry.tpcs[image.key[2]]
    downsample = image.store.attributes["downsample"]
    planes = plane_wires(image.store.geometry, image.key[2])
    slices, number = np.unique(image.coords[:, 0].astype(np.int64), return_inverse=True)
    shares = voxel_shares(planes, frame, downsample, image.coords)
    found = []
    for p, (wires, share) in enumerate(zip(planes, shares, strict=True)):
        keys, matrix = slice_wires(number, share)
        live = (image.live >> p & 1).astype(bool)
        charge, told = wire_sums(matrix, image.charge[:, p].astype(np.float64), live)
        row, column = np.divmod(keys[told], share.shape[1])
        main, reach = _main_channels(wires, frame, downsample, points, side)
        channels = np.unique(wires.channel)
        found.append(PlaneImage(frame.planes[p], channels, slices[row], column, charge[told], main, reach))
    return found


def _main_channels(
    wires: PlaneWires, frame: TpcGeometry, downsample: Sequence[int], points: npt.NDArray[Any], side: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Of each point the column with the largest part of its area; and how many columns to either side it touches."""
    cells, cell = np.unique(points[:, 1:], axis=0, return_inverse=True)
    shares = sparse.coo_array(wire_shares(wires, frame, [side * step for step in downsample], cells))
    order = np.lexsort((shares.data, shares.row))
    row = shares.row[order]
    last = np.flatnonzero(np.diff(row, append=-1))
    main = np.full(len(cells), NONE, np.int64)
    main[row[last]] = shares.col[order][last]
    size = np.asarray(downsample[1:], np.float64) * frame.pixel_mm * side
    pitch = float(np.median(wires.high - wires.low))
    reach = int(np.abs(wires.normal) @ size / pitch / 2 + 0.5)
    return main[cell.ravel()], reach
