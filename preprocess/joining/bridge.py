"""The gap between neighbouring faces, bridged where the voxels at both edges are likely to be true.

As the 2021 research code does with its predictions: in a gap of g voxels the k-th one has the score
a + (b - a) k / (g + 1), where a and b are the scores of the voxels beside the gap with the same other coordinates. It
is there only if both are above ``ABOVE``; so a track that crosses the gap at a large angle is not bridged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, StoreError
from larstore.geometry import Geometry
from larstore.image import Image, pack
from preprocess.joining.frame import JoinedFrame

ABOVE = 0.01  # the research code's
WIDEST = 10  # voxels: a wider gap is a TPC that was not joined

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Gap:
    """Between the faces of two TPCs: ``axis`` (1 or 2 for y or z), and their last and first layer in the frame."""

    axis: int
    low: int
    high: int
    before: int
    behind: int

    def __len__(self) -> int:
        return self.behind - self.before - 1


@dataclass(frozen=True)
class Bridge:
    """The gaps of a frame, and the prediction that says which of their voxels are bridged."""

    prediction: str
    sha256: str
    gaps: tuple[Gap, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What tells one bridge from another."""
        return {"prediction": self.prediction, "checkpoint_sha256": self.sha256, "above": ABOVE}


@dataclass(frozen=True)
class Bridged:
    """Voxels that bridge gaps.

    Attributes:
        places: (n, 3) int64 in the frame, ordered by x, y, z, none twice.
        before, behind: (n,) rows, of all voxels of the images one after the other, of the voxels at both edges.
        share: (n,) what the one behind counts.
    """

    places: Rows
    before: Rows
    behind: Rows
    share: npt.NDArray[np.float64]

    def without(self, places: Rows) -> "Bridged":
        """Those that are at none of these places (m,), each given as one number."""
        free = ~np.isin(pack(self.places), places)
        return Bridged(self.places[free], self.before[free], self.behind[free], self.share[free])

    def values(self, parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """(n,) between those at both edges, of the values of all images' voxels."""
        every = np.concatenate(parts).astype(np.float64)
        between = (1.0 - self.share) * every[self.before] + self.share * every[self.behind]
        return between.astype(np.float32)


def find_gaps(geometry: Geometry, frame: JoinedFrame, downsample: Sequence[int]) -> tuple[Gap, ...]:
    """The gaps between neighbours that drift alike. ConfigError where there is none of 1 to ``WIDEST`` voxels."""
    boxes = {}
    for number, origin, mirrored in zip(frame.tpcs, frame.origins, frame.mirrored, strict=True):
        tpc = geometry.tpcs[number]
        size = np.array([-(-tpc.n_y // downsample[1]), -(-tpc.n_z // downsample[2])])
        boxes[number] = mirrored, origin[0], np.array(origin[1:]), np.array(origin[1:]) + size
    found = []
    for low, (mirrored, x, begin, end) in boxes.items():
        for high, (other_mirrored, other_x, other_begin, other_end) in boxes.items():
            if low == high or (mirrored, x) != (other_mirrored, other_x):
                continue
            for i in (0, 1):
                beside = min(end[1 - i], other_end[1 - i]) > max(begin[1 - i], other_begin[1 - i])
                if beside and 1 <= other_begin[i] - end[i] <= WIDEST:
                    found.append(Gap(i + 1, low, high, int(end[i]) - 1, int(other_begin[i])))
    if not found:
        raise ConfigError(
            f"--bridge: TPCs {','.join(map(str, frame.tpcs))} have no gap of 1 to {WIDEST} voxels between two faces. "
            "Fix: join neighbours, or leave --bridge out"
        )
    return tuple(sorted(found, key=lambda gap: (gap.axis, gap.before, gap.low, gap.high)))


def bridged(images: Sequence[Image], frame: JoinedFrame, bridge: Bridge) -> Bridged:
    """The voxels that bridge the gaps of one event.

    StoreError for an image without all scores of the prediction.
    """
    places, rows, first = {}, {}, 0
    for image in images:
        score = image.score(bridge.prediction)
        if np.isnan(score).any():
            raise StoreError(
                f"{image.store.path}: image {image.key} has no scores of prediction {bridge.prediction!r}, which "
                f"bridges. Fix: larstore infer --name {bridge.prediction}, then join again"
            )
        kept = np.flatnonzero(score > ABOVE)
        number = image.key[2]
        places[number] = frame.places(number, image.coords[kept])
        rows[number] = kept + first
        first += len(score)
    parts = [_across(gap, places, rows) for gap in bridge.gaps if {gap.low, gap.high} <= places.keys()]
    every = [np.concatenate(each) for each in zip(*parts, strict=True)] if parts else []
    if not every:
        return Bridged(np.empty((0, 3), np.int64), *(np.empty(0, np.int64),) * 2, np.empty(0))
    _, once = np.unique(pack(every[0]), return_index=True)
    return Bridged(every[0][once], every[1][once], every[2][once], every[3][once])


def _across(gap: Gap, places: dict[int, Rows], rows: dict[int, Rows]) -> tuple[Rows, Rows, Rows, Any]:
    """Places, rows before and behind, and shares of one gap's voxels."""
    sides = []
    for number, layer in ((gap.low, gap.before), (gap.high, gap.behind)):
        at = np.flatnonzero(places[number][:, gap.axis] == layer)
        where = places[number][at].copy()
        where[:, gap.axis] = 0
        sides.append((where, pack(where), rows[number][at]))
    (where, one, rows_before), (_, other, rows_behind) = sides
    _, i, j = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    step = np.arange(1, len(gap) + 1)
    found = np.repeat(where[i], len(gap), axis=0)
    found[:, gap.axis] = np.tile(gap.before + step, len(i))
    share = np.tile(step / (len(gap) + 1), len(i))
    return found, np.repeat(rows_before[i], len(gap)), np.repeat(rows_behind[j], len(gap)), share
