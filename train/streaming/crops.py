"""Windows of an image: of a given size, or with a given number of voxels at most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.streaming.steps import Mask, Sample, Transform


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Keep a box of ``size`` voxels x, y, z around a voxel drawn at random; None leaves an axis whole.

    The box lies within the image's own bounds, and anywhere in them that keeps the voxel. Where voxels are dense
    boxes are more likely, and none is empty.
    """

    size: Sequence[int | None]

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        if not len(sample):
            return sample
        anchor = sample.coords[random.integers(len(sample)), :3]
        low, high = np.zeros(3, np.int64), np.full(3, np.iinfo(np.int64).max)
        for axis, size in enumerate(self.size):
            first, last = int(sample.coords[:, axis].min()), int(sample.coords[:, axis].max())
            if size is not None and last - first + 1 > size:
                least, most = max(first, int(anchor[axis]) - size + 1), min(int(anchor[axis]), last - size + 1)
                low[axis] = random.integers(least, most + 1)
                high[axis] = low[axis] + size

        def inside(places: npt.NDArray[np.int64]) -> Mask:
            return np.asarray(((places[:, :3] >= low) & (places[:, :3] < high)).all(axis=1))

        return sample.kept(inside)


@dataclass(frozen=True)
class BudgetCrop(Transform):
    """Cut an image of more than ``max_voxels`` down to a box around a voxel drawn at random.

    The box has the proportions of the image and the largest size that the budget allows.
    """

    max_voxels: int

    def _apply(self, sample: Sample, random: np.random.Generator) -> Sample:
        if len(sample) <= self.max_voxels:
            return sample
        coords = sample.coords[:, :3]
        centre = coords[random.integers(len(sample))]
        extent = np.ptp(coords, axis=0) + 1

        def distance(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            return np.asarray((np.abs(places[:, :3] - centre) / extent).max(axis=1))

        # The nearest voxel that no longer fits; those as far as it do not fit either.
        beyond = np.partition(distance(coords), self.max_voxels)[self.max_voxels]

        def inside(places: npt.NDArray[np.int64]) -> Mask:
            return np.asarray(distance(places) < beyond)

        return sample.kept(inside)
