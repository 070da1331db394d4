"""Strata of what is around a voxel: dead channels, and how many other voxels were tiled."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from train.results.strata.bins import Bins, Codes, filled, labelled
from train.results.strata.neighbours import count_neighbours
from train.results.strata.scene import Given, Scene, Voxels

# mm in the wire plane, where voxels are 8 mm wide by default; ∞: there is none.
DEAD = Bins(
    (1e-6, 12.0, 30.0, 100.0, 300.0, np.inf),
    ("0 mm", "< 12 mm", "12–30 mm", "30–100 mm", "100–300 mm", "≥ 300 mm", "none in the image"),
)
REACH = 2  # voxels to each side of the voxel
SIDE = 2 * REACH + 1
OCCUPANCY = Bins(
    (9, 17, 25, 33, 41, 49, 65, 81),
    ("< 9", "9–16", "17–24", "25–32", "33–40", "41–48", "49–64", "65–80", "81–125"),
)
IMAGE_VOXELS = labelled((1e4, 3e4, 1e5, 3e5, 1e6), ("10k", "30k", "100k", "300k", "1M"), " voxels")


class Dead:
    """By the distance to a place where some voxel has a plane that is not live, in images with bad channels."""

    def __init__(self) -> None:
        self.labels = {"dead": list(DEAD.labels)}
        self.definitions = {
            "dead": (
                "Distance across y and z to the nearest place where a voxel of the image, at any tick, lacks a live "
                "plane, in images with bad channels. Stores count bad channels and do not list them: the live mask "
                "tells where they are, and a part without wires counts alike."
            )
        }

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        grid = voxels.scene.once(dead_grid)
        if not grid.size:
            return {"dead": filled(len(voxels), len(DEAD.labels) - 1)}
        return {"dead": grid[voxels.coords[:, 1], voxels.coords[:, 2]]}


def dead_grid(scene: Scene) -> Codes:
    """(y, z) codes of all cells in which voxels or truth voxels of an image lie; of no size where nothing is dead."""
    image = scene.image
    all_live = (1 << len(image.store.root.planes)) - 1
    dead = image.coords[(image.live & all_live) != all_live, 1:]
    if not len(dead) or not image.summary("n_bad_channels"):
        return np.empty((0, 0), np.int16)
    known = [image.coords, *(image.truth_voxels or ())[:1]]
    shape = np.max([coords[:, 1:].max(axis=0) for coords in known if len(coords)], axis=0) + np.int64(1)
    frame, (_, step_y, step_z) = image.store.geometry.tpcs[image.key[2]], image.store.attributes["downsample"]
    return DEAD.codes(distances(dead, shape, (step_y * frame.pixel_mm, step_z * frame.pixel_mm)))


def distances(
    cells: npt.NDArray[np.uint16], shape: Sequence[int] | npt.NDArray[np.int64], sides: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Distance of every cell of a grid of this shape to the nearest one of ``cells`` (k, 2), k > 0, between centres."""
    away = np.ones(shape, bool)
    away[cells[:, 0], cells[:, 1]] = False
    return np.asarray(distance_transform_edt(away, sampling=sides))


class Occupancy:
    """By how many voxels are tiled, around the voxel and in the image."""

    def __init__(self) -> None:
        self.labels = {"occupancy": list(OCCUPANCY.labels), "image_voxels": list(IMAGE_VOXELS.labels)}
        self.definitions = {
            "occupancy": f"Tiled voxels, itself included, in the {SIDE} × {SIDE} × {SIDE} voxels around the voxel.",
            "image_voxels": "Tiled voxels of the image.",
        }

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        count = count_neighbours(voxels.coords, voxels.image.coords, REACH)
        return {
            "occupancy": OCCUPANCY.codes(np.arange(SIDE**3 + 1))[count],
            "image_voxels": filled(len(voxels), int(IMAGE_VOXELS.codes(np.array(len(voxels.image))))),
        }


def dead(given: Given) -> Dead | str:
    """By distance to dead channels, or why not."""
    return given.without_frame or Dead()


def occupancy(given: Given) -> Occupancy | str:
    """By occupancy; always."""
    return Occupancy()
