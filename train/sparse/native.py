"""The native backend: gather, multiply, add. Fused in numba for float32 on the CPU, torch operations elsewhere.

A thread owns blocks of output rows, so there are no atomics and the result has the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange

from train.sparse.rulebook import Rules
from train.sparse.tiles import make_outer_tile, make_row_tile

BLOCK = 256  # output rows of a block: its sums stay in the cache
PARTS = 16  # partial sums of a weight gradient: fixed, whatever the number of threads

_four_16, _one_16 = make_row_tile(4, 16), make_row_tile(1, 16)
_four_8, _one_8 = make_row_tile(4, 8), make_row_tile(1, 8)
_four_4, _one_4 = make_row_tile(4, 4), make_row_tile(1, 4)
_four_1, _one_1 = make_row_tile(4, 1), make_row_tile(1, 1)
_outer_four_16, _outer_one_16 = make_outer_tile(4, 16), make_outer_tile(1, 16)
_outer_four_8, _outer_one_8 = make_outer_tile(4, 8), make_outer_tile(1, 8)
_outer_four_1, _outer_one_1 = make_outer_tile(4, 1), make_outer_tile(1, 1)


@njit(cache=True, nogil=True)
def _list_pairs(gather, k, begin, end, pairs):  # type: ignore[no-untyped-def]
    """Input and output rows that meet at offset k in a block; returns their number."""
    m = 0
    for o in range(begin, end):
        i = gather[o, k]
        if i >= 0:
            pairs[m, 0] = i
            pairs[m, 1] = o
            m += 1
    return m


@njit(cache=True, parallel=True, nogil=True)
def _multiply(features, weight, gather, out):  # type: ignore[no-untyped-def]
    """``out[o] += Σ_k features[gather[o, k]] · weight[k]``."""
    n, volume = gather.shape
    c_in, c_out = weight.shape[1], weight.shape[2]
    x, w, y = features.ctypes.data, weight.ctypes.data, out.ctypes.data
    for b in prange((n + BLOCK - 1) // BLOCK):
        pairs = np.empty((BLOCK, 2), np.int64)
        p = pairs.ctypes.data
        for k in range(volume):
            m = _list_pairs(gather, k, b * BLOCK, min((b + 1) * BLOCK, n), pairs)
            wk = w + 4 * k * c_in * c_out
            fours = m // 4 * 4
            d = 0
            while d < c_out:
                left = c_out - d
                if left >= 16:
                    for j in range(0, fours, 4):
                        _four_16(x, wk, y, p, j, c_in, c_out, d)
                    for j in range(fours, m):
                        _one_16(x, wk, y, p, j, c_in, c_out, d)
                    d += 16
                elif left >= 8:
                    for j in range(0, fours, 4):
                        _four_8(x, wk, y, p, j, c_in, c_out, d)
                    for j in range(fours, m):
                        _one_8(x, wk, y, p, j, c_in, c_out, d)
                    d += 8
                elif left >= 4:
                    for j in range(0, fours, 4):
                        _four_4(x, wk, y, p, j, c_in, c_out, d)
                    for j in range(fours, m):
                        _one_4(x, wk, y, p, j, c_in, c_out, d)
                    d += 4
                else:
                    for j in range(0, fours, 4):
                        _four_1(x, wk, y, p, j, c_in, c_out, d)
                    for j in range(fours, m):
                        _one_1(x, wk, y, p, j, c_in, c_out, d)
                    d += 1


@njit(cache=True, parallel=True, nogil=True)
def _weight_gradient(features, gradient, gather, parts):  # type: ignore[no-untyped-def]
    """``parts[p, k] += Σ features[gather[o, k]]ᵀ · gradient[o]`` over the p-th part of the rows."""
    n, volume = gather.shape
    c_in, c_out = features.shape[1], gradient.shape[1]
    x, g, y = features.ctypes.data, gradient.ctypes.data, parts.ctypes.data
    per_part = (n + parts.shape[0] - 1) // parts.shape[0]
    for part in prange(parts.shape[0]):
        pairs = np.empty((BLOCK, 2), np.int64)
        p = pairs.ctypes.data
        last = min((part + 1) * per_part, n)
        for begin in range(part * per_part, last, BLOCK):
            for k in range(volume):
                m = _list_pairs(gather, k, begin, min(begin + BLOCK, last), pairs)
                out = y + 4 * (part * volume + k) * c_in * c_out
                d = 0
                while d < c_out:
                    left = c_out - d
                    c = 0
                    while c < c_in:
                        four = c_in - c >= 4
                        if left >= 16:
                            if four:
                                _outer_four_16(x, g, out, p, m, c_in, c_out, c, d)
                            else:
                                _outer_one_16(x, g, out, p, m, c_in, c_out, c, d)
                        elif left >= 8:
                            if four:
                                _outer_four_8(x, g, out, p, m, c_in, c_out, c, d)
                            else:
                                _outer_one_8(x, g, out, p, m, c_in, c_out, c, d)
                        elif four:
                            _outer_four_1(x, g, out, p, m, c_in, c_out, c, d)
                        else:
                            _outer_one_1(x, g, out, p, m, c_in, c_out, c, d)
                        c += 4 if four else 1
                    d += 16 if left >= 16 else (8 if left >= 8 else 1)


def _fused(*tensors: torch.Tensor) -> bool:
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().contiguous().numpy()
    return array


def _rows(gather: npt.NDArray[np.int32], k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = np.flatnonzero(gather[:, k] >= 0)
    inputs = gather[outputs, k].astype(np.int64)
    return torch.from_numpy(inputs).to(device), torch.from_numpy(outputs).to(device)


def multiply(features: torch.Tensor, weight: torch.Tensor, gather: npt.NDArray[np.int32]) -> torch.Tensor:
    """(outputs, Cout) from features (inputs, Cin), weight (volume, Cin, Cout), gather (outputs, volume)."""
    out = features.new_zeros((len(gather), weight.shape[2]))
    if _fused(features, weight):
        _multiply(_array(features), _array(weight), gather, out.numpy())
        return out
    for k in range(weight.shape[0]):
        inputs, outputs = _rows(gather, k, features.device)
        out.index_add_(0, outputs, features.index_select(0, inputs) @ weight[k])
    return out


def weight_gradient(features: torch.Tensor, gradient: torch.Tensor, gather: npt.NDArray[np.int32]) -> torch.Tensor:
    """(volume, Cin, Cout): for each offset the sum over pairs of features (Cin) ⊗ gradient (Cout)."""
    shape = (gather.shape[1], features.shape[1], gradient.shape[1])
    if _fused(features, gradient):
        parts = np.zeros((PARTS, *shape), np.float32)
        _weight_gradient(_array(features), _array(gradient), gather, parts)
        return torch.from_numpy(parts.sum(axis=0))
    out = features.new_zeros(shape)
    for k in range(shape[0]):
        inputs, outputs = _rows(gather, k, features.device)
        out[k] = features.index_select(0, inputs).T @ gradient.index_select(0, outputs)
    return out


class _Convolve(torch.autograd.Function):
    """The input's gradient is the same product with transposed rules and weights."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, weight: torch.Tensor, rules: Rules) -> torch.Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        return multiply(features, weight, rules.gather)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        features, weight = ctx.saved_tensors
        for_features, for_weight, _ = ctx.needs_input_grad
        d_features = multiply(gradient, weight.transpose(1, 2), ctx.rules.scatter) if for_features else None
        d_weight = weight_gradient(features, gradient, ctx.rules.gather) if for_weight else None
        return d_features, d_weight, None


def convolve(features: torch.Tensor, weight: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Apply weight (volume, 1, Cin, Cout) along the rules; differentiable in features and weight."""
    out: torch.Tensor = _Convolve.apply(features, weight.squeeze(1), rules)  # type: ignore[no-untyped-call]
    return out
