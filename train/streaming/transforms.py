"""What is done to each image between the store and the network; random steps are seeded per image and epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from train.schema import DataConfig
from train.streaming.crops import RandomCrop
from train.streaming.steps import Floats, Mask
from train.streaming.steps import Sample as Sample
from train.streaming.steps import Transform as Transform


@dataclass(frozen=True)
class Planes(Transform):
    """Take these columns of the charges, in this order."""

    per_image = False

    columns: Sequence[int]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, features=np.take(sample.features, self.columns, axis=1))


@dataclass(frozen=True)
class CoordLimits(Transform):
    """Keep the voxels inside [lo, hi) on each axis; None leaves an axis whole."""

    per_image = False

    limits: Sequence[tuple[int, int] | None]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return sample.kept(self._inside)

    def _inside(self, coords: npt.NDArray[np.int64]) -> Mask:
        keep = np.ones(len(coords), bool)
        for axis, limit in enumerate(self.limits):
            if limit is not None:
                keep &= (coords[:, axis] >= limit[0]) & (coords[:, axis] < limit[1])
        return keep


@dataclass(frozen=True)
class Noise(Transform):
    """Add normally distributed electrons to each charge."""

    mean: float
    sd: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        noise = random.standard_normal(sample.features.shape, np.float32)
        noise *= np.float32(self.sd)
        noise += np.float32(self.mean)
        noise += sample.features
        return replace(sample, features=noise)


@dataclass(frozen=True)
class Round(Transform):
    """Round the charges to ``decimals`` of an electron (-3: to thousands)."""

    per_image = False

    decimals: int

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, features=np.round(sample.features, self.decimals))


@dataclass(frozen=True)
class ChargeInput(Transform):
    """Charges in electrons to network inputs ``f(scale × charge)``: f linear, asinh, or sign-keeping log(1 + |q|)."""

    per_image = False

    transform: Literal["linear", "asinh", "log"]
    scale: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        scaled = sample.features * np.float32(self.scale)
        if self.transform == "asinh":
            np.arcsinh(scaled, out=scaled)
        elif self.transform == "log":
            scaled = np.copysign(np.log1p(np.abs(scaled)), scaled)
        return replace(sample, features=scaled)


@dataclass(frozen=True)
class ZSegments(Transform):
    """Append one input per segment of z, 1 in the voxel's own: segment i holds ``bounds[i - 1] <= z < bounds[i]``.

    Voxels beyond the last bound have zeros in all of them.
    """

    per_image = False

    bounds: Sequence[int]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        segment = np.searchsorted(self.bounds, sample.coords[:, 2], side="right")
        one_hot = (segment[:, None] == np.arange(len(self.bounds))).astype(np.float32)
        return replace(sample, features=np.hstack([sample.features, one_hot]))


@dataclass(frozen=True)
class Scale(Transform):
    """Multiply the truth."""

    per_image = False

    factor: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return of_truth(sample, lambda truth: truth * np.float32(self.factor))


@dataclass(frozen=True)
class Threshold(Transform):
    """Truth above ``value`` (after `Scale`) becomes 1, the rest 0."""

    per_image = False

    value: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return of_truth(sample, lambda truth: (truth > self.value).astype(np.float32))


def of_truth(sample: Sample, change: Callable[[Floats], Floats]) -> Sample:
    """Change the truth of the voxels, and of all truth voxels where they are there."""
    every: dict[str, Any] = {} if sample.truth_value is None else {"truth_value": change(sample.truth_value)}
    return replace(sample, target=change(sample.target), **every)


def plane_columns(wanted: Sequence[str], planes: Sequence[str], store: str) -> list[int]:
    """Where the ``wanted`` planes are among those of a store. Raises ConfigError for one that it does not have."""
    missing = [plane for plane in wanted if plane not in planes]
    if missing:
        raise ConfigError(
            f"{store}: has planes {', '.join(planes)}, the network takes {', '.join(wanted)}: no {missing[0]!r}. "
            "Fix: a store that has them, or, to train, data.input_planes from its own"
        )
    return [list(planes).index(plane) for plane in wanted]


def make_transforms(
    data: DataConfig,
    *,
    training: bool,
    scale: float = 1.0,
    planes: Sequence[str] = (),
    store: str = "the store",
    flip: Transform | None = None,
) -> list[Transform]:
    """The steps a configuration asks for, in order; ``coord_lim``, ``crop``, flips and ``noise`` in training only.

    Limits are those of the detector, so they come before flips; ``z_segments`` are told of the flipped image.

    Args:
        data: the block of the configuration.
        training: whether for training images.
        scale: the store's own factor on the truth.
        planes: the store's, in the order of its charges; needed where ``data.input_planes`` is set.
        store: names it in errors.
        flip: the step of ``data.flips``, which needs the store's geometry; see `train.streaming.flips`.

    Raises:
        ConfigError: the store lacks one of ``data.input_planes``.
    """
    steps: list[Transform] = []
    if training and data.coord_lim is not None:
        steps.append(CoordLimits(data.coord_lim))
    if training and data.crop is not None:
        steps.append(RandomCrop(data.crop))
    if training and flip is not None:
        steps.append(flip)
    if data.input_planes is not None:
        columns = plane_columns(data.input_planes, planes, store)
        if columns != list(range(len(planes))):
            steps.append(Planes(columns))
    if training and data.noise is not None:
        steps.append(Noise(data.noise.mean, data.noise.sd))
    if data.round is not None:
        steps.append(Round(data.round))
    steps.append(ChargeInput(data.charge.transform, data.charge.scale))
    if data.z_segments is not None:
        steps.append(ZSegments(data.z_segments))
    if scale != 1.0:
        steps.append(Scale(scale))
    if data.threshold is not None:
        steps.append(Threshold(data.threshold))
    return steps
