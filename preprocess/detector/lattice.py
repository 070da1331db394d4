"""Wires of a detector made of equal anodes, generated from its parameters."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector.config import Lattice, PlaneSpec
from preprocess.detector.wires import FaceWires, PlaneWires


def lattice_wires(lattice: Lattice) -> list[FaceWires]:
    """All faces; ConfigError if a plane has a wire that does not cross its rectangle."""
    faces = []
    for anode, place in enumerate(lattice.anodes):
        segments: Counter[int] = Counter()
        for face in lattice.faces:
            planes = []
            for ident, spec in enumerate(face.planes):
                channel = _channels(spec) + anode * lattice.channels_per_anode
                segment = np.empty(spec.wires, np.int32)
                for wire, number in enumerate(channel.tolist()):
                    segment[wire] = segments[number]
                    segments[number] += 1
                normal = math.sin(math.radians(spec.angle_deg)), math.cos(math.radians(spec.angle_deg))
                offset = spec.offset_mm + spec.pitch_mm * np.arange(spec.wires, dtype=np.float64)
                tail, head = _end_points(spec, np.array(normal), offset)
                shift = np.array([place.x_mm, 0.0, place.z_mm])
                planes.append(
                    PlaneWires(
                        ident,
                        channel,
                        segment,
                        tail + shift,
                        head + shift,
                        normal=normal,
                        pitch_mm=spec.pitch_mm,
                        offset_mm=offset,
                    )
                )
            z_low, z_high = face.z_mm
            box = (face.y_mm, (z_low + place.z_mm, z_high + place.z_mm))
            faces.append(FaceWires(anode, face.ident, tuple(planes), box, place.z_mm))
    return faces


def _channels(spec: PlaneSpec) -> npt.NDArray[np.int32]:
    channel = np.empty(spec.wires, np.int32)
    for first, at_first, step in spec.channels:
        wire = np.arange(first, spec.wires)
        channel[first:] = at_first + step * (wire - first)
    return channel


def _end_points(
    spec: PlaneSpec, normal: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where each wire's line enters and leaves the plane's rectangle."""
    along = np.array([normal[1], -normal[0]])
    low = np.full(spec.wires, -np.inf)
    high = np.full(spec.wires, np.inf)
    for axis, (lower, upper) in enumerate((spec.y_mm, spec.z_mm)):
        if abs(along[axis]) < 1e-12:  # parallel to this side of the rectangle
            continue
        ends = (np.array([[lower], [upper]]) - offset * normal[axis]) / along[axis]
        low = np.maximum(low, ends.min(axis=0))
        high = np.minimum(high, ends.max(axis=0))
    if not (low < high).all():
        wire = int(np.flatnonzero(low >= high)[0])
        raise ConfigError(
            f"lattice: wire {wire} at {offset[wire]:.3f} mm does not cross y {spec.y_mm}, z {spec.z_mm}. "
            "Fix: mend offset_mm, wires or the rectangle."
        )
    points = [
        np.column_stack([np.full(spec.wires, spec.x_mm), offset[:, None] * normal + position[:, None] * along])
        for position in (low, high)
    ]
    return points[0], points[1]
