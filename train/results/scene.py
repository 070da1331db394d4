"""How events are drawn in 3D: axes, viewing direction, colour scales; the same on every page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from train.results.cloud import Cloud

SCALES: dict[str, list[list[Any]]] = {  # dark means much: white paper behind
    "charge": [[0, "#d5dce4"], [0.35, "#86b6d9"], [0.7, "#1f6fb0"], [1, "#0a2342"]],
    "truth": [[0, "#f0b47a"], [0.5, "#d4572a"], [1, "#5e0f14"]],
    "score": [[0, "#d9dee4"], [0.4, "#b9c6b0"], [0.7, "#4d9a62"], [1, "#0b4f2a"]],
    "difference": [[0, "#54278f"], [0.25, "#9e9ac8"], [0.5, "#e3e6ea"], [0.75, "#f0a05a"], [1, "#a63603"]],
}
NAMES = ("x, drift", "y", "z")
EYE = np.array([0.7, -1.9, 0.7])
SEEN = 1.4  # height that this eye sees, in plotly's units, less some room for the titles


def scene(
    cloud: Cloud, width: float = 1.0, boxes: Sequence[npt.NDArray[np.float64]] = (), fill: float = 1.0
) -> dict[str, Any]:
    """A plotly scene in which equal lengths look equal and the voxels fill the place.

    Args:
        cloud: what is drawn.
        width: of the place, relative to its height.
        boxes: (2, 3) lowest and highest corners of what is to be seen, too, in the cloud's unit.
        fill: how large it is drawn; in a small place the titles need some room.
    """
    found: dict[str, Any] = {
        "aspectmode": "manual",
        "dragmode": "turntable",
        "camera": {"projection": {"type": "orthographic"}, "eye": dict(zip("xyz", EYE.tolist(), strict=True))},
    }
    axes = axes_of(cloud.up)
    for axis, column, label in axes:
        values = np.concatenate([cloud.position[:, column], *(box[:, column] for box in boxes)])
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        margin = max(0.02 * (high - low), 1.0)
        found[axis] = {
            "title": {"text": f"{label} [{cloud.unit}]"},
            "range": [low - margin, high + margin],
            "gridcolor": "#e3e8ee",
            "linecolor": "#8a96a3",
            "showbackground": False,
            "showspikes": False,
            "zeroline": False,
            "tickfont": {"size": 11},
        }
    sides = np.array([found[axis]["range"][1] - found[axis]["range"][0] for axis, _, _ in axes])
    right, up = _screen()
    for (axis, _, _), side, along, across in zip(axes, sides, right, up, strict=True):  # no ticks on top of each other
        found[axis]["nticks"] = 2 + round(4 * side * np.hypot(along, across) / max(sides))
    size = fill * SEEN / max(float(np.abs(right) @ sides) / width, float(np.abs(up) @ sides))
    found["aspectratio"] = dict(zip("xyz", (sides * size).tolist(), strict=True))
    return found


def axes_of(up: int) -> list[tuple[str, int, str]]:
    """plotly's axis, column of Cloud.position, title: one along the page, one into the depth, ``up`` upwards.

    z (beam) runs along the page, x (drift) into the depth, as far as they are not up.
    """
    along, depth = [column for column in (2, 0, 1) if column != up]
    places = (("xaxis", along), ("yaxis", depth), ("zaxis", up))
    return [(axis, column, NAMES[column] + (", up" if column == up else "")) for axis, column in places]


def _screen() -> tuple[np.ndarray, np.ndarray]:
    """Directions in space that point to the right and up on the screen."""
    ahead = -EYE / np.linalg.norm(EYE)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return right, np.cross(right, ahead)
