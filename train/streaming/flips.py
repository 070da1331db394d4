"""Mirror images along the drift or the wire planes, with the charges of the planes that turn into each other.

Mirrored along x an image is one of a TPC that drifts the other way: every plane sees the same wires. What depends on
the distance of drift, diffusion and attenuation, is then the wrong way round; both are small effects on a voxel.

Mirrored along y or z a wire at angle +a lies at -a. Where the two induction planes are at ±a with one pitch, the mirror
image of u is what v would have seen, and their columns are exchanged; a plane at 0° or 90° is its own mirror image. So
ghosts keep lying where this detector's wires cross, which is what a network learns from; left in place the columns
would show charge along directions that no wire has. What is not mirrored is the response of u and v, which is not
quite the same. Along y and z together it is a half turn, and columns stay.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from train.streaming.extents import AXES, image_size
from train.streaming.steps import Sample, Transform

ANGLE = np.radians(0.5)  # how well mirrored wires must be parallel
PITCH = 0.01  # by what part pitches may differ


@dataclass(frozen=True)
class Mirror:
    """One TPC: voxels along x, y, z, and for each plane the one that its mirror image along y or z is; None = none."""

    size: tuple[int, int, int]
    partner: tuple[int, ...] | None


@dataclass(frozen=True)
class Flip(Transform):
    """Mirror an image along each of ``axes`` with a probability of one half; its voxels are no longer sorted."""

    axes: tuple[int, ...]
    mirrors: dict[int, Mirror]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        chosen = [axis for axis in self.axes if random.random() < 0.5]
        if not chosen:
            return sample
        mirror = self.mirrors[sample.tpc]
        features = sample.features
        if sum(axis > 0 for axis in chosen) == 1 and mirror.partner is not None:
            features = np.take(features, mirror.partner, axis=1)
        sample = replace(sample, coords=_mirrored(sample.coords, chosen, mirror.size), features=features)
        if sample.truth_coords is None:
            return sample
        return replace(sample, truth_coords=_mirrored(sample.truth_coords, chosen, mirror.size))


def _mirrored(coords: npt.NDArray[np.int64], axes: Sequence[int], size: tuple[int, ...]) -> npt.NDArray[np.int64]:
    coords = coords.copy()
    for axis in axes:
        coords[:, axis] = size[axis] - 1 - coords[:, axis]
    return coords


def make_flip(axes: Sequence[str], store: Any, tpcs: Iterable[int]) -> Flip:
    """The step for images of these TPCs of a store. ConfigError where a plane has no mirror image along y or z."""
    numbers = tuple(AXES.index(axis) for axis in axes)
    geometry, planes = store.geometry, store.attributes["planes"]
    mirrors = {}
    for tpc in sorted(set(tpcs)):
        members = geometry.joined or [tpc]
        partners = {_partners(geometry.wires, member, len(planes)) for member in members}
        partner = partners.pop() if len(partners) == 1 else None
        if partner is None and set(numbers) - {0}:
            raise ConfigError(
                f"{store.path}: data.flips {list(axes)}: the wire planes {', '.join(planes)} of TPC {tpc} are not each "
                "other's mirror images along y and z. Fix: data.flips: [x]"
            )
        mirrors[tpc] = Mirror(image_size(store, tpc), partner)
    return Flip(numbers, mirrors)


def _partners(wires: dict[str, Any], tpc: int, n_planes: int) -> tuple[int, ...] | None:
    """For each plane the one whose wires its own are parallel to after mirroring; itself if it can be."""
    lines = [_wires_of(wires, tpc, plane) for plane in range(n_planes)]
    if any(line is None for line in lines):
        return None
    known = [line for line in lines if line is not None]
    partners = []
    for plane, (angle, pitch) in enumerate(known):
        fits = [
            other
            for other, (its_angle, its_pitch) in enumerate(known)
            if abs((angle + its_angle + np.pi / 2) % np.pi - np.pi / 2) < ANGLE
            and abs(pitch - its_pitch) <= PITCH * max(pitch, its_pitch)
        ]
        if not fits:
            return None
        partners.append(plane if plane in fits else fits[0])
    return tuple(partners)


def _wires_of(wires: dict[str, Any], tpc: int, plane: int) -> tuple[float, float] | None:
    """Angle to y in the (y, z) plane (rad) and pitch (mm) of the wires of a plane; None if they are not parallel."""
    mine = (wires["tpc"] == tpc) & (wires["plane"] == plane)
    tail, head = wires["tail"][mine][:, 1:], wires["head"][mine][:, 1:]
    along = head - tail
    length = np.hypot(*along.T)
    long = length > 0.25 * length.max(initial=0.0)  # in the corners wires are short, and rounding turns them
    if long.sum() < 2:
        return None
    tail, along = tail[long], along[long]
    angles = np.arctan2(along[:, 1], along[:, 0])
    angle = float(np.angle(np.exp(2j * angles).mean())) / 2  # of lines: half a turn makes no difference
    if np.abs((angles - angle + np.pi / 2) % np.pi - np.pi / 2).max() > ANGLE:
        return None
    across = np.unique(np.round(tail @ np.array([-np.sin(angle), np.cos(angle)]), 2))
    return angle, float(np.median(np.diff(across)))
