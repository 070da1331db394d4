"""The gap between neighbouring faces, bridged where the voxels at both edges are likely to be true.

The 2021 research code interpolates its predictions linearly between the voxels at both edges. So do we, along straight
lines: an edge voxel with a score above a limit is joined to the nearest such voxel beyond the gap, if that is within
reach. In a gap of g voxels the k-th one of a line has the score a + (b - a) k / (g + 1), with a and b at its ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from larstore.errors import ConfigError, StoreError
from larstore.geometry import Geometry
from larstore.image import Image, pack
from preprocess.joining.frame import JoinedFrame

ABOVE = 0.01  # the research code's
WIDEST = 10  # voxels: a wider gap is a TPC that was not joined
REACH = 8  # voxels along x and along the other axis, between the two ends of a line
FARTHEST = 256  # of a reach: all pairs of voxels within are looked at

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
    """The gaps of a frame; the prediction, and the score above which its edge voxels bridge; how far lines reach."""

    prediction: str
    sha256: str
    gaps: tuple[Gap, ...]
    above: float = ABOVE
    reach: int = REACH

    @property
    def settings(self) -> dict[str, Any]:
        """What tells one bridge from another."""
        return {
            "prediction": self.prediction,
            "checkpoint_sha256": self.sha256,
            "above": self.above,
            "reach": self.reach,
        }


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
    sides: dict[int, tuple[Rows, Rows, npt.NDArray[np.float32]]] = {}
    first = 0
    for image in images:
        score = image.score(bridge.prediction)
        if np.isnan(score).any():
            raise StoreError(
                f"{image.store.path}: image {image.key} has no scores of prediction {bridge.prediction!r}, which "
                f"bridges. Fix: larstore infer --name {bridge.prediction}, then join again"
            )
        kept = np.flatnonzero(score > bridge.above)
        number = image.key[2]
        sides[number] = frame.places(number, image.coords[kept]), kept + first, score[kept]
        first += len(score)
    parts = [_across(gap, sides, bridge.reach) for gap in bridge.gaps if {gap.low, gap.high} <= sides.keys()]
    if not parts:
        return Bridged(np.empty((0, 3), np.int64), *(np.empty(0, np.int64),) * 2, np.empty(0))
    places, before, behind, share, score_there = (np.concatenate(each) for each in zip(*parts, strict=True))
    keys = pack(places)
    order = np.lexsort((behind, before, -score_there, keys))  # of several at one place the likeliest
    once = order[np.flatnonzero(np.diff(keys[order], prepend=-1))]
    return Bridged(places[once], before[once], behind[once], share[once])


def _across(
    gap: Gap, sides: dict[int, tuple[Rows, Rows, npt.NDArray[np.float32]]], reach: int
) -> tuple[Rows, Rows, Rows, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One gap's voxels: places, rows before and behind, shares and scores; a place may be there more than once."""
    edges: list[tuple[Rows, Rows, npt.NDArray[np.float64]]] = []
    for number, layer in ((gap.low, gap.before), (gap.high, gap.behind)):
        places, rows, score = sides[number]
        at = np.flatnonzero(places[:, gap.axis] == layer)
        edges.append((places[at], rows[at], score[at].astype(np.float64)))
    (near, near_rows, near_score), (far, far_rows, far_score) = edges
    i, j = _partners(np.delete(near, gap.axis, axis=1), np.delete(far, gap.axis, axis=1), reach)
    step, n = np.arange(1, len(gap) + 1), len(gap) + 1
    # Rounded to the nearest voxel in whole numbers: (steps, pairs, 3).
    places = (2 * (near[i] * (n - step)[:, None, None] + far[j] * step[:, None, None]) + n) // (2 * n)
    share = np.repeat(step / n, len(i))
    before, behind = (np.tile(rows, len(gap)) for rows in (near_rows[i], far_rows[j]))
    between = (1.0 - share) * np.tile(near_score[i], len(gap)) + share * np.tile(far_score[j], len(gap))
    return places.reshape(-1, 3), before, behind, share, between


def _partners(near: Rows, far: Rows, reach: int) -> tuple[Rows, Rows]:
    """Pairs of places (n, 2) and (m, 2) of which one is the nearest to the other, and at most ``reach`` away on each
    axis; of equally near ones all."""
    if not len(near) or not len(far):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    found = KDTree(near).query_ball_tree(KDTree(far), reach + 0.5, p=np.inf)
    i = np.repeat(np.arange(len(near)), [len(each) for each in found])
    j = np.array([k for each in found for k in sorted(each)], np.int64)
    distance = ((near[i] - far[j]) ** 2).sum(axis=1)
    least_near, least_far = (np.full(n, np.iinfo(np.int64).max) for n in (len(near), len(far)))
    np.minimum.at(least_near, i, distance)
    np.minimum.at(least_far, j, distance)
    nearest = (distance == least_near[i]) | (distance == least_far[j])
    return i[nearest], j[nearest]
