"""Batch normalisation over sites with a leaky ReLU behind it: one pass each for sums and values on the CPU.

Source: Ioffe, Szegedy, arXiv:1502.03167. Sums have the same bits for any number of threads, which torch's have not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
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


_thread = threading.local()


@contextmanager
def once() -> Iterator[None]:
    """Leave running statistics as they are: what is computed in here has been computed before."""
    _thread.again = True
    try:
        yield
    finally:
        _thread.again = False


@dataclass(frozen=True)
class Statistics:
    """Of a layer: running mean and (unbiased) variance (channels,), and the fraction of them that a step keeps."""

    mean: Tensor
    variance: Tensor
    kept: float
    eps: float
    leak: float

    def keep(self, mean: Any, variance: Any, n: int) -> None:
        """Take up mean and biased variance of ``n`` sites."""
        if getattr(_thread, "again", False):
            return
        for running, new in ((self.mean, mean), (self.variance, variance * n / (n - 1))):
            running.mul_(self.kept).add_(torch.from_numpy(new), alpha=1 - self.kept)


@dataclass(frozen=True)
class Scaling:
    """What a batch, or the running statistics, make of a layer: ``y = max(z, leak · z)``, ``z = x · scale + shift``.

    Attributes:
        scale, shift: (channels,) float32.
        mean, inverse: (channels,) float64 mean, and 1 / sqrt(variance + eps).
        leak: slope of the rectifier below 0.
        of_batch: whether mean and variance are the batch's, which the gradient then goes through.
    """

    scale: Any
    shift: Any
    mean: Any
    inverse: Any
    leak: Any
    of_batch: bool


def scaling_of(features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, of_batch: bool) -> Scaling:
    """The scaling of (sites, channels) float32; the running statistics take up the batch's."""
    x, n = as_array(features), len(features)
    if of_batch:
        sums = np.empty((-(-n // ROWS), 2, x.shape[1]))
        kernels.channel_sums(x, ROWS, sums)
        mean, square = sums.sum(axis=0) / n
        variance = np.maximum(square - mean * mean, 0.0)
        statistics.keep(mean, variance, n)
    else:
        mean, variance = (as_array(t).astype(np.float64) for t in (statistics.mean, statistics.variance))
    inverse = 1 / np.sqrt(variance + statistics.eps)
    scale = as_array(weight) * inverse
    shift = (as_array(bias) - mean * scale).astype(np.float32)
    return Scaling(scale.astype(np.float32), shift, mean, inverse, np.float32(statistics.leak), of_batch)


def apply(features: Tensor, scaling: Scaling) -> Tensor:
    """Scaled and rectified (sites, channels)."""
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    kernels.scale_and_rectify(as_array(features), scaling.scale, scaling.shift, scaling.leak, ROWS, out.numpy())
    return out


def gradients(
    features: Tensor, gradient: Tensor, scaling: Scaling, added: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the input (sites, channels), with ``added`` on top, of the weight and of the bias (channels,)."""
    x, g, n = as_array(features), as_array(gradient), len(features)
    scale, shift, mean, leak = scaling.scale, scaling.shift, scaling.mean, scaling.leak
    sums = np.empty((-(-n // ROWS), 2, x.shape[1]))
    kernels.rectified_sums(x, g, scale, shift, mean, leak, ROWS, sums)
    d_bias, d_weight = sums.sum(axis=0)
    d_weight *= scaling.inverse
    slope, offset = np.zeros_like(scale), np.zeros_like(scale)
    if scaling.of_batch:
        slope = (-scale * scaling.inverse * d_weight / n).astype(np.float32)
        offset = (-scale * d_bias / n).astype(np.float32)
    out = torch.empty_like(features, memory_format=torch.contiguous_format)
    kernels.rectified_gradient(
        x, g, scale, shift, mean.astype(np.float32), slope, offset, leak, ROWS, as_rows(added), out.numpy()
    )
    return out, torch.from_numpy(d_weight.astype(np.float32)), torch.from_numpy(d_bias.astype(np.float32))


class _NormReLU(torch.autograd.Function):
    """Keeps the input alone for the backward pass; what is behind the rectifier is found again from it."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, batch: bool
    ) -> Tensor:
        ctx.scaling = scaling_of(features, weight, bias, statistics, batch)
        ctx.save_for_backward(features)
        return apply(features, ctx.scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (features,) = ctx.saved_tensors
        return *gradients(features, gradient, ctx.scaling), None, None


def norm_relu(features: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, training: bool) -> Tensor:
    """Normalise (sites, channels) by the batch's mean and variance, or the running ones; leaky ReLU.

    The variance of fewer than two sites does not exist: they are normalised by the running ones.
    """
    of_batch = training and len(features) > 1
    if is_fused(features, weight, statistics.mean):
        out: Tensor = _NormReLU.apply(features, weight, bias, statistics, of_batch)  # type: ignore[no-untyped-call]
        return out
    mean, variance = statistics.mean, statistics.variance
    if getattr(_thread, "again", False):
        mean, variance = mean.clone(), variance.clone()
    y = functional.batch_norm(features, mean, variance, weight, bias, of_batch, 1 - statistics.kept, statistics.eps)
    return functional.leaky_relu(y, statistics.leak) if statistics.leak else functional.relu(y)
