"""Which part of a voxel lies on which wire of a plane: from the wires and frames that a store carries, alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from larstore.errors import StoreError
from larstore.geometry import Geometry, TpcGeometry

Floats = npt.NDArray[np.float64]

ONE_LINE = 0.1  # of the pitch: wires nearer than this lie on one line
SHARED_BORDER = 0.05  # of the pitch: spacings that differ by less from it leave no gap
ROUNDING = 1e-9  # parts of an area below this are none


@dataclass(frozen=True)
class PlaneWires:
    """The strips (wire ± half a pitch) of one plane of a TPC, along their normal; lengths in mm.

    Attributes:
        normal: (dy, dz), unit vector across the wires.
        low, high: (line,) borders of each line of wires, ascending.
        line, begin, channel: (segment,) its line, where it begins along the wires (-inf for the first of its line) and
            the number of its channel; sorted by line and begin.
    """

    normal: tuple[float, float]
    low: Floats
    high: Floats
    line: npt.NDArray[np.int64]
    begin: Floats
    channel: npt.NDArray[np.int64]


def plane_wires(geometry: Geometry, tpc: int) -> tuple[PlaneWires, ...]:
    """The planes of a TPC in drift order; StoreError where the geometry has no wires, or no pitch, for one of them."""
    frame = geometry.tpcs.get(tpc)
    of_tpc = geometry.wires["tpc"] == tpc
    planes = []
    for plane, name in enumerate(frame.planes if frame else ()):
        rows = np.flatnonzero(of_tpc & (geometry.wires["plane"] == plane))
        where = f"plane {name} of TPC {tpc}"
        if not len(rows):
            raise StoreError(f"geometry/: no wires of {where}. Fix: preprocess with its detector")
        tail, head = (np.asarray(geometry.wires[end][rows, 1:], np.float64) for end in ("tail", "head"))
        planes.append(_plane(where, tail, head, np.asarray(geometry.wires["channel"][rows], np.int64)))
    if not planes:
        raise StoreError(f"geometry/: has no TPC {tpc}. Fix: preprocess with its detector")
    return tuple(planes)


def _plane(where: str, tail: Floats, head: Floats, channel: npt.NDArray[np.int64]) -> PlaneWires:
    along = (head - tail)[np.argmax(np.linalg.norm(head - tail, axis=1))]
    along = along / np.linalg.norm(along)
    normal = np.array([-along[1], along[0]])
    offset = 0.5 * (tail + head) @ normal
    order = np.argsort(offset, kind="stable")
    steps = np.diff(offset[order])
    usual = float(np.quantile(steps, 0.9)) if len(steps) else 0.0  # not a gap, and not nothing, as on one line
    if usual <= 0:
        raise StoreError(f"geometry/: {where} has one line of wires, so no pitch. Fix: preprocess with its detector")
    pitch = float(np.median(steps[steps > ONE_LINE * usual]))
    first = np.concatenate([[True], steps > ONE_LINE * pitch])
    line = np.empty(len(order), np.int64)
    line[order] = np.cumsum(first) - 1
    centre = offset[order][first]
    low, high = centre - pitch / 2, centre + pitch / 2
    near = np.abs(np.diff(centre) - pitch) < SHARED_BORDER * pitch
    border = 0.5 * (centre[1:] + centre[:-1])
    low[1:][near], high[:-1][near] = border[near], border[near]
    begin = np.minimum(tail @ along, head @ along)
    by_line = np.lexsort((begin, line))
    line, begin = line[by_line], begin[by_line]
    begin[np.diff(line, prepend=-1) > 0] = -np.inf
    return PlaneWires((float(normal[0]), float(normal[1])), low, high, line, begin, channel[by_line])


def voxel_shares(
    planes: Sequence[PlaneWires], frame: TpcGeometry, downsample: Sequence[int], coords: npt.NDArray[Any]
) -> list[sparse.csr_array]:
    """Of each plane (n, channels) sparse: `wire_shares` of the voxels ``coords`` (n, 3) of a TPC's image."""
    cells, number = np.unique(coords[:, 1:], axis=0, return_inverse=True)
    return [wire_shares(wires, frame, downsample, cells)[number.ravel()] for wires in planes]


def wire_shares(
    wires: PlaneWires, frame: TpcGeometry, downsample: Sequence[int], cells: npt.NDArray[Any]
) -> sparse.csr_array:
    """(cells, channels) sparse: the part of each cell's area, of what wires cover of it, on each channel's strips.

    Args:
        cells: (k, 2) whole numbers: y and z of voxels.
        downsample: (x, y, z) of the store.

    The rows sum to 1, or to 0 for cells that no wire covers. Columns are numbered by channel, ascending. Where another
    channel continues a wire's line, a cell belongs to the one in which its centre lies.
    """
    size = np.asarray(downsample[1:], np.float64) * frame.pixel_mm
    corner = np.array([frame.origin_y_mm, frame.origin_z_mm]) + np.asarray(cells, np.float64) * size
    normal, along = np.array(wires.normal), np.array([wires.normal[1], -wires.normal[0]])
    start, centre = corner @ normal + np.minimum(normal * size, 0).sum(), (corner + size / 2) @ along
    sides = (float(abs(normal[0]) * size[0]), float(abs(normal[1]) * size[1]))
    first = np.searchsorted(wires.high, start)
    most = int((np.searchsorted(wires.low, start + sum(sides)) - first).max(initial=0))
    channels, number = np.unique(wires.channel, return_inverse=True)
    rows, columns, areas = ([np.empty(0, kind)] for kind in (np.int64, np.int64, np.float64))
    for k in range(most):
        row = np.flatnonzero(first + k < len(wires.low))
        line = first[row] + k
        area = _below(wires.high[line] - start[row], sides) - _below(wires.low[line] - start[row], sides)
        some = area > ROUNDING
        row, line = row[some], line[some]
        rows.append(row)
        columns.append(number[_segment(wires, line, centre[row])])
        areas.append(area[some])
    entries = (np.concatenate(areas), (np.concatenate(rows), np.concatenate(columns)))
    found = sparse.csr_array(entries, shape=(len(cells), len(channels)))
    found.sum_duplicates()  # a channel with several lines in a cell
    total = found.sum(axis=1)
    return sparse.csr_array(
        sparse.diags_array(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)) @ found
    )


def _segment(wires: PlaneWires, line: npt.NDArray[np.int64], along: Floats) -> npt.NDArray[np.int64]:
    """The segment of each line on which a place along it lies."""
    last = np.searchsorted(wires.line, line, side="right") - 1
    for _ in range(int(np.bincount(wires.line).max()) - 1):
        last = np.where(wires.begin[last] > along, last - 1, last)
    return last


def _below(t: Floats, sides: tuple[float, float]) -> Floats:
    """Part of a rectangle that is less than t from its lowest corner, across the wires; its sides seen that way."""
    a, b = sides
    if min(a, b) < ROUNDING * max(a, b):
        return np.clip(t / max(a, b), 0.0, 1.0)
    squares = [np.clip(t - cut, 0.0, None) ** 2 for cut in (0.0, a, b, a + b)]
    return np.clip((squares[0] - squares[1] - squares[2] + squares[3]) / (2 * a * b), 0.0, 1.0)
