"""What is done to each image between the store and the network; random steps are seeded per image and epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from train.schema import DataConfig


@dataclass(frozen=True)
class Sample:
    """One image on its way to the network.

    Attributes:
        coords: (n, 3) int64 voxels x, y, z.
        features: (n, f) float32; the planes' charges in electrons at first, network inputs at the end.
        target: (n, 1) float32; electrons at first; 0 where no truth is known.
        weight: (n, 1) float32; 0 where no truth is known, else 1.
    """

    coords: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.coords)


class Transform(ABC):
    """One step; a subclass says what it does and holds its settings."""

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """The image after this step; ``random`` is the image's own generator."""
        return self._apply(sample, random)

    @abstractmethod
    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample: ...


@dataclass(frozen=True)
class Planes(Transform):
    """Take these columns of the charges, in this order."""

    columns: Sequence[int]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, features=np.take(sample.features, self.columns, axis=1))


@dataclass(frozen=True)
class CoordLimits(Transform):
    """Keep the voxels inside [lo, hi) on each axis; None leaves an axis whole."""

    limits: Sequence[tuple[int, int] | None]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        keep = np.ones(len(sample), bool)
        for axis, limit in enumerate(self.limits):
            if limit is not None:
                keep &= (sample.coords[:, axis] >= limit[0]) & (sample.coords[:, axis] < limit[1])
        return Sample(sample.coords[keep], sample.features[keep], sample.target[keep], sample.weight[keep])


@dataclass(frozen=True)
class Noise(Transform):
    """Add normally distributed electrons to each charge."""

    mean: float
    sd: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        noise = random.normal(self.mean, self.sd, sample.features.shape)
        return replace(sample, features=(sample.features + noise).astype(np.float32))


@dataclass(frozen=True)
class Round(Transform):
    """Round the charges to ``decimals`` of an electron (-3: to thousands)."""

    decimals: int

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, features=np.round(sample.features, self.decimals))


@dataclass(frozen=True)
class ChargeInput(Transform):
    """Charges in electrons to network inputs ``f(scale × charge)``: f linear, asinh, or sign-keeping log(1 + |q|)."""

    transform: Literal["linear", "asinh", "log"]
    scale: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        scaled = sample.features * np.float32(self.scale)
        if self.transform == "asinh":
            scaled = np.arcsinh(scaled)
        elif self.transform == "log":
            scaled = np.copysign(np.log1p(np.abs(scaled)), scaled)
        return replace(sample, features=scaled)


@dataclass(frozen=True)
class ZSegments(Transform):
    """Append one input per segment of z, 1 in the voxel's own: segment i holds ``bounds[i - 1] <= z < bounds[i]``.

    Voxels beyond the last bound have zeros in all of them.
    """

    bounds: Sequence[int]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        segment = np.searchsorted(self.bounds, sample.coords[:, 2], side="right")
        one_hot = (segment[:, None] == np.arange(len(self.bounds))).astype(np.float32)
        return replace(sample, features=np.hstack([sample.features, one_hot]))


@dataclass(frozen=True)
class Scale(Transform):
    """Multiply the truth."""

    factor: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, target=sample.target * np.float32(self.factor))


@dataclass(frozen=True)
class Threshold(Transform):
    """Truth above ``value`` (after `Scale`) becomes 1, the rest 0."""

    value: float

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, target=(sample.target > self.value).astype(np.float32))


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
) -> list[Transform]:
    """The steps a configuration asks for, in order; ``coord_lim`` and ``noise`` in training only.

    Args:
        data: the block of the configuration.
        training: whether for training images.
        scale: the store's own factor on the truth.
        planes: the store's, in the order of its charges; needed where ``data.input_planes`` is set.
        store: names it in errors.

    Raises:
        ConfigError: the store lacks one of ``data.input_planes``.
    """
    steps: list[Transform] = []
    if data.input_planes is not None:
        columns = plane_columns(data.input_planes, planes, store)
        if columns != list(range(len(planes))):
            steps.append(Planes(columns))
    if training and data.coord_lim is not None:
        steps.append(CoordLimits(data.coord_lim))
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
