"""The losses of torch.nn by name, as losses of each voxel; those that cannot be one say why."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from larstore.errors import ConfigError
from train.named import call_named
from train.objective.voxel_loss import VoxelLoss


def _as_it_is(target: Tensor) -> Tensor:
    return target


def _label(target: Tensor) -> Tensor:
    return (target > 0).to(target.dtype)


def _plus_minus(target: Tensor) -> Tensor:
    """+1 for a real voxel, −1 for a ghost."""
    return torch.where(target > 0, 1.0, -1.0)


def _minus_plus(target: Tensor) -> Tensor:
    """−1 for a real voxel, +1 for a ghost: what belongs together has distance 0, as a ghost has score 0."""
    return torch.where(target > 0, -1.0, 1.0)


# One output against one target: the target as each of them takes it.
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "BCELoss": _as_it_is,
    "BCEWithLogitsLoss": _as_it_is,
    "HingeEmbeddingLoss": _minus_plus,
    "HuberLoss": _as_it_is,
    "L1Loss": _as_it_is,
    "MSELoss": _as_it_is,
    "MultiLabelSoftMarginLoss": _label,
    "PoissonNLLLoss": _as_it_is,
    "SmoothL1Loss": _as_it_is,
    "SoftMarginLoss": _plus_minus,
}
# A score p is the probabilities (1 − p, p) of the classes 0 (ghost) and 1 (real).
OF_CLASSES = ("CrossEntropyLoss", "KLDivLoss", "MultiMarginLoss", "NLLLoss")
OF_SCORES = ("BCELoss", *OF_CLASSES)
OF_LABELS = ("BCELoss", "BCEWithLogitsLoss")  # the others turn truth into labels by themselves
OF_LOGITS = ("BCEWithLogitsLoss", "MultiLabelSoftMarginLoss", "SoftMarginLoss")

# Why not, and what to take.
NOT_PER_VOXEL = {
    "AdaptiveLogSoftmaxWithLoss": ("has weights of its own, for thousands of classes", "BCELoss or CrossEntropyLoss"),
    "CosineEmbeddingLoss": ("compares pairs of vectors, a voxel has one output", "BCELoss or MSELoss"),
    "CTCLoss": ("aligns sequences", "BCELoss or MSELoss"),
    "GaussianNLLLoss": ("needs a variance of each voxel, which no network gives", "HuberLoss or MSELoss"),
    "LinearCrossEntropyLoss": ("has weights of its own, which inference would not have", "CrossEntropyLoss"),
    "MarginRankingLoss": ("ranks pairs of outputs", "BCELoss"),
    "MultiLabelMarginLoss": ("takes lists of classes, a voxel has one", "MultiMarginLoss"),
    "TripletMarginLoss": ("compares triples of vectors, a voxel has one output", "BCELoss or MSELoss"),
    "TripletMarginWithDistanceLoss": ("compares triples of vectors, a voxel has one output", "BCELoss or MSELoss"),
}
TENSORS = ("weight", "pos_weight")  # arguments that torch takes as tensors
SMALLEST = 2e-38  # of a probability, before its logarithm


def torch_losses() -> list[str]:
    """Names of the losses of this torch that `TorchLoss` takes."""
    return [name for name in sorted((*ELEMENTWISE, *OF_CLASSES)) if hasattr(nn, name)]


class TorchLoss(VoxelLoss):
    """A loss of torch.nn, voxel by voxel; the mean is over voxels, whatever the weights of classes.

    Where the loss takes signs or classes instead of numbers, truth above 0 is a real voxel.

    Args:
        name: one of `torch_losses`.
        arguments: of its class; numbers and lists where that takes tensors (``weight`` of the classes, ghost first).
        key: block of the configuration, for errors.

    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    def __init__(self, name: str, arguments: dict[str, Any], key: str = "loss") -> None:
        super().__init__()
        self.name = name
        self.takes_scores, self.takes_labels = name in OF_SCORES, name in OF_LABELS
        settings = {
            k: torch.tensor(v, dtype=torch.float32) if k in TENSORS and _numbers(v) else v for k, v in arguments.items()
        }
        if settings.pop("reduction", "mean") != "mean":
            raise ConfigError(
                f"{key}: reduction {arguments['reduction']!r}: losses are means over voxels. Fix: remove it"
            )
        if name == "KLDivLoss" and settings.get("log_target"):
            raise ConfigError(f"{key}: log_target: labels have no logarithm. Fix: remove it")
        hidden = ("size_average", "reduce", "reduction")
        self.loss = call_named(getattr(nn, name), name, settings, key, hidden=hidden)
        self.loss.reduction = "none"
        if name in OF_CLASSES and getattr(self.loss, "weight", None) is not None and self.loss.weight.shape != (2,):
            raise ConfigError(
                f"{key}: {name}: weight = {arguments['weight']!r}. Fix: two, of ghosts and of real voxels"
            )

    def per_voxel(self, output: Tensor, target: Tensor) -> Tensor:
        """(n, 1) loss of each voxel."""
        if self.name in ELEMENTWISE:
            loss: Tensor = self.loss(output, ELEMENTWISE[self.name](target))
            return loss.view(-1, 1)
        two = torch.cat([1 - output, output], dim=1)
        if self.name == "MultiMarginLoss":
            loss = self.loss(two, (target[:, 0] > 0).long())
        elif self.name == "KLDivLoss":
            label = _label(target)
            loss = self.loss(two.clamp_min(SMALLEST).log(), torch.cat([1 - label, label], dim=1)).sum(1)
        else:
            loss = self.loss(two.clamp_min(SMALLEST).log(), (target[:, 0] > 0).long())
        return loss.view(-1, 1)


def _numbers(value: Any) -> bool:
    """A number, or a list of some."""
    values = value if isinstance(value, list) else [value]
    return all(type(each) in (int, float) for each in values)
