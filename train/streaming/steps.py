"""An image on its way to the network, and what a step between the store and the network is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """An image on its way to the network, or several one after another.

    Attributes:
        coords: (n, 3) int64 voxels x, y, z; of several images (n, 4), the fourth is the image's number, ascending.
        features: (n, f) float32; the planes' charges in electrons at first, network inputs at the end.
        target: (n, 1) float32; electrons at first; 0 where no truth is known.
        weight: (n, 1) float32; 0 where no truth is known, else 1.
        truth_coords: (m, 3) or (m, 4) int64, all voxels with truth, tiled or not; None where nobody asked for them.
        truth_value: (m, 1) float32, their truth.
        tpc: the image's TPC, for steps that take images one at a time.
    """

    coords: npt.NDArray[np.int64]
    features: Floats
    target: Floats
    weight: Floats
    truth_coords: npt.NDArray[np.int64] | None = None
    truth_value: Floats | None = None
    tpc: int = -1

    def __len__(self) -> int:
        return len(self.coords)

    def replaced(self, **changes: Any) -> "Sample":
        """A copy with other arrays."""
        return replace(self, **changes)

    def kept(self, keep: Callable[[npt.NDArray[np.int64]], Mask]) -> "Sample":
        """Only the voxels and truth voxels whose coordinates ``keep`` wants."""
        mask = keep(self.coords)
        changes: dict[str, Any] = (
            {}
            if mask.all()
            else {name: getattr(self, name)[mask] for name in ("coords", "features", "target", "weight")}
        )
        if self.truth_coords is not None and self.truth_value is not None:
            mask = keep(self.truth_coords)
            changes |= {"truth_coords": self.truth_coords[mask], "truth_value": self.truth_value[mask]}
        return replace(self, **changes)

    def offsets(self, n_images: int) -> npt.NDArray[np.int64]:
        """(images + 1,) first voxel of each of several images."""
        return np.searchsorted(self.coords[:, 3], np.arange(n_images + 1)).astype(np.int64)

    def split(self, tpcs: Sequence[int]) -> "list[Sample]":
        """The single images, with their TPCs."""
        bounds = [slice(a, b) for a, b in pairwise(self.offsets(len(tpcs)).tolist())]
        images = [
            Sample(self.coords[b], self.features[b], self.target[b], self.weight[b], tpc=tpc)
            for b, tpc in zip(bounds, tpcs, strict=True)
        ]
        if self.truth_coords is None or self.truth_value is None:
            return images
        ends = np.searchsorted(self.truth_coords[:, 3], np.arange(len(tpcs) + 1)).tolist()
        return [
            replace(image, truth_coords=self.truth_coords[a:b], truth_value=self.truth_value[a:b])
            for image, (a, b) in zip(images, pairwise(ends), strict=True)
        ]


def together(images: "Sequence[Sample]") -> Sample:
    """Images one after another as one."""
    if len(images) == 1:
        return images[0]
    names = ["coords", "features", "target", "weight"]
    if images[0].truth_coords is not None:
        names += ["truth_coords", "truth_value"]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(image, name) for image in images]) for name in names}
    return Sample(**arrays)


class Transform(ABC):
    """One step; a subclass says what it does and holds its settings, nothing else: two threads may be in it.

    ``per_image``: whether it needs single images, because it draws random numbers or looks at an image as a whole.
    Others treat each voxel by itself, and take several images at once.
    """

    per_image: ClassVar[bool] = True

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """The image after this step; ``random`` is the image's own generator."""
        return self._apply(sample, random)

    @abstractmethod
    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample: ...


UNUSED = np.random.default_rng(0)  # for steps that draw nothing


def apply_all(
    sample: Sample,
    steps: Sequence[Transform],
    tpcs: Sequence[int],
    generators: Callable[[], Sequence[np.random.Generator]],
) -> Sample:
    """Several images, one after another, after all steps; ``generators``, asked if need be, gives one an image."""
    randoms: Sequence[np.random.Generator] = ()
    for per_image, group in groupby(steps, lambda step: step.per_image):
        if not per_image:
            for step in group:
                sample = step(sample, UNUSED)
            continue
        randoms = randoms or generators()
        images = sample.split(tpcs)
        for step in group:
            images = [step(image, random) for image, random in zip(images, randoms, strict=True)]
        sample = together(images)
    return sample
