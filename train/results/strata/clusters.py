"""Truth clusters, the truth voxels of one track: their size, charge, particle and direction, and who is near them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

REACH_MM = 200.0  # a voxel without truth within it belongs to no cluster
SMALL = 50  # truth voxels: clusters of fewer have neither a class of particle nor a direction
LINEAR = 0.8  # of the variance along the principal axis: with less there is no direction


@dataclass(frozen=True)
class Clusters:
    """The truth of an image by track.

    Attributes:
        coords: (m, 3) truth voxels; voxel_mm: (3,) the sides of a voxel.
        of_voxel: (m,) cluster of each, -1 where the track is not known.
        size, charge: (c,) truth voxels of a cluster, and the sum of their truth.
        pdg: (c,) particle of the voxel with the most truth, the first of equals; 0: unknown.
        direction: (c, 3) unit vector of the principal axis of the voxels, weighted by their truth, x = drift; NaN for
            clusters with less than ``SMALL`` voxels or ``LINEAR`` of the variance along it.
    """

    coords: npt.NDArray[np.uint16]
    voxel_mm: Floats
    of_voxel: Whole
    size: Whole
    charge: Floats
    pdg: Whole
    direction: Floats


def find_clusters(
    coords: npt.NDArray[np.uint16],
    value: npt.NDArray[np.float32],
    track: npt.NDArray[np.int32],
    pdg: npt.NDArray[np.int32],
    voxel_mm: Floats,
) -> Clusters:
    """The clusters of truth voxels (m, 3) with truth, track (-1: unknown) and particle (m,), by ascending track."""
    known = np.flatnonzero(track >= 0)
    of_voxel = np.full(len(coords), -1, np.int64)
    tracks, number, size = np.unique(track[known], return_inverse=True, return_counts=True)
    of_voxel[known] = number
    by_value = known[np.lexsort((-value[known], number))]  # stable: the first of equals stays first
    first = np.cumsum(size) - size
    direction = np.full((len(tracks), 3), np.nan)
    for cluster in np.flatnonzero(size >= SMALL).tolist():
        rows = by_value[first[cluster] : first[cluster] + size[cluster]]
        direction[cluster] = principal_axis(coords[rows] * voxel_mm, value[rows].astype(np.float64))
    return Clusters(
        coords=coords,
        voxel_mm=voxel_mm,
        of_voxel=of_voxel,
        size=size.astype(np.int64),
        charge=np.bincount(number, value[known], len(tracks)).astype(np.float64),
        pdg=pdg[by_value[first]].astype(np.int64),
        direction=direction,
    )


def principal_axis(places: Floats, weights: Floats) -> Floats:
    """(3,) unit vector along which places (k, 3) spread most; NaN where that is less than ``LINEAR`` of all."""
    centred = places - np.average(places, axis=0, weights=weights)
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    total = values.sum()
    return vectors[:, 2] if total > 0 and values[2] >= LINEAR * total else np.full(3, np.nan)


def nearest_rows(
    coords: npt.NDArray[np.uint16], others: npt.NDArray[np.uint16], voxel_mm: Floats, reach_mm: float = REACH_MM
) -> Whole:
    """(n,) row of ``others`` (m, 3) that is nearest to each voxel (n, 3), m where none is within ``reach_mm``.

    Of several at one distance it is any.
    """
    tree = cKDTree(others * voxel_mm)
    return np.asarray(tree.query(coords * voxel_mm, distance_upper_bound=reach_mm)[1], np.int64)
