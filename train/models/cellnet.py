"""SparseCellNet: a residual U-Net on sparse sites (arXiv:1505.04597, 1706.01307), with its two heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from larstore.errors import ConfigError
from train.sparse.layers import (
    AddTable,
    BatchNormReLU,
    ConcatTable,
    Convolution,
    Deconvolution,
    Identity,
    InputLayer,
    JoinTable,
    NetworkInNetwork,
    OutputLayer,
    ResidualTable,
    SubmanifoldConvolution,
    triple,
)
from train.sparse.tensor import Triple


def _is_count(number: object) -> bool:
    return isinstance(number, int) and number > 0


class _Blocks:
    """What the levels of one net have in common."""

    def __init__(
        self, conv_kernel: int, downsample: Sequence[int], downsample_t: Sequence[int], momentum: float
    ) -> None:
        for name, pair in {"downsample": downsample, "downsample_t": downsample_t}.items():
            if not isinstance(pair, Sequence) or len(pair) != 2 or not all(_is_count(n) for n in pair):
                raise ConfigError(f"model: {name} = {pair!r} is no filter and stride. Fix: two whole numbers above 0")
        self.conv_kernel, self.downsample, self.downsample_t = conv_kernel, downsample, downsample_t
        self.momentum = momentum

    def kernel(self, is_2d: bool) -> list[int]:
        """Filter of a submanifold convolution; a 2D level does not look along the drift."""
        k = self.conv_kernel
        return [1 if is_2d else k, k, k]

    def resampling(self, is_2d: bool) -> tuple[list[int], list[int]]:
        """Filter and stride between a level and the next coarser one."""
        (size, stride), (size_t, stride_t) = self.downsample, ((1, 1) if is_2d else self.downsample_t)
        return [size_t, size, size], [stride_t, stride, stride]

    def extent(self, wanted: Triple, n_levels: int, n_2d: int) -> Triple:
        """The smallest extent from ``wanted`` on whose every level is covered by the windows of the next one."""
        least, unit = [1, 1, 1], [1, 1, 1]
        for level in reversed(range(n_levels - 1)):
            for axis, (size, stride) in enumerate(zip(*self.resampling(level < n_2d), strict=True)):
                least[axis] = (least[axis] - 1) * stride + size
                unit[axis] *= stride
        x, y, z = (a + max(0, -(-(n - a) // u)) * u for n, a, u in zip(wanted, least, unit, strict=True))
        return x, y, z

    def norm(self, channels: int) -> BatchNormReLU:
        """Batch normalisation and ReLU."""
        return BatchNormReLU(channels, momentum=self.momentum)

    def residual(self, c_in: int, c_out: int, is_2d: bool, recompute: bool) -> list[nn.Module]:
        """Two convolutions beside the identity, or beside a linear map where the widths differ."""
        kernel = self.kernel(is_2d)
        way_round = Identity() if c_in == c_out else NetworkInNetwork(c_in, c_out)
        convolutions = nn.Sequential(
            self.norm(c_in),
            SubmanifoldConvolution(c_in, c_out, kernel),
            self.norm(c_out),
            SubmanifoldConvolution(c_out, c_out, kernel),
        )
        table = ResidualTable(way_round, convolutions)
        table.recompute = recompute
        return [table, AddTable()]

    def level(self, widths: Sequence[int], n_2d: int, reps: int, recompute: int) -> nn.Sequential:
        """A level with all coarser ones inside it; it and ``recompute`` − 1 below it compute their blocks twice."""
        here, is_2d = widths[0], n_2d > 0
        modules = [module for _ in range(reps) for module in self.residual(here, here, is_2d, recompute > 0)]
        if len(widths) > 1:
            below = widths[1]
            filter_size, stride = self.resampling(is_2d)
            deeper = nn.Sequential(
                self.norm(here),
                Convolution(here, below, filter_size, stride),
                self.level(widths[1:], n_2d - 1, reps, recompute - 1),
                self.norm(below),
                Deconvolution(below, here, filter_size, stride),
            )
            modules += [ConcatTable(Identity(), deeper), JoinTable()]
            for rep in range(reps):
                modules += self.residual(2 * here if rep == 0 else here, here, is_2d, recompute > 0)
        return nn.Sequential(*modules)


class SparseCellNet(nn.Module):
    """Residual U-Net: level k of ``nStrides`` has k · nChannels features.

    Args:
        spatial_size: extent of the images in voxels, x, y, z; a number stands for all three.
        nChannels: features of the finest level.
        nStrides: number of levels.
        n_2D: finest levels that do not look along x (the drift), and are not downsampled along it.
        nInputFeatures: features of a voxel.
        reps: residual blocks per level and direction.
        conv_kernel: size of the submanifold filters.
        downsample: filter and stride between levels in y and z.
        downsample_t: the same in x, between levels that are not 2D.
        momentum: fraction of the running statistics that a training step keeps.
        recompute: finest levels whose blocks keep their input alone for the backward pass, and are computed once more
            there: less memory for a third more time. Weights and results are the same.

    Attributes:
        outputs: what inference keeps, column by column: the first is the prediction itself, each other one is written
            beside it as NAME-OUTPUT.
    """

    outputs: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(
        self,
        spatial_size: int | Sequence[int],
        nChannels: int,
        nStrides: int,
        n_2D: int,
        nInputFeatures: int = 3,
        reps: int = 2,
        conv_kernel: int = 3,
        downsample: Sequence[int] = (2, 2),
        downsample_t: Sequence[int] = (4, 4),
        momentum: float = 0.99,
        recompute: int = 0,
    ) -> None:
        super().__init__()
        for name, number in {"nChannels": nChannels, "nStrides": nStrides, "reps": reps}.items():
            if not _is_count(number):
                raise ConfigError(f"model: {name} = {number!r} makes no net. Fix: a whole number above 0")
        blocks = _Blocks(conv_kernel, downsample, downsample_t, momentum)
        size = triple(spatial_size)
        covered = blocks.extent(size, nStrides, n_2D)
        if covered != size:
            # Voxels beyond the last window, or levels without any, would be left out without a word.
            raise ConfigError(
                f"model: spatial_size = {list(size)} is not covered by the windows between its {nStrides} levels. "
                f"Fix: {list(covered)}"
            )
        self.sparseModel = nn.ModuleList(
            [
                InputLayer(size),
                SubmanifoldConvolution(nInputFeatures, nChannels, blocks.kernel(n_2D > 0)),
                blocks.level([nChannels * (k + 1) for k in range(nStrides)], n_2D, reps, recompute),
                blocks.norm(nChannels),
                OutputLayer(),
            ]
        )

    def trunk(self, coords: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(n, nChannels) features of each input row."""
        x = self.sparseModel[0](coords, features)
        for module in self.sparseModel[1:]:
            x = module(x)
        out: torch.Tensor = x
        return out

    def forward(self, coords: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """coords (n, 4) int64 x, y, z, event in the batch; features (n, nInputFeatures) -> (n, nChannels)."""
        return self.trunk(coords, features)


class BinarySparseCellNet(SparseCellNet):
    """A score per voxel in (0, 1): linear map and sigmoid on top of the net."""

    outputs: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, spatial_size: int | Sequence[int], nChannels: int, *args: int, **options: object) -> None:
        super().__init__(spatial_size, nChannels, *args, **options)  # type: ignore[arg-type]
        self.linear = nn.Linear(nChannels, 1)

    def forward(self, coords: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """As SparseCellNet, -> (n, 1)."""
        return torch.sigmoid(in_float32(self.linear, self.trunk(coords, features)))


def in_float32(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """(n, outputs) of a head, also under autocast: a score near 1 in 8 bits would be 1, and its loss infinite."""
    with torch.autocast(features.device.type, enabled=False):
        out: torch.Tensor = head(features.to(next(head.parameters()).dtype))
    return out


def charge_head(channels: int, n_hidden: int) -> nn.Sequential:
    """``n_hidden`` × (linear map, ReLU), then a linear map: (n, channels) -> (n, 1). Raises ConfigError."""
    if not isinstance(n_hidden, int) or n_hidden < 0:
        raise ConfigError(f"model: nHiddenLayers = {n_hidden!r} makes no net. Fix: a whole number, 0 or above")
    hidden = [layer for _ in range(n_hidden) for layer in (nn.Linear(channels, channels), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(channels, 1))


class ChargeSparseCellNet(SparseCellNet):
    """A charge per voxel: ``nHiddenLayers`` × (linear map, ReLU), then a linear map on top of the net.

    ``freeze`` keeps the trunk's weights as they are and trains the head alone.
    """

    outputs: ClassVar[tuple[str, ...]] = ("charge",)

    def __init__(
        self,
        spatial_size: int | Sequence[int],
        nChannels: int,
        *args: int,
        nHiddenLayers: int = 1,
        freeze: bool = False,
        **options: object,
    ) -> None:
        super().__init__(spatial_size, nChannels, *args, **options)  # type: ignore[arg-type]
        if freeze:
            for parameter in self.sparseModel.parameters():
                parameter.requires_grad = False
        self.linear = charge_head(nChannels, nHiddenLayers)

    def forward(self, coords: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """As SparseCellNet, -> (n, 1)."""
        return in_float32(self.linear, self.trunk(coords, features))
