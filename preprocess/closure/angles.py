"""Angles of a straight track to the wires of a plane: along the drift, and along the wires."""

import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Plane, Tpc

Floats = npt.NDArray[np.float64]


def theta_xz(direction: Floats, plane: Plane) -> float:
    """Degrees 0 … 90 between the track, seen along the wires, and the wire plane: tan θ = |dx| / |d · normal|.

    At 0° all charge arrives together, one wire after the other; at 90° it arrives over a long time on one wire: the
    track runs along the drift, or in the plane that the drift and the wire span.
    """
    across = abs(direction[1] * plane.normal[0] + direction[2] * plane.normal[1])
    return float(np.degrees(np.arctan2(abs(direction[0]), across)))


def theta_yz(direction: Floats, plane: Plane) -> float:
    """Degrees 0 … 90 between the track, seen along the drift, and the wire: tan θ = |d · normal| / |d · wire|.

    At 0° the track runs along the wires and lights few of them; at 90° it crosses them: the wires are seen end-on.
    """
    across = abs(direction[1] * plane.normal[0] + direction[2] * plane.normal[1])
    along = abs(direction[1] * plane.normal[1] - direction[2] * plane.normal[0])
    return float(np.degrees(np.arctan2(across, along)))


def track_angles(direction: Floats | None, tpc: Tpc) -> tuple[Floats, Floats]:
    """θ_xz and θ_yz (planes,) in degrees of a unit vector (3,); NaN where there is no one direction."""
    if direction is None:
        unknown = np.full(len(tpc.planes), np.nan)
        return unknown, unknown
    return (
        np.array([theta_xz(direction, plane) for plane in tpc.planes]),
        np.array([theta_yz(direction, plane) for plane in tpc.planes]),
    )


def isotropic(rng: np.random.Generator) -> Floats:
    """A unit vector (3,), all directions alike."""
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))
