"""Losses by name: torch.nn's, and those of the research code; all take a weight per voxel."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from larstore.errors import ConfigError
from larstore.settings import did_you_mean
from train.named import call_named
from train.objective.block_loss import DownsampleMSELoss
from train.objective.torch_losses import NOT_PER_VOXEL, TorchLoss, torch_losses
from train.objective.voxel_loss import VoxelLoss
from train.schema import DataConfig, NamedSection

__all__ = [
    "BCEL1Loss",
    "ChargeWeightedBCELoss",
    "DownsampleMSELoss",
    "LabelWeightedBCELoss",
    "MultiTaskLoss",
    "TorchLoss",
    "VoxelLoss",
    "make_loss",
]


class BCEL1Loss(VoxelLoss):
    """Binary cross-entropy + ``L1_lambda`` × mean |score|: pulls scores to zero."""

    takes_labels = True
    takes_scores = True

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

    takes_truth: ClassVar[bool] = True
    takes_scores = True

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

    takes_labels = True
    takes_scores = True

    def __init__(self, positive_weight: float) -> None:
        super().__init__()
        self.positive_weight = float(positive_weight)

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        importance = torch.where(target > 0, self.positive_weight, 1.0)
        return F.binary_cross_entropy(output, target, reduction="none") * importance


# What MultiTaskLoss may be made of: losses of a score in (0, 1) against a label, losses of an unbounded charge.
CHARGE_PARTS = ("HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss")
SCORE_PARTS = ("BCELoss", "BCEL1Loss", "ChargeWeightedBCELoss", "LabelWeightedBCELoss", *CHARGE_PARTS)


class MultiTaskLoss(VoxelLoss):
    """``score_weight`` × loss of the score + ``charge_weight`` × loss of the charge, for networks of both.

    The target is the truth itself, in its unit after ``data.scale``. Labels are truth > ``threshold``. Each part is a
    weighted mean over its own voxels, so that their balance does not depend on how many ghosts a sample has.

    Args:
        score: block of a loss in `SCORE_PARTS`.
        charge: block of a loss in `CHARGE_PARTS`.
        score_weight, charge_weight: not below 0, one of them above.
        threshold: truth above it makes a voxel true; not below 0.
        charge_of_ghosts: let the charge's part count ghosts too, whose truth is at most ``threshold``. By default it
            counts true voxels only: 95 of 100 voxels are ghosts, their zeros would pull every uncertain charge down,
            and which voxels are ghosts is what the score tells. The charge of a ghost then means nothing; cut on the
            score first.
    """

    n_outputs: ClassVar[int] = 2
    takes_truth: ClassVar[bool] = True

    def __init__(
        self,
        score: Any = "BCELoss",
        charge: Any = "SmoothL1Loss",
        score_weight: float = 1.0,
        charge_weight: float = 1.0,
        threshold: float = 0.0,
        charge_of_ghosts: bool = False,
    ) -> None:
        super().__init__()
        numbers = {"score_weight": score_weight, "charge_weight": charge_weight, "threshold": threshold}
        for name, number in numbers.items():
            if type(number) not in (int, float) or not 0 <= number < math.inf:
                raise ConfigError(f"loss.{name}: {number!r} is no finite number from 0 up. Fix: for example 1.0")
        if score_weight == charge_weight == 0:
            raise ConfigError("loss: score_weight and charge_weight are both 0. Fix: one of them above 0")
        if not isinstance(charge_of_ghosts, bool):
            raise ConfigError(f"loss.charge_of_ghosts: {charge_of_ghosts!r}. Fix: true or false")
        self.score = _make_part("score", score, SCORE_PARTS)
        self.charge = _make_part("charge", charge, CHARGE_PARTS)
        self.score_weight, self.charge_weight = float(score_weight), float(charge_weight)
        self.threshold, self.charge_of_ghosts = float(threshold), charge_of_ghosts

    def check_data(self, data: DataConfig, name: str) -> None:
        """Refuse labels in the place of the truth."""
        if data.threshold is not None:
            raise ConfigError(
                f"data.threshold = {data.threshold:g} leaves no charge to learn for {name}. "
                "Fix: remove it, and set loss.threshold"
            )

    def forward(
        self, output: Tensor, target: Tensor, weight: Tensor | None = None, batch: dict[str, Any] | None = None
    ) -> Tensor:
        """The scalar loss of output (n, 2) against target and weight (n, 1); ``parts`` are those before weighting."""
        self.check_outputs(output)
        weight = torch.ones_like(target) if weight is None else weight
        true = target > self.threshold
        labels = true.to(target.dtype)
        score_target = target * labels if self.score.takes_truth else labels
        score = self.score(output[:, :1], score_target, weight)
        charge_weight = weight if self.charge_of_ghosts else weight * labels
        charge = self.charge(output[:, 1:], target, charge_weight)
        self.parts = {
            "score": torch.where(weight.sum() > 0, score.detach(), math.nan),
            "charge": torch.where(charge_weight.sum() > 0, charge.detach(), math.nan),
        }
        loss: Tensor = self.score_weight * score + self.charge_weight * charge
        return loss

    def compared(self, output: Tensor, target: Tensor, weight: Tensor, binary: bool) -> tuple[Tensor, Tensor]:
        """Binary metrics: scores and labels (truth > threshold); of regression: charges where their loss counts."""
        true, counts = target[:, 0] > self.threshold, weight[:, 0] > 0
        if binary:
            return output[counts, 0], true[counts].long()
        if not self.charge_of_ghosts:
            counts = counts & true
        return output[counts, 1], target[counts, 0]


def _make_part(key: str, block: Any, names: tuple[str, ...]) -> VoxelLoss:
    block = {"name": block} if isinstance(block, str) else block
    name = block.get("name") if isinstance(block, dict) else block
    if name not in names:
        raise ConfigError(f"loss.{key}: {name!r} is no loss of a {key}. Fix: name: one of {', '.join(names)}")
    return make_loss(NamedSection.model_validate(block), f"loss.{key}")


OWN: dict[str, type[VoxelLoss]] = {
    loss.__name__: loss
    for loss in (BCEL1Loss, ChargeWeightedBCELoss, DownsampleMSELoss, LabelWeightedBCELoss, MultiTaskLoss)
}
# The research code's ghost3d_3.yaml names a loss that was renamed.
OWN["WeightedBCELoss"] = ChargeWeightedBCELoss


def make_loss(section: NamedSection, key: str = "loss") -> VoxelLoss:
    """The loss of a configuration's block ``key``. Raises ConfigError for an unknown name or argument."""
    name, arguments = section.name, section.arguments
    if name in OWN:
        loss: VoxelLoss = call_named(OWN[name], name, arguments, key)
        return loss
    known = torch_losses()
    if name in known:
        return TorchLoss(name, arguments, key)
    if name in NOT_PER_VOXEL:
        reason, instead = NOT_PER_VOXEL[name]
        raise ConfigError(f"{key}: {name} {reason}. Fix: {instead}")
    valid = [*sorted(OWN), *known]
    raise ConfigError(
        f"{key}: {name!r} is not a loss per voxel. Fix: {did_you_mean(name, valid)}one of {', '.join(valid)}"
    )
