"""What a tiled voxel is: true at a level of the truth, halo (it touches truth), ghost, or not known."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.image import Coords, Values
from train.results.charge_units import FIVE_KE, electron_in

TINY = float(np.finfo(np.float32).tiny)
SHIFT = 17  # bits of a coordinate, with room for one voxel beyond both ends


@dataclass(frozen=True)
class Level:
    """A voxel is true at this level where its truth is at least ``least`` (float32, the truth's unit)."""

    name: str
    label: str
    least: float


def truth_levels(units: str, threshold: float = 0.0) -> tuple[Level, ...]:
    """The levels of an evaluation, ascending: truth > ``threshold``, and from 5,000 electrons (0.17 MeV) up.

    The second is left out where the truth's ``units`` are neither electrons nor MeV, or the threshold lies above it.
    """
    # The comparison is >: from the next number on; after 0 a normal one, as processors may take others for 0.
    after = float(np.nextafter(np.float32(threshold), np.float32(np.inf))) if threshold else TINY
    first = Level("all", f"truth > {threshold:g}", after)
    electron = electron_in(units)
    if electron is None:
        return (first,)
    least = float(np.float32(FIVE_KE * electron))
    second = Level("5ke", "truth ≥ 5 ke" if electron == 1 else f"truth ≥ {FIVE_KE * electron:g} {units}", least)
    return (first,) if second.least <= first.least else (first, second)


class VoxelClasses:
    """Numbers the classes of voxels for some levels, so that one count per class serves all levels.

    With L levels a voxel that is true at the first l of them, and has a true voxel of the first t levels among itself
    and its 26 neighbours (t >= l), is of class t · (t + 1) / 2 + l; the last class is of voxels without known truth. At
    level i it is true where l >= i, else halo where t >= i, else a ghost that touches nothing.
    """

    def __init__(self, levels: tuple[Level, ...]) -> None:
        self.levels = levels
        self.n = (len(levels) + 1) * (len(levels) + 2) // 2 + 1
        self.unknown = self.n - 1

    def of(
        self, coords: Coords, truth: Values | None, truth_coords: Coords | None, truth_value: Values | None
    ) -> npt.NDArray[np.int64]:
        """(n,) classes of the voxels ``coords`` (n, 3).

        Args:
            truth: (n,), NaN where not known; None where nothing is known.
            truth_coords, truth_value: (m, 3) and (m,), all voxels with truth, tiled or not; those of ``truth`` where
                None.
        """
        if truth is None:
            return np.full(len(coords), self.unknown)
        if truth_coords is None or truth_value is None:
            some = truth > 0
            truth_coords, truth_value = coords[some], truth[some]
        true, touching = np.zeros(len(coords), np.int64), np.zeros(len(coords), np.int64)
        for number, level in enumerate(self.levels, 1):
            is_true = truth >= np.float32(level.least)
            near = touches(coords, truth_coords[truth_value >= np.float32(level.least)])
            true[is_true], touching[is_true | near] = number, number
        found = touching * (touching + 1) // 2 + true
        found[np.isnan(truth)] = self.unknown
        return found

    def true(self, level: int) -> npt.NDArray[np.bool_]:
        """(classes,) which are true at ``levels[level]``."""
        return np.append(self._parts()[0] > level, False)

    def halo(self, level: int) -> npt.NDArray[np.bool_]:
        """(classes,) which are halo at ``levels[level]``: not true, and touch a voxel that is, tiled or not."""
        true, touching = self._parts()
        return np.append((true <= level) & (touching > level), False)

    def ghost(self, level: int) -> npt.NDArray[np.bool_]:
        """(classes,) which are neither true nor halo at ``levels[level]``, of voxels with known truth."""
        true, touching = self._parts()
        return np.append((true <= level) & (touching <= level), False)

    def _parts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        touching = np.repeat(np.arange(len(self.levels) + 1), np.arange(1, len(self.levels) + 2))
        return np.arange(self.n - 1) - touching * (touching + 1) // 2, touching


def touches(coords: Coords, others: Coords) -> npt.NDArray[np.bool_]:
    """(n,) which voxels ``coords`` (n, 3) lie within one voxel in x, y and z of one of ``others`` (m, 3)."""
    if not len(coords) or not len(others):
        return np.zeros(len(coords), bool)
    factors = np.array([1 << 2 * SHIFT, 1 << SHIFT, 1], np.int64)
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ factors
    keys = (others.astype(np.int64) + 1) @ factors
    near = np.unique(keys[:, None] + steps)
    wanted = (coords.astype(np.int64) + 1) @ factors
    at = np.minimum(np.searchsorted(near, wanted), len(near) - 1)
    return np.asarray(near[at] == wanted)
