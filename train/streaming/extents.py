"""How far the images of a store reach, by its geometry, and whether a box of voxels reaches into any of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from larstore.errors import ConfigError

AXES = ("x", "y", "z")


def image_size(store: Any, tpc: int) -> tuple[int, int, int]:
    """Voxels along x, y and z of the images of one TPC, or of several that were joined: what coordinates lie in."""
    geometry = store.geometry
    frames = [geometry.tpcs[number] for number in geometry.joined or [tpc]]
    first = frames[0]
    reach = []
    for frame in frames:
        pixels = (frame.n_ticks, frame.n_y, frame.n_z)
        voxels = np.array([-(-n // d) for n, d in zip(pixels, store.attributes["downsample"], strict=True)])
        if frame.joined_origin is not None:
            down = frame.drift_sign != first.drift_sign  # its x counts down from the origin
            voxels = np.asarray(frame.joined_origin) + np.where([down, False, False], 1, voxels)
        reach.append(voxels)
    x, y, z = np.max(reach, axis=0).tolist()
    return x, y, z


def check_limits(limits: Sequence[tuple[int, int] | None], store: Any, tpcs: Iterable[int]) -> None:
    """Refuse (ConfigError) ``data.coord_lim`` where it begins behind the end of all images of these TPCs."""
    sizes = [image_size(store, tpc) for tpc in sorted(set(tpcs))]
    if any(all(limit is None or limit[0] < n for limit, n in zip(limits, size, strict=True)) for size in sizes):
        return
    largest = np.max(sizes, axis=0).tolist()
    beyond = [
        f"{axis} from {limit[0]}, where images end at {n}"
        for axis, limit, n in zip(AXES, limits, largest, strict=True)
        if limit is not None and limit[0] >= n
    ]
    where = " and ".join(beyond) or f"none of its TPCs, of {' and '.join(map(str, sizes))} voxels"
    raise ConfigError(
        f"{store.path}: data.coord_lim keeps {where}: no voxel is left to train on. "
        f"Fix: limits in voxels inside of {largest}"
    )
