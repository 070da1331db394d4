"""What all losses are: weighted means over voxels, whose denominator several processes can share."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from larstore.errors import ConfigError
from train.schema import DataConfig


def _own(total: Tensor) -> Tensor:
    return total


class VoxelLoss(nn.Module):
    """A loss as a weighted mean over voxels.

    ``forward(output, target, weight)``: (n, 1) each -> scalar, Σ weight · loss / Σ weight. Without any voxel of
    weight > 0 it is a zero that is connected to the graph, so that a step on such a batch is possible.

    Attributes:
        n_outputs: columns that the network's output must have.
        takes_truth: the target is the truth itself, where other losses of scores get labels 0 and 1.
        takes_labels: the target must be labels 0 and 1.
        takes_scores: the output must be a score, from 0 to 1.
        parts: scalars that the last loss was the sum of, by name; NaN where nothing counted. Empty if there is one.
        share: from this process's sum of weights to what it divides by. Where several train together it is their sum
            over their number, so that the mean of their losses (and gradients) is that of the joint batch. Each loss
            calls it equally often for every batch, also for one without voxels.
    """

    n_outputs: ClassVar[int] = 1
    takes_truth: ClassVar[bool] = False
    takes_labels: bool = False
    takes_scores: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Tensor] = {}
        self.share: Callable[[Tensor], Tensor] = _own

    def forward(
        self, output: Tensor, target: Tensor, weight: Tensor | None = None, batch: dict[str, Any] | None = None
    ) -> Tensor:
        """The scalar loss; ``batch`` is the whole of it, for losses that look at more than single voxels.

        Raises ConfigError if the output has another number of columns than the loss takes.
        """
        self.check_outputs(output)
        weight = torch.ones_like(target) if weight is None else weight
        total = self.share(weight.sum())
        if total == 0:
            return (output * 0).sum()
        return (self.per_voxel(output, target) * weight).sum() / total

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        raise NotImplementedError

    def check_outputs(self, output: Tensor) -> None:
        """Refuse what would be broadcast against the target without a word."""
        if output.shape[1] != self.n_outputs:
            raise ConfigError(
                f"loss: takes {self.n_outputs} outputs per voxel, the model gives {output.shape[1]}. "
                "Fix: MultiTaskLoss with cellnet_multi, any other loss with a model of one output"
            )

    def check_data(self, data: DataConfig, name: str) -> None:
        """Refuse a ``data`` block that gives the loss called ``name`` other targets than it takes."""
        if self.takes_labels and data.threshold is None:
            raise ConfigError(
                f"data.threshold is missing: {name} compares with labels 0 and 1, not with electrons. "
                "Fix: data.threshold: 0"
            )

    def compared(self, output: Tensor, target: Tensor, weight: Tensor, binary: bool) -> tuple[Tensor, Tensor]:
        """(k,) outputs and (k,) references of the voxels that count in a metric.

        References are labels (int64, target > 0) for a ``binary`` metric, the target itself for one of regression.
        """
        counts = weight[:, 0] > 0
        reference = target[counts, 0]
        return output[counts, 0], (reference > 0).long() if binary else reference
