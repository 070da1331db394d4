"""Strata of where an image or voxel comes from: sample, TPC, box of the wire-plane face."""

import numpy as np

from larstore import Image
from train.results.strata.bins import NONE, Codes, filled
from train.results.strata.scene import Given, Voxels

SEGMENTS = (2, 12)  # boxes of a face along y and z, as the research code has 2 × 12


def sample_of(image: Image) -> str:
    """The sample of the image's input; "" where it is not known."""
    row = image.summary("input")
    return str(image.store.inputs["sample"].iloc[row]) if row >= 0 else ""


class Sample:
    """By the name that its input has in the inputs table."""

    def __init__(self, names: list[str]) -> None:
        self.labels = {"sample": names}
        self.definitions = {"sample": "The sample that the image's input has in the inputs table."}

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        name, names = sample_of(voxels.image), self.labels["sample"]
        return {"sample": filled(len(voxels), names.index(name) if name in names else NONE)}


def sample(given: Given) -> Sample | str:
    """By sample, or why not."""
    rows = np.unique(given.store.select().column("input"))
    names = sorted(set(given.store.inputs["sample"].iloc[rows[rows >= 0]].astype(str)) - {""})
    return Sample(names) if names else "no image's input has a sample name"


class Tpc:
    """By TPC."""

    def __init__(self, tpcs: list[int]) -> None:
        self._tpcs = tpcs
        self.labels = {"tpc": [f"TPC {tpc}" for tpc in tpcs]}
        self.definitions = {"tpc": "The image's TPC; of joined TPCs the lowest one."}

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        tpc = voxels.image.key[2]
        return {"tpc": filled(len(voxels), self._tpcs.index(tpc) if tpc in self._tpcs else NONE)}


def tpc(given: Given) -> Tpc | str:
    """By TPC, or why not."""
    return Tpc(given.tpcs) if given.tpcs else "the store has no images"


class Segment:
    """By equal boxes of the face's pixel grid; of joined TPCs the grid that holds them all."""

    def __init__(self, given: Given) -> None:
        n_y, n_z = SEGMENTS
        self.definitions = {
            "segment": (
                f"The box that holds the voxel's centre, of {n_y} along y × {n_z} along z equal ones of the TPC's "
                "pixel grid (of that around all joined TPCs)."
            )
        }
        self.labels = {"segment": [f"y {y + 1}/{n_y}, z {z + 1}/{n_z}" for y in range(n_y) for z in range(n_z)]}
        self._parts = {tpc: [_parts(size, n) for size, n in zip(sides(given, tpc), SEGMENTS, strict=True)]
                       for tpc in given.tpcs}  # fmt: skip

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        parts = self._parts.get(voxels.image.key[2])
        if parts is None:
            return {"segment": filled(len(voxels), NONE)}
        y, z = (table[np.minimum(voxels.coords[:, axis], len(table) - 1)] for axis, table in enumerate(parts, 1))
        return {"segment": y * np.int16(SEGMENTS[1]) + z}


def sides(given: Given, tpc: int) -> tuple[float, float]:
    """Voxels, with a part of one at the end, of the pixel grid of a TPC along y and z; of joined ones, around all."""
    geometry, (_, step_y, step_z) = given.store.geometry, given.store.attributes["downsample"]
    ends = []
    for number in geometry.joined or [tpc]:
        frame = geometry.tpcs[number]
        _, y, z = frame.joined_origin or (0, 0, 0)
        ends.append((y + frame.n_y / step_y, z + frame.n_z / step_z))
    return max(y for y, _ in ends), max(z for _, z in ends)


def _parts(size: float, n: int) -> Codes:
    """For each voxel along a side of ``size`` voxels, which of n equal parts its centre lies in."""
    centre = np.arange(int(np.ceil(size))) + 0.5
    return np.asarray(np.minimum(centre * n // size, n - 1), np.int16)


def segment(given: Given) -> Segment | str:
    """By box of the face, or why not."""
    return given.without_frame or Segment(given)
