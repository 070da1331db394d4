"""What a network's convolutions are measured against: the same products as thin `torch.mm`, gathered already."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import nn

from train.sparse.layers import InputLayer
from train.sparse.rulebook import Rules


@dataclass(frozen=True)
class Products:
    """Of all convolutions and linear maps of a network: seconds of the thin products, and floating-point operations."""

    forward: float
    backward: float
    forward_flop: float
    backward_flop: float


Calls = dict[tuple[int, int, int], tuple[Rules, int]]


def convolutions_of(model: nn.Module, coords: torch.Tensor, features: torch.Tensor) -> Calls:
    """The rules of each convolution and how often they are used, by (rules, Cin, Cout)."""
    (entrance,) = [module for module in model.modules() if isinstance(module, InputLayer)]
    convolve, seen, rules_of = entrance.convolve, Counter(), {}

    def watched(features, weight, rules):
        key = id(rules), weight.shape[2], weight.shape[3]
        seen[key] += 1
        rules_of[key] = rules
        return convolve(features, weight, rules)

    entrance.convolve = watched
    try:
        with torch.no_grad():
            model(coords, features)
    finally:
        entrance.convolve = convolve
    return {key: (rules_of[key], count) for key, count in seen.items()}


def best(call: Callable[[], object], rounds: int = 5) -> float:
    """The least seconds of several calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return min(seconds)


def thin_products(calls: Calls, inputs: int) -> Products:
    """Seconds of the products, forward and backward, with as many threads as torch has; none for the inputs' gradient.

    ``inputs``: features of a voxel; the first layer needs no gradient for them.
    """
    forward = backward = forward_flop = backward_flop = 0.0
    for (_, c_in, c_out), (rules, times) in calls.items():
        _, starts = rules.by_offset()
        rows = np.diff(starts).tolist()
        x = [torch.randn(n, c_in) for n in rows]
        g = [torch.randn(n, c_out) for n in rows]
        w = torch.randn(len(rows), c_in, c_out)
        flop = 2.0 * sum(rows) * c_in * c_out * times
        forward += times * _seconds(x, list(w), [torch.empty(n, c_out) for n in rows])
        forward_flop += flop
        backward += times * _seconds([part.T for part in x], g, [torch.empty(c_in, c_out) for _ in rows])
        backward_flop += flop
        if c_in != inputs:
            opposite = list(w.transpose(1, 2).contiguous())
            backward += times * _seconds(g, opposite, [torch.empty(n, c_in) for n in rows])
            backward_flop += flop
    return Products(forward, backward, forward_flop, backward_flop)


def _seconds(left: list[torch.Tensor], right: list[torch.Tensor], out: list[torch.Tensor]) -> float:
    def run() -> None:
        for a, b, c in zip(left, right, out, strict=True):
            torch.mm(a, b, out=c)

    return best(run)


def square_product(n: int = 1536) -> float:
    """Floating-point operations a second of a large `torch.mm`."""
    a = torch.randn(n, n)
    out = torch.empty_like(a)
    return 2.0 * n**3 / best(lambda: torch.mm(a, a, out=out))
