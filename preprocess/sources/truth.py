"""Truth points that lie beside a read-out file: ``<head>_<product>-TPC<n>.npz`` with ``arr_0 … arr_{events-1}``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from preprocess.sources.members import read_zip, zip_names
from preprocess.sources.names import truth_path

# Optional members `<name>_<event>` with one number for each row of `arr_<event>`.
COLUMN_TYPES: dict[str, type[np.generic]] = {"collected": np.float32, "pdg": np.int32, "track": np.int32}


class TruthFile:
    """The truth of one file and TPC, event by event; without a sibling file it answers None and no columns."""

    def __init__(self, path: Path, tpc: int, products: Sequence[str] | None) -> None:
        self.path = truth_path(path, tpc, products)
        self.asked = bool(products)
        self._names: frozenset[str] | None = None

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

    def columns(self, event: int, n_points: int) -> dict[str, npt.NDArray[Any]]:
        """What the file tells about each of the event's ``n_points`` truth points: those members that it has.

        ``collected_<event>`` (m,) float32 electrons that reach the wires, ``pdg_<event>`` and ``track_<event>`` (m,)
        int32, 0 and -1 where unknown.

        Raises:
            InputError: a member that is not (m,) numbers of its kind.
        """
        if self.path is None:
            return {}
        if self._names is None:
            self._names = frozenset(zip_names(self.path))
        return {
            name: _column(self.path, f"{name}_{event}", dtype, n_points)
            for name, dtype in COLUMN_TYPES.items()
            if f"{name}_{event}" in self._names
        }

    def notes(self) -> dict[str, int]:
        """What a reader notes with every event: truth was asked for, but there is no such file."""
        return {"no truth file": 1} if self.asked and self.path is None else {}


def _column(path: Path, member: str, dtype: type[np.generic], n_points: int) -> npt.NDArray[Any]:
    values = read_zip(path, member)
    if values.shape != (n_points,):
        raise InputError(
            f"{path}: {member} has shape {values.shape}, its event has {n_points} truth points. "
            "Fix: write one number for each point."
        )
    whole = np.dtype(dtype).kind == "i"
    if whole and values.dtype.kind not in "iu":
        raise InputError(f"{path}: {member} has type {values.dtype}. Fix: write whole numbers, int32 at best.")
    limit = np.iinfo(np.int32).max if whole else np.finfo(np.float32).max
    # Compared as "not inside", so that NaN is refused; the lowest int32 is the store's mark of an unknown number.
    inside = (values >= -limit) & (values <= limit)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        raise InputError(
            f"{path}: {member} row {row} is {values[row]}. Fix: write finite numbers that fit {dtype.__name__}."
        )
    return values.astype(dtype)
