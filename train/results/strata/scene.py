"""What all kinds of strata are told about an image: some of its voxels, and the truth clusters that they lie near."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from larstore import Image, Store
from larstore.format import truth_bits
from larstore.geometry import TpcGeometry
from train.results.strata.bins import Codes
from train.results.strata.clusters import Clusters, find_clusters, nearest_rows

Coords = npt.NDArray[np.uint16]
T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """What kinds are made from.

    Attributes:
        store: of the images.
        truth_threshold: truth voxels are those above it, in the store's units.
        origins: sample name or PDG code -> beam or cosmic, as the user says.
    """

    store: Store
    truth_threshold: float = 0.0
    origins: Mapping[str | int, str] = field(default_factory=dict)

    @cached_property
    def tpcs(self) -> list[int]:
        """TPCs that have images, ascending."""
        return [int(tpc) for tpc in np.unique(self.store.select().column("tpc"))]

    @property
    def without_frame(self) -> str | None:
        """Why places in the detector are not known; None: they are."""
        unknown = sorted(set(self.tpcs) - set(self.store.geometry.tpcs))
        return f"geometry/ has no TPC {unknown[0]}" if unknown else None

    @property
    def without_scale(self) -> str | None:
        """Why distances along the drift are not known; None: they are."""
        if self.without_frame:
            return self.without_frame
        unknown = [tpc for tpc in self.tpcs if voxel_mm(self.store, tpc) is None]
        return f"geometry/ has no drift speed or tick length of TPC {unknown[0]}" if unknown else None

    def without_truth_columns(self, *names: str) -> str | None:
        """Why these columns of truth voxels are not known; None: some image has them all."""
        part = self.store.select()
        if not (part.column("truth_start") >= 0).any():
            return "no image has truth voxels"
        bits = truth_bits(names)
        known = set(names) <= set(self.store.root.truth_columns)
        if known and ((part.column("truth_columns") & bits) == bits).any():
            return None
        return f"no image has the truth columns {' and '.join(names)}"


class Kind(Protocol):
    """One way to tell voxels apart, or several that belong together; each has its name.

    ``labels``: name -> what each code stands for. ``definitions``: name -> one sentence.
    """

    labels: dict[str, list[str]]
    definitions: dict[str, str]

    def codes(self, voxels: "Voxels") -> dict[str, Codes]:
        """(n,) codes of some voxels, for each name."""
        ...


class Scene:
    """An image, and what kinds share about it: made when first asked for."""

    def __init__(self, image: Image, truth_threshold: float) -> None:
        self.image = image
        self.truth_threshold = truth_threshold
        self._made: dict[Callable[[Scene], Any], Any] = {}

    def once(self, make: "Callable[[Scene], T]") -> T:
        """What a function makes of this scene, called no more than once."""
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made

    @cached_property
    def clusters(self) -> Clusters | None:
        """The truth of this image by track; None where its truth, tracks or particles are not known."""
        truth, columns = self.image.truth_voxels, self.image.truth_columns
        mm = voxel_mm(self.image.store, self.image.key[2])
        if truth is None or mm is None or not {"pdg", "track"} <= set(columns):
            return None
        true = truth[1] > self.truth_threshold
        return find_clusters(truth[0][true], truth[1][true], columns["track"][true], columns["pdg"][true], mm)


class Voxels:
    """Some voxels (n, 3) of an image, sorted by x, y, z: the tiled ones, or those with truth."""

    def __init__(self, scene: Scene, coords: Coords) -> None:
        self.scene, self.image, self.coords = scene, scene.image, coords

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def clusters(self) -> npt.NDArray[np.intp]:
        """(n,) the cluster of each voxel's nearest truth voxel, -1: none within reach, or its track is not known."""
        clusters = self.scene.clusters
        if clusters is None or not len(clusters.size):
            return np.full(len(self), -1, np.intp)
        return np.append(clusters.of_voxel, -1)[nearest_rows(self.coords, clusters.coords, clusters.voxel_mm)]

    def of_clusters(self, codes: Codes) -> Codes:
        """(n,) the code of each voxel's cluster, from one code a cluster (c,)."""
        return np.append(codes, np.int16(-1))[self.clusters]


def voxel_mm(store: Store, tpc: int) -> npt.NDArray[np.float64] | None:
    """(3,) sides of a voxel of a TPC in mm; None where the geometry does not tell."""
    frame: TpcGeometry | None = store.geometry.tpcs.get(tpc)
    if frame is None or frame.drift_speed_mm_us is None or frame.tick_us is None:
        return None
    along = frame.drift_speed_mm_us * frame.tick_us
    return np.asarray(store.attributes["downsample"]) * [along, frame.pixel_mm, frame.pixel_mm]
