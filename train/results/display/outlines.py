"""Outlines of TPCs as lines to draw, from the frames that a store carries."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.geometry import Geometry, TpcGeometry

# Corners of a box (bits: x, y, z) in an order in which a line along them passes every edge.
PATH = (0, 1, 3, 2, 0, 4, 5, 7, 6, 4, 5, 1, 3, 7, 6, 2)


def outlines(geometry: Geometry, tpc: int) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """Boxes (2, 3), lowest and highest corner in cm: of the image's own TPCs (several if joined), and of all others.

    A TPC without a drift length is drawn as its anode alone. Nothing for a TPC that the geometry does not have.
    """
    own = set(geometry.joined) or {tpc}
    boxes = {number: tpc_box(frame) for number, frame in sorted(geometry.tpcs.items())}
    return [box for n, box in boxes.items() if n in own], [box for n, box in boxes.items() if n not in own]


def tpc_box(frame: TpcGeometry) -> npt.NDArray[np.float64]:
    """(2, 3) lowest and highest corner of a TPC's drift volume in cm."""
    far = frame.anode_x_mm + frame.drift_sign * (frame.drift_length_mm or 0.0)
    low = (min(frame.anode_x_mm, far), frame.origin_y_mm, frame.origin_z_mm)
    sides = (abs(far - frame.anode_x_mm), frame.n_y * frame.pixel_mm, frame.n_z * frame.pixel_mm)
    return np.array([low, np.add(low, sides)]) / 10.0


def voxel_box(frame: TpcGeometry, downsample: Sequence[int]) -> npt.NDArray[np.float64]:
    """(2, 3) the same in voxel numbers, for all ticks of the read-out: for a TPC whose drift is not known."""
    sides = np.array([frame.n_ticks, frame.n_y, frame.n_z]) / np.asarray(downsample, np.float64)
    return np.array([np.zeros(3), sides]) - 0.5


def box_line(boxes: list[npt.NDArray[np.float64]]) -> dict[str, list[Any]]:
    """The edges of boxes as one line, x, y and z of its points, with a gap (None) behind each box."""
    line: dict[str, list[Any]] = {"x": [], "y": [], "z": []}
    for box in boxes:
        for axis, name in enumerate("xyz"):
            line[name] += [round(float(box[corner >> axis & 1, axis]), 3) for corner in PATH] + [None]
    return line
