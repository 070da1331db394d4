"""Charge per wire along tracks: is the file's unit the electron?"""

from typing import Any

import numpy as np
import numpy.typing as npt

MIP_ELECTRONS = 30_000.0  # minimum-ionising track on one collection wire, about 5 mm
MIP_FACTOR = 5.0
KNOWN_SCALES = (1.0, 200.0, 1000.0)  # electrons; recob::Wire, written × 0.005 or × 0.001


def region_charges(values: npt.NDArray[Any], above: float) -> npt.NDArray[np.float64]:
    """Sums over each run of neighbouring ticks above a value, of (channels, ticks) values; NaN ends a run."""
    with np.errstate(invalid="ignore", over="ignore"):  # damaged samples; the caller counts them
        lit_rows = np.flatnonzero((values > above).any(axis=1))
        if not len(lit_rows):
            return np.empty(0)
        rows = np.zeros((len(lit_rows), values.shape[1] + 2))  # an unlit tick at both ends: runs end with their channel
        rows[:, 1:-1] = np.nan_to_num(values[lit_rows], nan=0.0, posinf=0.0, neginf=0.0)
        flat = rows.ravel()
        edges = np.diff((flat > above).astype(np.int8))
        starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
        sums = np.concatenate([[0.0], np.cumsum(flat)])
        return np.asarray(sums[ends] - sums[starts])


def typical_charge(charges: npt.NDArray[np.float64]) -> float | None:
    """The geometric mean of regions' charges, weighted with their square roots; None without any.

    The weight keeps the many specks of noise from deciding, the logarithm the few showers. ProtoDUNE-SP, -HD, -VD
    frames and simulated ones of DUNE 10 kt give 20 to 120 thousand electrons.
    """
    positive = charges[(charges > 0) & np.isfinite(charges)]
    if not len(positive):
        return None
    return float(np.exp(np.average(np.log(positive), weights=np.sqrt(positive))))


def scale_for(charge: float) -> float:
    """The usual scale with which a typical charge in the file's unit comes nearest to a minimum-ionising track."""
    return min(KNOWN_SCALES, key=lambda scale: abs(np.log(charge * scale / MIP_ELECTRONS)))
