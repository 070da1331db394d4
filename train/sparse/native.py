"""The native backend: gather, multiply, add. Fused in numba for float32 on the CPU, torch operations elsewhere.

The same input gives the same bits for any number of threads: sums are partitioned by output row, never by atomics. The
torch operations were run on CPUs only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.sparse import kernels
from train.sparse.rulebook import Pairs, Rules

BLOCKS_A_PART = 4
MOST_PARTS = 32  # partial sums of a weight's gradient: their number follows from the sites, not from the threads


def is_fused(*tensors: Tensor) -> bool:
    """Whether the numba kernels can work on these tensors."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor of the CPU as an array that kernels can index."""
    array: npt.NDArray[Any] = tensor.detach().contiguous().numpy()
    return array


def as_rows(tensor: Tensor | None) -> npt.NDArray[np.float32]:
    """The same; None as an array without rows."""
    return np.empty((0, 1), np.float32) if tensor is None else as_array(tensor)


def multiply(features: Tensor, weight: Tensor, pairs: Pairs, added: Tensor | None = None) -> Tensor:
    """(outputs, Cout): for each output row the sum of features (inputs, Cin) times weight (volume, Cin, Cout).

    ``added`` (outputs, Cout) comes on top.
    """
    out = features.new_empty((pairs.n_outputs, weight.shape[2]))
    kernels.multiply(
        as_array(features), as_array(weight), pairs.rows, pairs.bounds, pairs.block, as_rows(added), out.numpy()
    )
    return out


def input_gradient(gradient: Tensor, weight: Tensor, rules: Rules, added: Tensor | None = None) -> Tensor:
    """(inputs, Cin): the same product with the opposite rules and transposed weights."""
    opposite, pairs = weight.transpose(1, 2), rules.backward
    if pairs is None:
        opposite, pairs = opposite.flip(0), rules.forward
    return multiply(gradient, opposite, pairs, added)


def weight_gradient(features: Tensor, gradient: Tensor, pairs: Pairs) -> Tensor:
    """(volume, Cin, Cout): for each offset the sum over pairs of features (Cin) ⊗ gradient (Cout)."""
    n_blocks = -(-pairs.n_outputs // pairs.block)
    n_parts = min(max(n_blocks // BLOCKS_A_PART, min(n_blocks, 2), 1), MOST_PARTS)
    parts = np.empty((n_parts, pairs.volume, features.shape[1], gradient.shape[1]), np.float32)
    kernels.weight_gradient(as_array(features), as_array(gradient), pairs.rows, pairs.bounds, parts)
    return torch.from_numpy(parts.sum(axis=0))


class _Fused(torch.autograd.Function):
    """The input's gradient is the same product with the opposite rules and transposed weights."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, rules: Rules) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        return multiply(features, weight, rules.forward)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        rules: Rules = ctx.rules
        for_features, for_weight, _ = ctx.needs_input_grad
        d_features = d_weight = None
        if for_features:
            d_features = input_gradient(gradient, weight, rules)
        if for_weight:
            d_weight = weight_gradient(features, gradient, rules.forward)
        return d_features, d_weight, None


def _by_offset(rules: Rules, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Input and output rows of each offset on a device."""
    key = f"by offset on {device}"
    if key not in rules.cache:
        pairs, starts = rules.by_offset()
        rows = torch.from_numpy(pairs).to(device)
        rules.cache[key] = [(part[:, 0], part[:, 1]) for part in torch.split(rows, np.diff(starts).tolist())]
    found: list[tuple[Tensor, Tensor]] = rules.cache[key]
    return found


class _Indexed(torch.autograd.Function):
    """The same by torch's operations, an offset at a time, so that no output row is added to twice at once."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, rules: Rules) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        out = features.new_zeros((rules.forward.n_outputs, weight.shape[2]))
        for k, (inputs, outputs) in enumerate(_by_offset(rules, features.device)):
            out.index_add_(0, outputs, features.index_select(0, inputs) @ weight[k])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        for_features, for_weight, _ = ctx.needs_input_grad
        d_features = torch.zeros_like(features) if for_features else None
        d_weight = torch.zeros_like(weight) if for_weight else None
        for k, (inputs, outputs) in enumerate(_by_offset(ctx.rules, features.device)):
            met = gradient.index_select(0, outputs)
            if d_features is not None:
                d_features.index_add_(0, inputs, met @ weight[k].T)
            if d_weight is not None:
                d_weight[k] = features.index_select(0, inputs).T @ met
        return d_features, d_weight, None


def convolve(features: Tensor, weight: Tensor, rules: Rules) -> Tensor:
    """Apply a weight (volume, 1, Cin, Cout) along rules: (inputs, Cin) -> (outputs, Cout); differentiable in both.

    Under autocast, the CPU's kernels work in float32, other devices in autocast's type.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    function = _Fused if is_fused(features, weight) else _Indexed
    out: Tensor = function.apply(features, weight.squeeze(1), rules)  # type: ignore[no-untyped-call]
    return out
