"""Truth points that lie beside a read-out file: ``<head>_<product>-TPC<n>.npz`` with ``arr_0 … arr_{events-1}``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.sources.members import read_zip
from preprocess.sources.names import truth_path


class TruthFile:
    """The truth of one file and TPC, event by event; without a sibling file it answers None."""

    def __init__(self, path: Path, tpc: int, products: Sequence[str] | None) -> None:
        self.path = truth_path(path, tpc, products)
        self.asked = bool(products)

    def read(self, event: int) -> npt.NDArray[np.float64] | None:
        """(m, 4) tick, y pixel, z pixel (full resolution), value; None where there is no truth file.

        Columns after the fourth are left out.

        Raises:
            InputError: the event is missing, or is not a finite (m, 4 or more) array of numbers.
        """
        if self.path is None:
            return None
        name = f"arr_{event}"
        points = read_zip(self.path, name)
        if points.ndim != 2 or points.shape[1] < 4:
            if points.size == 0:
                return np.empty((0, 4), np.float64)
            raise InputError(
                f"{self.path}: {name} has shape {points.shape}. Fix: write (n, 4): tick, y pixel, z pixel, value."
            )
        truth = np.array(points[:, :4], np.float64)
        if not np.isfinite(truth).all():
            row = int(np.argwhere(~np.isfinite(truth))[0, 0])
            raise InputError(f"{self.path}: {name} row {row} is {truth[row].tolist()}. Fix: write finite numbers.")
        return truth

    def notes(self) -> dict[str, int]:
        """What a reader notes with every event: truth was asked for, but there is no such file."""
        return {"no truth file": 1} if self.asked and self.path is None else {}
