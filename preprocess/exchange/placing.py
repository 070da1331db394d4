"""Where points lie in an image: its tiled voxels, its other voxels, or elsewhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.coordinates import LARGEST
from larstore.geometry import MM_PER_CM, Geometry, TpcGeometry
from larstore.image import Image, pack

BELOW = -1  # in place of a voxel: the point is in the image, in no tiled voxel
ELSEWHERE = -2  # the point is not in the image


@dataclass(frozen=True)
class Placing:
    """How points are placed: freed at ``t0`` (µs); ``window``: in all of the read-out window, not only of the drift.

    A TPC's read-out window is longer than its drift: what it shows before zero drift and behind the cathode came at
    another time. Points at their own places there belong to the TPC on the other side.
    """

    t0: float = 0.0
    window: bool = False

    def rows(self, image: Image, position: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """(n,) the voxel of an image that each point (n, 3) in cm lies in, or ``BELOW`` or ``ELSEWHERE``.

        Of a joined image, a point belongs to the first TPC, in the order of their numbers, that it lies in.
        """
        geometry, coords = image.store.geometry, image.coords
        found = np.full(len(position), ELSEWHERE, np.int64)
        if not len(position):
            return found
        keys = pack(coords)
        for number in geometry.joined or [image.key[2]]:
            left = np.flatnonzero(found == ELSEWHERE)
            inside, places = self._places(image, geometry, number, position[left])
            here = left[inside]
            at = np.minimum(np.searchsorted(keys, places), max(len(keys) - 1, 0))
            tiled = keys[at] == places if len(keys) else np.zeros(len(places), bool)
            found[here] = np.where(tiled, at, BELOW)
        return found

    def _places(
        self, image: Image, geometry: Geometry, number: int, position: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which points a TPC holds, and of those the voxel of the image as one number."""
        frame, steps = geometry.tpcs[number], image.store.attributes["downsample"]
        voxels = frame.voxels(position, steps, self.t0)
        inside = self._inside(frame, steps, position, voxels)
        places = voxels[inside]
        if frame.joined_origin is not None:
            if frame.drift_sign != geometry.tpcs[geometry.joined[0]].drift_sign:
                places[:, 0] *= -1
            places = places + np.array(frame.joined_origin)
        return inside, pack(places)

    def _inside(
        self,
        frame: TpcGeometry,
        steps: Any,
        position: npt.NDArray[np.float64],
        voxels: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        ticks = frame.n_ticks or (LARGEST + 1) * steps[0]  # 0: not known
        last = [-(-n // step) for n, step in zip((ticks, frame.n_y, frame.n_z), steps, strict=True)]
        inside = ((voxels >= 0) & (voxels < np.array(last))).all(axis=1)
        if not self.window and frame.drift_length_mm is not None:
            drift = frame.drift_sign * (position[:, 0] * MM_PER_CM - frame.anode_x_mm)
            inside &= (drift >= 0) & (drift <= frame.drift_length_mm)
        return np.asarray(inside)
