"""One trunk for both questions: is the voxel real, and how much charge does it hold?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from train.models.cellnet import BinarySparseCellNet, charge_head, in_float32


class MultiTaskSparseCellNet(BinarySparseCellNet):
    """Score and charge of each voxel from one SparseCellNet.

    The score's head is that of BinarySparseCellNet under the same name (``linear``), so that a deghosting run
    transfers whole; the charge's (``linear_charge``) is that of ChargeSparseCellNet: ``nHiddenLayers`` × (linear map,
    ReLU), then a linear map.
    """

    outputs: ClassVar[tuple[str, ...]] = ("score", "charge")

    def __init__(
        self,
        spatial_size: int | Sequence[int],
        nChannels: int,
        *args: int,
        nHiddenLayers: int = 1,
        **options: object,
    ) -> None:
        super().__init__(spatial_size, nChannels, *args, **options)
        self.linear_charge = charge_head(nChannels, nHiddenLayers)

    def forward(self, coords: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """As SparseCellNet, -> (n, 2): score in (0, 1), charge in the unit of the target (after ``data.scale``)."""
        shared = self.trunk(coords, features)
        score, charge = (in_float32(head, shared) for head in (self.linear, self.linear_charge))
        return torch.cat([torch.sigmoid(score), charge], dim=1)
