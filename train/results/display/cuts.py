"""What a cut on a prediction keeps of an image, for each position of the page's slider."""

from typing import Any

import numpy as np
import numpy.typing as npt

STEPS = 400  # positions of the slider
KEPT_SCORE = 0.5
KEPT_CHARGE = 1000.0  # electrons


def cut_table(
    score: npt.NDArray[Any], truth: npt.NDArray[Any] | None, all_true: int | None, start: float | None, charge: bool
) -> dict[str, Any]:
    """How many voxels have ``score`` ≥ each of some values, and how many of these are true.

    Args:
        score: (n,) of all voxels of the image, NaN where there is none: these are never kept.
        truth: (n,) true electrons: > 0 is true, 0 a ghost, NaN not known; None without truth.
        all_true: true voxels, tiled or not.
        start: a value that is among them for certain: 0.5 by default, or 1,000 electrons for charges.
        charge: the scores are charges: the values are spaced by factors.

    Returns:
        values, kept; with truth also kept_true and kept_ghost (those with known truth), true (voxels), all_true; and
        start, the position in values where the slider is at first.
    """
    first = start if start is not None else KEPT_CHARGE if charge else KEPT_SCORE
    values = _values(score, first, charge)
    table: dict[str, Any] = {"values": values.tolist(), "start": int(np.searchsorted(values, first))}
    table["kept"] = _at_least(score, values)
    if truth is not None:
        table["kept_true"] = _at_least(score[truth > 0], values)
        table["kept_ghost"] = _at_least(score[truth == 0], values)
        table["true"] = int((truth > 0).sum())
        table["all_true"] = all_true
    return table


def _values(score: npt.NDArray[Any], start: float, charge: bool) -> npt.NDArray[np.float64]:
    """Ascending float32 values, as a browser compares the scores in float32."""
    finite = score[np.isfinite(score)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if charge:
        top = max(high, 1.1 * start, 10.0)
        values = np.concatenate([[0.0], np.geomspace(1.0, top, STEPS - 1)])
    else:
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-3))
        values = np.linspace(low, high, STEPS + 1)
    values = np.append(values[np.abs(values - start) > 1e-9], start)
    return np.unique(values.astype(np.float32)).astype(np.float64)


def _at_least(score: npt.NDArray[Any], values: npt.NDArray[np.float64]) -> list[int]:
    """How many of the scores are at least each value."""
    known = np.sort(score[np.isfinite(score)])
    return [len(known) - int(first) for first in np.searchsorted(known, values.astype(np.float32))]
