"""The voxels of an image with truth and predictions, at full size or with several taken as one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from larstore.image import Coords, Image, Values, at_voxels, pack

MOST = np.iinfo(np.uint16).max  # voxels taken as one: no coordinate is larger


@dataclass(frozen=True)
class Voxels:
    """Tiled voxels of an image, and its truth voxels.

    Attributes:
        coords, charge, live: (n, 3), (n, planes), (n,) as in `larstore.image.Image`.
        truth: (n,) NaN where not known; None where nothing is known.
        truth_coords: (m, 3) all voxels with truth, tiled or not, sorted; None where not known.
        truth_columns: (m,) each: ``truth``, and ``collected`` where the image has it.
        predictions: name -> (n,).
    """

    coords: Coords
    charge: Values
    live: npt.NDArray[np.uint8]
    truth: Values | None
    truth_coords: Coords | None
    truth_columns: dict[str, Values]
    predictions: dict[str, Values]

    def __len__(self) -> int:
        return len(self.coords)

    def reference(self, column: str) -> Values | None:
        """(n,) true charge of a column of the truth at the tiled voxels; None where the image does not have it."""
        if self.truth_coords is None or column not in self.truth_columns:
            return self.truth if column == "truth" else None
        return at_voxels(self.coords, self.truth_coords, self.truth_columns[column])

    def coarser(self, factors: Sequence[int], charges: Collection[str] = ()) -> "Voxels":
        """``factors`` (x, y, z) voxels as one: charges and truth are summed, of scores the largest one counts.

        A plane is live where it is in all of them. The truth of a coarse voxel is that of all truth voxels in it, tiled
        or not, as if it had been tiled so; it is not known where that of one of its voxels is not.

        Args:
            charges: names of the predictions that are charges.
        """
        first, order, coords = _groups(self.coords, factors)

        def gathered(values: npt.NDArray[Any], how: np.ufunc, dtype: Any) -> npt.NDArray[Any]:
            if not len(first):
                return values[:0]
            return np.asarray(how.reduceat(values[order].astype(dtype), first, axis=0), values.dtype)

        truth_coords, columns = self.truth_coords, self.truth_columns
        if truth_coords is not None:
            start, by_place, truth_coords = _groups(truth_coords, factors)
            columns = {
                name: np.add.reduceat(values[by_place].astype(np.float64), start).astype(np.float32)
                if len(start)
                else values[:0]
                for name, values in columns.items()
            }
        truth = None if self.truth is None else gathered(self.truth, np.add, np.float64)
        if truth is not None and truth_coords is not None:
            truth = np.where(np.isnan(truth), truth, at_voxels(coords, truth_coords, columns["truth"]))
        predictions = {
            name: gathered(values, np.add, np.float64) if name in charges else gathered(values, np.maximum, np.float32)
            for name, values in self.predictions.items()
        }
        charge, live = gathered(self.charge, np.add, np.float64), gathered(self.live, np.bitwise_and, np.uint8)
        return Voxels(coords, charge, live, truth, truth_coords, columns, predictions)


def voxels_of(image: Image, predictions: Collection[str]) -> Voxels:
    """The voxels of an image with its scores of these predictions."""
    everything = image.truth_voxels
    columns: dict[str, Values] = {}
    if everything is not None:
        columns["truth"] = everything[1]
        if "collected" in image.truth_columns:
            columns["collected"] = image.truth_columns["collected"]
    return Voxels(
        coords=image.coords,
        charge=image.charge,
        live=image.live,
        truth=image.truth,
        truth_coords=None if everything is None else everything[0],
        truth_columns=columns,
        predictions={name: image.score(name) for name in predictions},
    )


def check_factors(factors: Sequence[int]) -> tuple[int, int, int]:
    """Three whole numbers from 1 to 65,535, not all 1. Raises ConfigError."""
    if len(factors) != 3 or min(factors) < 1 or max(factors) == 1 or max(factors) > MOST:
        shown = ",".join(map(str, factors))
        raise ConfigError(
            f"coarsen {shown}: Fix: voxels in x, y and z that become one, for example 2,2,2, and up to {MOST:,}"
        )
    return int(factors[0]), int(factors[1]), int(factors[2])


def _groups(coords: Coords, factors: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Coords]:
    """Where each group of voxels begins in an order that brings them together, that order, and coarse coordinates."""
    coarse = (coords // np.asarray(factors, np.uint16)).astype(np.uint16)
    keys = pack(coarse)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1) != 0)
    return first, order, coarse[order][first]
