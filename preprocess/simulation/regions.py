"""Regions of interest: what signal processing keeps of a waveform, and what it loses of prolonged signals."""

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Regions = npt.NDArray[np.int32]
Waveform = npt.NDArray[np.float32]


def room_for(n_columns: int, n_ticks: int, padding: int) -> Regions:
    """An array that holds all regions which ``find_regions`` could find."""
    return np.empty((n_columns * (n_ticks // (2 * padding + 2) + 1), 3), np.int32)


@numba.njit(cache=True)
def find_regions(
    charge: Waveform, plane_of: npt.NDArray[np.int64], threshold: Floats, padding: int, regions: Regions
) -> int:
    """Find what lies within ``padding`` ticks of samples above the plane's threshold.

    Args:
        charge: (columns, ticks) electrons.
        plane_of: (columns,) the plane of each, −1 for columns without regions.
        threshold: (planes,) electrons a tick.
        padding: ticks that a region reaches further on both sides.
        regions: (k, 3) out: column, first tick, end tick; k as in ``room_for``.

    Returns:
        Number of regions.
    """
    n_ticks, found = charge.shape[1], 0
    for row in range(charge.shape[0]):
        if plane_of[row] < 0:
            continue
        limit = threshold[plane_of[row]]
        end = -1
        for t in range(n_ticks):
            if charge[row, t] > limit:
                if t - padding > end or end < 0:
                    regions[found, 0], regions[found, 1] = row, max(0, t - padding)
                    found += 1
                end = min(n_ticks, t + padding + 1)
                regions[found - 1, 2] = end
    return found


@numba.njit(cache=True)
def keep_connected(
    charge: Waveform, plane_of: npt.NDArray[np.int64], sure: Floats, regions: Regions, kept: npt.NDArray[np.bool_]
) -> None:
    """Tell which regions are more than a lonely fluctuation of the noise.

    A region stays if it reaches the plane's ``sure`` level, or if a region of the same plane on a neighbouring column
    overlaps with it in time: particles cross several wires.

    Args:
        charge: (columns, ticks) electrons.
        plane_of: (columns,) the plane of each.
        sure: (planes,) electrons a tick.
        regions: (n, 3) of ``find_regions``.
        kept: (n,) out.
    """
    n_columns = charge.shape[0]
    start = np.zeros(n_columns + 1, np.int64)  # regions of column c: start[c] … start[c + 1]
    for i in range(len(regions)):
        start[regions[i, 0] + 1] += 1
    for column in range(n_columns):
        start[column + 1] += start[column]
    for i in range(len(regions)):
        row, first, end = regions[i]
        kept[i] = False
        for t in range(first, end):
            if charge[row, t] >= sure[plane_of[row]]:
                kept[i] = True
                break
        for other in (row - 1, row + 1):
            if kept[i] or other < 0 or other >= n_columns or plane_of[other] != plane_of[row]:
                continue
            for j in range(start[other], start[other + 1]):
                if regions[j, 1] < end and regions[j, 2] > first:
                    kept[i] = True
                    break


@numba.njit(cache=True)
def lose_prolonged(
    charge: Waveform, regions: Regions, plane_of: npt.NDArray[np.int64], limit: Floats, longest: int, piece: int,
    probability: float, uniforms: Waveform,
) -> None:  # fmt: skip
    """Set pieces of long, low regions to 0.

    In regions of more than ``longest`` ticks, each stretch of ``piece`` ticks (counted from the region's start) whose
    samples all lie below the plane's limit is lost with a probability.

    Args:
        charge: (columns, ticks) electrons; changed.
        regions: (n, 3) of ``find_regions``.
        plane_of: (columns,) the plane of each.
        limit: (planes,) electrons a tick; 0 for a plane that loses nothing.
        longest, piece: ticks.
        probability: of losing a piece.
        uniforms: (columns, pieces) random numbers; that of tick // ``piece`` decides.
    """
    for i in range(len(regions)):
        row, first, end = regions[i]
        level = limit[plane_of[row]]
        if level <= 0.0 or end - first <= longest:
            continue
        for start in range(first, end, piece):
            stop = min(end, start + piece)
            low = True
            for t in range(start, stop):
                if charge[row, t] >= level:
                    low = False
            if low and uniforms[row, start // piece] < probability:
                for t in range(start, stop):
                    charge[row, t] = 0.0


@numba.njit(cache=True)
def copy_regions(charge: Waveform, regions: Regions, out: Waveform) -> None:
    """Copy regions of (columns, ticks) charge to (ticks, columns) zeros.

    Negative samples become 0, as in the frames of ProtoDUNE, and the others of the region shrink by one factor, so
    that its charge stays what it was; a region whose sum is not positive is left out.
    """
    for i in range(len(regions)):
        row, first, end = regions[i]
        total, positive = 0.0, 0.0
        for t in range(first, end):
            value = charge[row, t]
            total += value
            if value > 0.0:
                positive += value
        if total <= 0.0:
            continue
        factor = total / positive
        for t in range(first, end):
            if charge[row, t] > 0.0:
                out[t, row] = charge[row, t] * factor
