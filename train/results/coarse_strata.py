"""Strata of coarser voxels: that of one of the voxels in each, so that a stratum is of the same tracks at all sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.image import Coords, pack
from train.results.voxels import Voxels

Rows = npt.NDArray[np.int64]
Codes = Mapping[str, npt.NDArray[Any]]


def coarse_codes(
    voxels: Voxels, factors: Sequence[int], charge: npt.NDArray[Any], codes: Codes, true_codes: Codes
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Strata of the voxels of ``voxels.coarser(factors)``, and of its truth voxels, from those of ``voxels``.

    A coarse voxel has the stratum of the truth voxel in it that has most truth, tiled or not; without any that of the
    tiled voxel with the largest ``charge`` (n,). Of equals the first counts.

    Args:
        charge: (n,) of each tiled voxel, say the mean of its live planes.
        codes, true_codes: kind -> (n,) and (m,) strata of the voxels and of the truth voxels.
    """
    truth = np.zeros(len(voxels)) if voxels.truth is None else np.nan_to_num(voxels.truth)
    rows, keys = largest_rows(voxels.coords, factors, truth, charge)
    found = {kind: code[rows] for kind, code in codes.items()}
    if voxels.truth_coords is None:
        return found, {kind: code[:0] for kind, code in true_codes.items()}
    true_rows, true_keys = largest_rows(voxels.truth_coords, factors, voxels.truth_columns["truth"])
    true = {kind: code[true_rows] for kind, code in true_codes.items()}
    if len(true_keys):
        at = np.minimum(np.searchsorted(true_keys, keys), len(true_keys) - 1)
        has = true_keys[at] == keys
        for kind, code in found.items():
            code[has] = true[kind][at[has]]
    return found, true


def largest_rows(coords: Coords, factors: Sequence[int], *weights: npt.NDArray[Any]) -> tuple[Rows, Rows]:
    """Of each coarse voxel the row (of n) of largest weight, and its packed coordinates; in the order of these.

    ``weights``: (n,) each; where the first ones are equal the next ones decide, then the order of ``coords`` (n, 3).
    """
    keys = pack((coords // np.asarray(factors, np.uint16)).astype(np.uint16))
    order = np.lexsort([-weight for weight in reversed(weights)] + [keys])
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1) != 0)
    return order[first], keys[first]
