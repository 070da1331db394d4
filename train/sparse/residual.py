"""A residual block as one function, for the native backend on the CPU: half of the memory, and no passes for sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.sparse import norm
from train.sparse.native import input_gradient, multiply, weight_gradient
from train.sparse.norm import Statistics
from train.sparse.rulebook import Rules

Norm = tuple[Tensor, Tensor, Statistics]  # weight, bias, running statistics


class _Residual(torch.autograd.Function):
    """Keeps the inputs of the two normalisations alone; their outputs are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight_1: Tensor, bias_1: Tensor, conv_1: Tensor, weight_2: Tensor, bias_2: Tensor,
        conv_2: Tensor, linear: Tensor | None, statistics: tuple[Statistics, Statistics], training: bool,
        rules: tuple[Rules, Rules],
    ) -> Tensor:  # fmt: skip
        ctx.first = norm.scaling_of(features, weight_1, bias_1, statistics[0], training)
        middle = multiply(norm.apply(features, ctx.first), conv_1, rules[0].forward)
        ctx.second = norm.scaling_of(middle, weight_2, bias_2, statistics[1], training)
        ctx.save_for_backward(features, middle, conv_1, conv_2, linear)
        ctx.rules = rules
        inside = norm.apply(middle, ctx.second)
        del middle
        beside = features if linear is None else multiply(features, linear, rules[1].forward)
        return multiply(inside, conv_2, rules[0].forward, beside)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        features, middle, conv_1, conv_2, linear = ctx.saved_tensors
        rules, ones = ctx.rules
        d_conv_2 = weight_gradient(norm.apply(middle, ctx.second), gradient, rules.forward)
        inner = input_gradient(gradient, conv_2, rules)
        inner, d_weight_2, d_bias_2 = norm.gradients(middle, inner, ctx.second)
        d_conv_1 = weight_gradient(norm.apply(features, ctx.first), inner, rules.forward)
        inner = input_gradient(inner, conv_1, rules)
        d_linear, beside = None, gradient
        if linear is not None:
            d_linear = weight_gradient(features, gradient, ones.forward)
            beside = input_gradient(gradient, linear, ones)
        d_features, d_weight_1, d_bias_1 = norm.gradients(features, inner, ctx.first, beside)
        return (
            d_features, d_weight_1, d_bias_1, d_conv_1, d_weight_2, d_bias_2, d_conv_2, d_linear, None, None, None,
        )  # fmt: skip


def residual(
    features: Tensor, norms: Sequence[Norm], convolutions: tuple[Tensor, Tensor], linear: Tensor | None,
    rules: Rules, ones: Rules, training: bool,
) -> Tensor:  # fmt: skip
    """``x · linear + conv₂(norm₂(conv₁(norm₁(x))))``: (sites, Cin) -> (sites, Cout), float32 on the CPU.

    Convolution weights (volume, 1, …), ``linear`` (Cin, Cout), None for x itself; ``rules`` of the filter, ``ones`` of
    a filter of one cell.
    """
    (weight_1, bias_1, first), (weight_2, bias_2, second) = norms
    conv_1, conv_2 = (weight.squeeze(1) for weight in convolutions)
    out: Tensor = _Residual.apply(  # type: ignore[no-untyped-call]
        features, weight_1, bias_1, conv_1, weight_2, bias_2, conv_2, None if linear is None else linear[None],
        (first, second), training, (rules, ones),
    )  # fmt: skip
    return out
