"""A loss on the charge summed over coarse blocks: that a network puts it into the wrong voxel nearby costs nothing."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from larstore.coordinates import check_downsample
from larstore.errors import ConfigError
from train.objective.voxel_loss import VoxelLoss
from train.schema import DataConfig

BITS = 16  # of a block coordinate: voxels are uint16 in the store


class Blocks(NamedTuple):
    """The blocks of a batch that hold both truth and tiled voxels, in any order.

    Attributes:
        truth: (b,) sum over all truth voxels of a block, tiled or not.
        row: (n,) int64 the block of each tiled voxel, −1 where its block holds no truth.
    """

    truth: Tensor
    row: Tensor


class DownsampleMSELoss(VoxelLoss):
    """Squared error of block sums, and of the voxels that are sure of their own charge.

    Truth that diffusion and the filters moved into a neighbouring voxel is not tiled at its own place but at that of
    a ghost beside it. Voxel by voxel the ghost's right answer would be 0; here the voxels of a block may share its
    charge as they like, and only its sum is compared. So, per image and with blocks that begin at coordinate 0:

    - V: tiled voxels with own truth above 0, and those whose block (coords // ``downsample``) holds no truth voxel.
      Single error of a voxel: (output − target)².
    - B: blocks that hold a truth voxel, tiled or not, and a tiled voxel. Error of a block: (Σ output of its tiled
      voxels − Σ truth of all its truth voxels)².

    loss = mean over V + ``weight`` × mean over B, means weighted: a voxel by its own weight, a block by the smallest
    of its tiled voxels' weights (one voxel of unknown truth makes the sum unknown). Each mean is a connected zero
    where nothing counts, and each has its own denominator, both from ``share``: first the voxels', then the blocks'.

    The target and ``truth_value`` are the truth itself in one unit (after ``data.scale``). Sums are over sorted
    voxels: the result has the same bits each time.

    Args:
        downsample: voxels of a block in x, y and z.
        weight: factor on the blocks' part; not below 0.

    Raises:
        ConfigError: wrong arguments; in ``forward``, a batch without ``truth_coords`` (m, 4) and ``truth_value``
            (m, 1) of all truth voxels.
    """

    takes_truth: ClassVar[bool] = True

    def __init__(self, downsample: Sequence[int], weight: float = 1.0) -> None:
        super().__init__()
        try:
            self.downsample = check_downsample(downsample)
        except ConfigError as error:
            raise ConfigError(f"loss.{error}") from error
        if type(weight) not in (int, float) or not 0 <= weight < math.inf:
            raise ConfigError(f"loss.weight: {weight!r} is no finite number from 0 up. Fix: for example 1.0")
        self.weight = float(weight)

    def check_data(self, data: DataConfig, name: str) -> None:
        """Refuse a ``data`` block without all truth, or with labels in its place."""
        if data.threshold is not None:
            raise ConfigError(f"data.threshold = {data.threshold:g} leaves no charge to sum for {name}. Fix: remove it")
        if not data.full_y:
            raise ConfigError(f"data.full_y is false, {name} needs all truth voxels. Fix: data.full_y: true")

    def forward(
        self, output: Tensor, target: Tensor, weight: Tensor | None = None, batch: dict[str, Any] | None = None
    ) -> Tensor:
        """The scalar loss of output, target and weight (n, 1); ``batch`` holds ``coords`` (n, 4) and all truth."""
        self.check_outputs(output)
        if batch is None or "truth_coords" not in batch:
            raise ConfigError("loss: DownsampleMSELoss needs all truth voxels of a batch. Fix: data.full_y: true")
        weight = torch.ones_like(target) if weight is None else weight
        output, target, weight = output[:, 0].float(), target[:, 0].float(), weight[:, 0].float()
        blocks = find_blocks(batch["coords"], batch["truth_coords"], batch["truth_value"][:, 0], self.downsample)
        shared = blocks.row >= 0
        alone = weight * ((target > 0) | ~shared)
        sums, least = _per_block(output[shared], weight[shared], blocks.row[shared], len(blocks.truth))
        total, total_blocks = self.share(alone.sum()), self.share(least.sum())
        zero = (output * 0).sum()
        single = (alone * (output - target) ** 2).sum() / total if total > 0 else zero
        coarse = (least * (sums - blocks.truth) ** 2).sum() / total_blocks if total_blocks > 0 else zero
        self.parts = {
            "voxels": single.detach() if total > 0 else torch.full_like(single, math.nan, requires_grad=False),
            "blocks": coarse.detach() if total_blocks > 0 else torch.full_like(coarse, math.nan, requires_grad=False),
        }
        loss: Tensor = single + self.weight * coarse
        return loss


def find_blocks(coords: Tensor, truth_coords: Tensor, truth: Tensor, downsample: Sequence[int]) -> Blocks:
    """Sum the truth of each block that has a tiled voxel.

    Args:
        coords: (n, 4) int64 tiled voxels, x, y, z, image; from 0 to 65,535.
        truth_coords: (m, 4) int64 truth voxels.
        truth: (m,) their values.
        downsample: voxels of a block in x, y and z.
    """
    tiled, true = _keys(coords, downsample), _keys(truth_coords, downsample)
    known, number = torch.unique(tiled, return_inverse=True)
    place = torch.searchsorted(known, true)
    inside = place < len(known)
    inside[inside.clone()] = known[place[inside]] == true[inside]
    place, truth = place[inside], truth[inside].float()
    with_truth, block = torch.unique(place, return_inverse=True)
    order = torch.argsort(block, stable=True)
    counts = torch.bincount(block, minlength=len(with_truth))
    # unsafe: the lengths are right, and torch cannot check those of nothing.
    sums = torch.segment_reduce(truth[order], "sum", lengths=counts, unsafe=True)
    row = torch.full((len(known),), -1, dtype=torch.int64, device=coords.device)
    row[with_truth] = torch.arange(len(with_truth), device=coords.device)
    return Blocks(sums, row[number])


def _keys(coords: Tensor, downsample: Sequence[int]) -> Tensor:
    """(n,) int64, one number for each block and image."""
    x, y, z = (coords[:, axis] // step for axis, step in enumerate(downsample))
    return ((coords[:, 3] << BITS | x) << BITS | y) << BITS | z


def _per_block(output: Tensor, weight: Tensor, row: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
    """(b,) sums of outputs, which gradients pass, and (b,) smallest weights. Every block has a voxel."""
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=n_blocks)
    sums = torch.segment_reduce(output[order], "sum", lengths=counts, unsafe=True)
    return sums, torch.segment_reduce(weight[order], "min", lengths=counts, unsafe=True)
