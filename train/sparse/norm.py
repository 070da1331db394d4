"""Batch normalisation over sites with a leaky ReLU behind it: one pass each for sums and values on the CPU.

Source: Ioffe, Szegedy, arXiv:1502.03167. Sums have the same bits for any number of threads, which torch's have not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from train.sparse import kernels
from train.sparse.native import as_array, as_rows, is_fused

ROWS = 1024  # of a partial sum


Sums = Callable[[Tensor], Tensor]  # from sums over this process's sites to those over the sites of all


class _Memory(threading.local):
    """Scalings of layers that will be computed twice: what a batch makes of them is found once."""

    kept: list[Any] | None = None
    again: Iterator[Any] | None = None


_memory = _Memory()


@contextmanager
def first_time(kept: list[Any]) -> Iterator[None]:
    """Put each layer's scaling into ``kept``."""
    _memory.kept = kept
    try:
        yield
    finally:
        _memory.kept = None


@contextmanager
def once_more(kept: list[Any]) -> Iterator[None]:
    """Take the scalings from ``kept``, and leave the running statistics as they are."""
    _memory.again = iter(kept)
    try:
        yield
    finally:
        _memory.again = None


@dataclass(frozen=True)
class Statistics:
    """Of a layer: running mean and (unbiased) variance (channels,), and the fraction of them that a step keeps.

    ``all_sums``: where the batch of several processes is normalised as one; None for this process's alone.
    """

    mean: Tensor
    variance: Tensor
    kept: float
    eps: float
    leak: float
    all_sums: Sums | None = None

    def keep(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Take up mean and biased variance of ``n`` sites."""
        for running, new in ((self.mean, mean), (self.variance, variance * n / (n - 1))):
            running.mul_(self.kept).add_(new, alpha=1 - self.kept)

    def of(self, sums: Any, n: int) -> tuple[Any, Any, int]:
        """Mean and biased variance (channels,) of sites, and their number, from this process's (2, channels) Σx, Σx².

        ``sums`` is a float64 array or tensor, and so are mean and variance. The running ones take them up where they
        exist, which is for two sites or more.
        """
        if self.all_sums is not None:
            tensor = torch.as_tensor(sums)
            tensor = self.all_sums(torch.cat([tensor, torch.full_like(tensor[:1], n)]))
            n, together = round(float(tensor[2, 0])), tensor[:2]
            sums = together if isinstance(sums, Tensor) else together.numpy()
        mean, square = sums / max(n, 1)
        variance = (square - mean * mean).clip(0.0)
        if n > 1:
            self.keep(torch.as_tensor(mean), torch.as_tensor(variance), n)
        return mean, variance, n


@dataclass(frozen=True)
class Scaling:
    """What a batch, or the running statistics, make of a layer: ``y = max(z, leak · z)``, ``z = x · scale + shift``.

    Attributes:
        scale, shift: (channels,) float32.
        mean, inverse: (channels,) float64 mean, and 1 / sqrt(variance + eps).
        leak: slope of the rectifier below 0.
        n: sites that mean and variance are of, which the gradient then goes through; 0 for the running ones.
        all_sums: as in `Statistics`.
    """

    scale: Any
    shift: Any
    mean: Any
    inverse: Any
    leak: Any
    n: int
    all_sums: Sums | None


def scaling_of(features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, training: bool) -> Scaling:
    """The scaling of (sites, channels) float32: in training by the batch, which the running statistics take up.

    The variance of fewer than two sites does not exist: they are scaled by the running ones.
    """
    if _memory.again is not None:
        known: Scaling = next(_memory.again)
        return known
    x, n = as_array(features), 0
    if training:
        sums = np.empty((-(-len(x) // ROWS), 2, x.shape[1]))
        kernels.channel_sums(x, ROWS, sums)
        mean, variance, n = statistics.of(sums.sum(axis=0), len(x))
    if n < 2:
        n = 0
        mean, variance = (as_array(t).astype(np.float64) for t in (statistics.mean, statistics.variance))
    inverse = 1 / np.sqrt(variance + statistics.eps)
    scale = as_array(weight) * inverse
    shift = (as_array(bias) - mean * scale).astype(np.float32)
    leak = np.float32(statistics.leak)
    scaling = Scaling(scale.astype(np.float32), shift, mean, inverse, leak, n, statistics.all_sums)
    if _memory.kept is not None:
        _memory.kept.append(scaling)
    return scaling


def apply(features: Tensor, scaling: Scaling) -> Tensor:
    """Scaled and rectified (sites, channels)."""
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    kernels.scale_and_rectify(as_array(features), scaling.scale, scaling.shift, scaling.leak, ROWS, out.numpy())
    return out


def gradients(
    features: Tensor, gradient: Tensor, scaling: Scaling, added: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the input (sites, channels), with ``added`` on top, of the weight and of the bias (channels,)."""
    x, g = as_array(features), as_array(gradient)
    scale, shift, mean, leak = scaling.scale, scaling.shift, scaling.mean, scaling.leak
    sums = np.empty((-(-len(x) // ROWS), 2, x.shape[1]))
    kernels.rectified_sums(x, g, scale, shift, mean, leak, ROWS, sums)
    own = sums.sum(axis=0)
    own[1] *= scaling.inverse
    d_bias, d_weight = own
    slope, offset = np.zeros_like(scale), np.zeros_like(scale)
    if scaling.n:
        total = own if scaling.all_sums is None else scaling.all_sums(torch.from_numpy(own)).numpy()
        slope = (-scale * scaling.inverse * total[1] / scaling.n).astype(np.float32)
        offset = (-scale * total[0] / scaling.n).astype(np.float32)
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    kernels.rectified_gradient(
        x, g, scale, shift, mean.astype(np.float32), slope, offset, leak, ROWS, as_rows(added), out.numpy()
    )
    return out, torch.from_numpy(d_weight.astype(np.float32)), torch.from_numpy(d_bias.astype(np.float32))


class _NormReLU(torch.autograd.Function):
    """Keeps the input alone for the backward pass; what is behind the rectifier is found again from it."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, training: bool
    ) -> Tensor:
        ctx.scaling = scaling_of(features, weight, bias, statistics, training)
        ctx.save_for_backward(features)
        return apply(features, ctx.scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (features,) = ctx.saved_tensors
        return *gradients(features, gradient, ctx.scaling), None, None


class _SharedNorm(torch.autograd.Function):
    """Normalisation by torch's operations, on any device, by mean and variance of the sites of all processes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics) -> Tensor:
        x = features.to(weight.dtype)
        if _memory.again is not None:
            mean, inverse, n = next(_memory.again)
        else:
            # Squares around the own mean: those around zero would lose digits in float32.
            own, sites = x.sum(dim=0, dtype=torch.float64), len(x)
            centre = own / max(sites, 1)
            square = (x - centre.to(x.dtype)).square().sum(dim=0, dtype=torch.float64) + sites * centre.square()
            mean, variance, n = statistics.of(torch.stack([own, square]), sites)
            if n < 2:
                n, mean, variance = 0, statistics.mean.double(), statistics.variance.double()
            inverse = (variance + statistics.eps).rsqrt()
            if _memory.kept is not None:
                _memory.kept.append((mean, inverse, n))
        mean, inverse = mean.to(x.dtype), inverse.to(x.dtype)
        ctx.save_for_backward(features, weight, mean, inverse)
        ctx.n, ctx.all_sums = n, statistics.all_sums
        out: Tensor = (x - mean) * (inverse * weight) + bias
        return out.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight, mean, inverse = ctx.saved_tensors
        g, scaled = gradient.to(weight.dtype), (features.to(weight.dtype) - mean) * inverse
        own = torch.stack([g.sum(dim=0, dtype=torch.float64), (g * scaled).sum(dim=0, dtype=torch.float64)])
        d_bias, d_weight = own.to(weight.dtype)
        if ctx.n:
            offset, slope = (ctx.all_sums(own) / ctx.n).to(weight.dtype)
            g = g - offset - scaled * slope
        return (g * (inverse * weight)).to(features.dtype), d_weight, d_bias, None


def norm_relu(features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, training: bool) -> Tensor:
    """Normalise (sites, channels) by the batch's mean and variance, or the running ones; leaky ReLU.

    The variance of fewer than two sites does not exist: they are normalised by the running ones.
    """
    if is_fused(features, weight, statistics.mean):
        out: Tensor = _NormReLU.apply(features, weight, bias, statistics, training)  # type: ignore[no-untyped-call]
        return out
    if training and statistics.all_sums is not None:
        y: Tensor = _SharedNorm.apply(features, weight, bias, statistics)  # type: ignore[no-untyped-call]
    else:
        mean, variance, of_batch = statistics.mean, statistics.variance, training and len(features) > 1
        if _memory.again is not None:
            mean, variance = mean.clone(), variance.clone()
        kept = 1 - statistics.kept
        y = functional.batch_norm(features, mean, variance, weight, bias, of_batch, kept, statistics.eps)
    return functional.leaky_relu(y, statistics.leak) if statistics.leak else functional.relu(y)
