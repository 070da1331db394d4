"""Layers with the semantics, weights and names of SparseConvNet (facebookresearch, arXiv:1706.01307)."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from larstore.errors import ConfigError, InputError
from train.sparse import native, rulebook
from train.sparse.norm import Statistics, Sums, first_time, norm_relu, once_more
from train.sparse.residual import residual
from train.sparse.tensor import Convolve, SparseTensor, Triple, sort_sites, sum_rows


def triple(value: int | Sequence[int]) -> Triple:
    """A size along x, y, z from one number or three; ConfigError for anything else."""
    sizes = (value,) * 3 if isinstance(value, int) else value
    try:
        x, y, z = (operator.index(size) for size in sizes)
    except (TypeError, ValueError):
        x = y = z = 0
    if min(x, y, z) < 1:
        raise ConfigError(f"model: {value!r} is no size along x, y, z. Fix: one whole number above 0, or three")
    return x, y, z


class InputLayer(nn.Module):
    """Features of duplicate coordinates are summed (mode 3). Input: coords (n, 4) x, y, z, event; features (n, f)."""

    def __init__(self, spatial_size: Sequence[int]) -> None:
        super().__init__()
        self.spatial_size = triple(spatial_size)
        self.convolve: Convolve = native.convolve

    def forward(self, coords: torch.Tensor, features: torch.Tensor) -> SparseTensor:
        """Sum the rows of each site."""
        sites, inverse = sort_sites(coords, self.spatial_size)
        if len(coords) != len(features):
            raise InputError(f"{len(coords)} coords, {len(features)} rows of features. Fix: one row of each a voxel")
        if inverse is not None:
            features = sum_rows(features, inverse, len(sites))
            inverse = inverse.to(features.device)
        return SparseTensor(features, sites, inverse, self.convolve)


class OutputLayer(nn.Module):
    """Each row of the input gets its site's features: (n, channels) in the input's order."""

    def forward(self, x: SparseTensor) -> torch.Tensor:
        """(n, channels)."""
        return x.features if x.inverse is None else x.features.index_select(0, x.inverse)


class _Convolution(nn.Module):
    """A weight (filter volume, 1, Cin, Cout), drawn with std sqrt(2 / (Cin · volume)), and no bias."""

    def __init__(self, c_in: int, c_out: int, filter_size: int | Sequence[int]) -> None:
        super().__init__()
        self.filter_size = triple(filter_size)
        volume = math.prod(self.filter_size)
        self.weight = nn.Parameter(torch.empty(volume, 1, c_in, c_out).normal_(0, math.sqrt(2 / (c_in * volume))))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[2]} -> {self.weight.shape[3]}, filter {self.filter_size}"


class SubmanifoldConvolution(_Convolution):
    """Output sites = input sites."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        return x.having(x.convolve(x.features, self.weight, rulebook.submanifold(x.sites, self.filter_size)))


class Convolution(_Convolution):
    """Strided convolution: a coarse site wherever an input falls into its window."""

    def __init__(self, c_in: int, c_out: int, filter_size: int | Sequence[int], stride: int | Sequence[int]) -> None:
        super().__init__(c_in, c_out, filter_size)
        self.stride = triple(stride)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        coarse, rules = rulebook.strided(x.sites, self.filter_size, self.stride)
        return x.below(x.convolve(x.features, self.weight, rules), coarse)


class Deconvolution(Convolution):
    """Back to the sites that the convolution of the same filter and stride came from."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        coarse, rules = rulebook.strided(x.finer[-1], self.filter_size, self.stride) if x.finer else (None, None)
        if rules is None or coarse is not x.sites:
            raise ConfigError(
                f"deconvolution of filter {self.filter_size}, stride {self.stride}: no convolution of the same filter "
                "and stride led to these sites. Fix: put one before it"
            )
        return x.above(x.convolve(x.features, self.weight, rules.transposed()))


class NetworkInNetwork(nn.Module):
    """A linear map per site: weight (Cin, Cout), std sqrt(2 / Cin), no bias."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_in, c_out).normal_(0, math.sqrt(2 / c_in)))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        rules = rulebook.submanifold(x.sites, (1, 1, 1))
        return x.having(x.convolve(x.features, self.weight[None, None], rules))


class BatchNormReLU(nn.Module):
    """Batch normalisation over all sites of the batch, then a leaky ReLU; ``momentum`` is the fraction *kept*.

    Attributes:
        frozen: normalise by the running statistics in training too, and leave them as they are.
        all_sums: sums over the sites of all processes whose batches are normalised as one; None for the own batch.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    frozen = False
    all_sums: Sums | None = None

    def __init__(self, channels: int, eps: float = 1e-4, momentum: float = 0.99, leakiness: float = 0.0) -> None:
        super().__init__()
        self.eps, self.momentum, self.leakiness = eps, momentum, leakiness
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        return x.having(norm_relu(x.features, self.weight, self.bias, self.statistics(), self.learns))

    @property
    def learns(self) -> bool:
        """Whether the batch's own mean and variance count."""
        return self.training and not self.frozen

    def statistics(self) -> Statistics:
        """What it keeps of the batches."""
        return Statistics(self.running_mean, self.running_var, self.momentum, self.eps, self.leakiness, self.all_sums)


class Identity(nn.Module):
    """The input itself."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the layer."""
        return x


class ConcatTable(nn.Sequential):
    """Applies each module to the same input; returns the list of results.

    With ``recompute`` only the input is kept for the backward pass, which computes what is inside once more.
    """

    recompute = False

    def forward(self, x: SparseTensor) -> list[SparseTensor]:
        """One tensor for each module."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self._results(x)
        scalings: list[Any] = []
        results: list[SparseTensor] = checkpoint(
            self._results, x, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (first_time(scalings), once_more(scalings)),
        )  # fmt: skip
        return results

    def _results(self, x: SparseTensor) -> list[SparseTensor]:
        return [module(x) for module in self]


class ResidualTable(ConcatTable):
    """The table of a residual block: the identity, or a linear map, beside norm, convolution, norm, convolution.

    Returns one tensor, their sum, for which the native backend has a function on the CPU; it is not used where a layer
    inside has a hook, which it would not call.
    """

    def _results(self, x: SparseTensor) -> list[SparseTensor]:
        way_round = self[0]
        norms = [layer for layer in self[1].children() if isinstance(layer, BatchNormReLU)]
        first, second = (layer for layer in self[1].children() if isinstance(layer, SubmanifoldConvolution))
        learns = norms[0].learns  # not the table's mode: frozen layers stay in evaluation
        fused = x.convolve is native.convolve and native.is_fused(x.features, first.weight, norms[0].running_mean)
        fused = fused and all(norm.learns == learns for norm in norms)
        if not fused or any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.modules()):
            beside, result = super()._results(x)
            return [x.having(beside.features + result.features)]
        features = residual(
            x.features,
            [(norm.weight, norm.bias, norm.statistics()) for norm in norms],
            (first.weight, second.weight),
            way_round.weight if isinstance(way_round, NetworkInNetwork) else None,
            rulebook.submanifold(x.sites, first.filter_size),
            rulebook.submanifold(x.sites, (1, 1, 1)),
            learns,
        )
        return [x.having(features)]


class AddTable(nn.Module):
    """Sum of the features of a list of tensors on the same sites."""

    def forward(self, parts: list[SparseTensor]) -> SparseTensor:
        """Merge the parts."""
        first, *others = parts
        return first.having(sum((part.features for part in others), start=first.features)) if others else first


class JoinTable(nn.Module):
    """Features of a list of tensors on the same sites, side by side."""

    def forward(self, parts: list[SparseTensor]) -> SparseTensor:
        """Merge the parts."""
        return parts[0].having(torch.cat([part.features for part in parts], dim=1))
