"""The strips of a plane's wires: which part of the wire plane belongs to which channel."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Plane

SAME_LINE = 0.1  # of the pitch: wires nearer than this lie on one line
EVEN_SPACING = 0.05  # of the pitch: up to here a spacing other than the pitch is rounding, not a gap
EQUAL_SPACING = 1e-6  # mm: below this a spacing is the pitch itself


@dataclass(frozen=True)
class Strips:
    """The strips of one plane in mm, sorted by pitch coordinate.

    ``low`` … ``high`` along the normal; ``begin`` … ``end`` along the wire, infinite where the strip is not cut off.
    """

    normal: tuple[float, float]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    begin: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    column: npt.NDArray[np.int32]


def strips_of(plane: Plane, shift_z_mm: float) -> Strips:
    """The strips of a plane's wires: centre line ± pitch/2, unbounded along the wire.

    Where the spacing differs from the pitch by rounding only, neighbours share the border half-way. Where another
    channel continues the line, a strip ends with its segment.
    """
    along = np.array([plane.normal[1], -plane.normal[0]])
    first = np.concatenate([[True], np.diff(plane.local_offset_mm) > SAME_LINE * plane.pitch_mm])
    line = np.cumsum(first) - 1
    centre = plane.local_offset_mm[first]
    low, high = centre - plane.pitch_mm / 2, centre + plane.pitch_mm / 2
    # Neighbours share their border, to the last digit: no slit of NONE opens between them.
    uneven = np.abs(np.diff(centre) - plane.pitch_mm)
    border = np.where(uneven < EQUAL_SPACING, low[1:], (centre[1:] + centre[:-1]) / 2)
    shared = uneven < EVEN_SPACING * plane.pitch_mm
    low[1:][shared] = border[shared]
    high[:-1][shared] = border[shared]
    ends = np.sort(np.stack([p[:, 1:] @ along for p in (plane.tail, plane.head)]) - shift_z_mm * along[1], axis=0)
    rows: list[tuple[int, float, float, int]] = []
    for members in np.split(np.arange(len(line)), np.flatnonzero(first)[1:]):
        rows.extend((int(line[members[0]]), *cut) for cut in _cut(members, ends, plane.column))
    lines = np.array([row[0] for row in rows])
    begin, end = (np.array([row[i] for row in rows]) for i in (1, 2))
    return Strips(plane.normal, low[lines], high[lines], begin, end, np.array([row[3] for row in rows], np.int32))


def _cut(
    members: npt.NDArray[np.intp], ends: npt.NDArray[np.float64], column: npt.NDArray[np.int32]
) -> list[tuple[float, float, int]]:
    """(begin, end, column) of the strips on one line; a channel's segments that follow each other are one strip."""
    members = members[np.argsort(ends[:, members].sum(axis=0), kind="stable")]
    runs: list[tuple[float, float, int]] = []
    for wire in members.tolist():
        begin, end, number = float(ends[0, wire]), float(ends[1, wire]), int(column[wire])
        if runs and runs[-1][2] == number:
            begin, end = min(begin, runs[-1][0]), max(end, runs[-1][1])
            runs.pop()
        runs.append((begin, end, number))
    last = len(runs) - 1
    return [
        (begin if i else -np.inf, end if i < last else np.inf, number) for i, (begin, end, number) in enumerate(runs)
    ]
