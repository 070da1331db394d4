"""What a tiling found of the truth: counts of one event, which add up to those of a sample."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Tpc
from preprocess.simulation import SimulationConfig, truth_of
from preprocess.simulation.response import drift_time, surviving
from preprocess.truth import voxelise_truth
from preprocess.voxels import Voxels

STRONG = 5000.0  # electrons: a true voxel above it is worth finding
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The truth of one event on the voxels of an image.

    Attributes:
        coords: (n, 3) uint16, sorted.
        value: (n,) electrons after recombination, before attachment.
        collected: (n,) those that arrive, × exp(−drift time / lifetime).
        outside: electrons that the read-out window or the pixel grid cuts off.
    """

    coords: npt.NDArray[np.uint16]
    value: Floats
    collected: Floats
    outside: float


@dataclass(frozen=True)
class Measured:
    """Counts and sums of one tiled event.

    Attributes:
        tiled, true, both: voxels that were tiled, that hold true charge, and both.
        strong, strong_found: true voxels above ``STRONG``, and those of them that were tiled.
        charge, charge_found, charge_outside: true electrons inside the grid and window, in tiled voxels, outside.
        collected: true electrons inside that arrive at the wires.
        plane_charge: (planes,) charge of each plane, summed over all tiled voxels.
        voxel_ratio: (strong_found, planes) float32 charge of a plane in a strong tiled voxel / electrons collected
            there; NaN where the plane is not live, its charge being incomplete.
    """

    tiled: int
    true: int
    both: int
    strong: int
    strong_found: int
    charge: float
    charge_found: float
    charge_outside: float
    collected: float
    plane_charge: Floats
    voxel_ratio: npt.NDArray[np.float32]


def truth_on_voxels(
    tpc: Tpc, deposits: Floats, config: SimulationConfig, downsample: tuple[int, int, int] = (8, 4, 4)
) -> Truth:
    """Truth of (n, 5) deposits x, y, z [mm], t [µs], electrons, all of them in the TPC's drift volume."""
    frame = tpc.frame
    arriving = deposits.copy()
    arriving[:, 4] *= surviving(drift_time(tpc, deposits[:, 0]), config)
    shape = (frame.n_ticks, frame.n_y, frame.n_z)
    coords, value = voxelise_truth(truth_of(tpc, deposits), downsample, shape)
    _, collected = voxelise_truth(truth_of(tpc, arriving), downsample, shape)
    inside = value.astype(np.float64)
    return Truth(coords, inside, collected.astype(np.float64), max(float(deposits[:, 4].sum() - inside.sum()), 0.0))


def measure(voxels: Voxels, truth: Truth) -> Measured:
    """Compare a tiled image with the truth of the same event and voxel size."""
    keys, true_keys = _keys(voxels.coords), _keys(truth.coords)
    found = np.isin(true_keys, keys, assume_unique=True)
    strong = truth.value > STRONG
    wanted = np.flatnonzero(found & strong)
    rows = np.searchsorted(keys, true_keys[wanted])
    n_planes = voxels.charge.shape[1]
    ratio = voxels.charge[rows].astype(np.float64) / truth.collected[wanted, None]
    live = (voxels.live[rows, None] >> np.arange(n_planes)) & 1
    ratio[live == 0] = np.nan
    return Measured(
        tiled=len(voxels),
        true=len(true_keys),
        both=int(found.sum()),
        strong=int(strong.sum()),
        strong_found=len(wanted),
        charge=float(truth.value.sum()),
        charge_found=float(truth.value[found].sum()),
        charge_outside=truth.outside,
        collected=float(truth.collected.sum()),
        plane_charge=voxels.charge.sum(axis=0, dtype=np.float64),
        voxel_ratio=ratio.astype(np.float32),
    )


def _keys(coords: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    wide = coords.astype(np.int64)
    return np.asarray(wide[:, 0] << 32 | wide[:, 1] << 16 | wide[:, 2])
