"""Losses by name: torch.nn's, and those of the research code; all take a weight per voxel."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from larstore.errors import ConfigError
from train.schema import NamedSection


class VoxelLoss(nn.Module):
    """A loss as a weighted mean over voxels.

    ``forward(output, target, weight)``: (n, 1) each -> scalar, Σ weight · loss / Σ weight. Without any voxel of
    weight > 0 it is a zero that is connected to the graph, so that a step on such a batch is possible.
    """

    def forward(self, output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The scalar loss."""
        weight = torch.ones_like(target) if weight is None else weight
        total = weight.sum()
        if total == 0:
            return (output * 0).sum()
        return (self.per_voxel(output, target) * weight).sum() / total

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        raise NotImplementedError


class TorchLoss(VoxelLoss):
    """An elementwise loss of torch.nn, such as BCELoss, MSELoss, SmoothL1Loss."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.loss = getattr(nn, name)(**arguments, reduction="none")

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        loss: Tensor = self.loss(output, target)
        return loss


class BCEL1Loss(VoxelLoss):
    """Binary cross-entropy + ``L1_lambda`` × mean |score|: pulls scores to zero."""

    def __init__(self, L1_lambda: float) -> None:
        super().__init__()
        self.L1_lambda = float(L1_lambda)

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        return F.binary_cross_entropy(output, target, reduction="none") + self.L1_lambda * output.abs()


class ChargeWeightedBCELoss(VoxelLoss):
    """Binary cross-entropy against ``target > 0``, weighted by the target where positive, else ``negative_weight``.

    The target is the truth itself (no ``data.threshold``); the mean is over voxels, not over weights.
    """

    def __init__(self, negative_weight: float) -> None:
        super().__init__()
        self.negative_weight = float(negative_weight)

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        true = target > 0
        importance = torch.where(true, target, torch.full_like(target, self.negative_weight))
        return F.binary_cross_entropy(output, true.to(output.dtype), reduction="none") * importance


class LabelWeightedBCELoss(VoxelLoss):
    """Binary cross-entropy in which true voxels (target > 0) weigh ``positive_weight``; the mean is over voxels."""

    def __init__(self, positive_weight: float) -> None:
        super().__init__()
        self.positive_weight = float(positive_weight)

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        importance = torch.where(target > 0, self.positive_weight, 1.0)
        return F.binary_cross_entropy(output, target, reduction="none") * importance


# torch.nn's losses that compare two tensors element by element.
ELEMENTWISE = (
    "BCELoss",
    "BCEWithLogitsLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
)
OWN: dict[str, type[VoxelLoss]] = {
    loss.__name__: loss for loss in (BCEL1Loss, ChargeWeightedBCELoss, LabelWeightedBCELoss)
}
# The research code's ghost3d_3.yaml names a loss that was renamed.
OWN["WeightedBCELoss"] = ChargeWeightedBCELoss


def make_loss(section: NamedSection) -> VoxelLoss:
    """The loss of a configuration's ``loss:`` block. Raises ConfigError for an unknown name or argument."""
    arguments = section.arguments
    try:
        if section.name in OWN:
            return OWN[section.name](**arguments)
        if section.name in ELEMENTWISE:
            return TorchLoss(section.name, arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss: {section.name}: {error}. Fix: correct its arguments {sorted(arguments)}") from error
    valid = (*sorted(OWN), *ELEMENTWISE)
    raise ConfigError(f"loss: {section.name!r} is not a loss per voxel. Fix: one of {', '.join(valid)}")
