"""The spconv backend: its gather, product and scatter along our pairs, so that nothing is hashed twice.

Written against spconv 2.3.8 (Apache-2.0, github.com/traveller59/spconv). The package "spconv" is its build for CPU,
which infers but cannot train; for CUDA there are packages such as "spconv-cu126". This file was run on CPU only. It
asks for CUDA where spconv needs it, but IT WAS NOT RUN ON A GPU: compare with the native backend before relying on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from larstore.errors import ConfigError
from train.sparse.adapters import import_package, nothing_meets
from train.sparse.rulebook import Rules

FIX = "pip install 'larstore[spconv]', or backend: native"
TYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.float32, torch.float16)}


def to_spconv(weight: torch.Tensor, filter_size: Sequence[int]) -> torch.Tensor:
    """Weight (volume, 1, Cin, Cout) in spconv's layout (Cout, x, y, z, Cin); contiguous."""
    c_in, c_out = weight.shape[2:]
    return weight.squeeze(1).permute(2, 0, 1).reshape(c_out, *filter_size, c_in).contiguous()


def from_spconv(weight: torch.Tensor) -> torch.Tensor:
    """Weight (Cout, x, y, z, Cin) of a spconv layer as ours, (volume, 1, Cin, Cout); contiguous."""
    c_out, c_in = weight.shape[0], weight.shape[-1]
    return weight.permute(1, 2, 3, 4, 0).reshape(-1, 1, c_in, c_out).contiguous()


def convolve(features: torch.Tensor, weight: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Apply weight (volume, 1, Cin, Cout) to features (n_in, Cin) along the rules: (n_out, Cout).

    Differentiable in both on CUDA; under autocast, spconv itself works in float16. Raises ConfigError when spconv, or
    its build for CUDA, is not installed, for a gradient on another device, and for types other than float32 and
    float64 (CUDA: float16).
    """
    functional = import_package("spconv.pytorch.functional", FIX)
    device = features.device.type
    gradient = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    cpu_build = import_package("spconv.cppconstants", FIX).CPU_ONLY_BUILD
    refuse_what_it_lacks(device, features.dtype, weight.dtype, gradient, cpu_build)
    pairs, counts = _pairs(rules, features.device)
    if pairs.shape[2] == 0:
        return nothing_meets(features, weight, rules)
    # Its submanifold product takes the middle offset as the site itself, which is so for odd filters alone.
    centred = rules.kind == "submanifold" and all(size % 2 for size in rules.filter_size)
    apply = functional.indice_subm_conv if centred else functional.indice_conv
    native = import_package("spconv.core", FIX).ConvAlgo.Native
    filters = to_spconv(weight, rules.filter_size)
    with _one_thread() if device == "cpu" else nullcontext():
        out: torch.Tensor = apply(features.contiguous(), filters, pairs, counts, len(rules.output_coords), native)
    return out


def refuse_what_it_lacks(
    device: str, features: torch.dtype, weight: torch.dtype, gradient: bool, cpu_build: bool
) -> None:
    """ConfigError for a device ("cpu", "cuda", …), types or a gradient that spconv does not compute."""
    if device == "cuda" and cpu_build:
        raise ConfigError(
            "backend spconv: the installed package spconv is its build for CPU. Fix: pip uninstall spconv cumm, then "
            "install the build for your CUDA, such as spconv-cu126; or backend: native"
        )
    if device != "cuda" and gradient:
        raise ConfigError(
            f"backend spconv: spconv trains on CUDA only; on {device} it infers, under torch.no_grad(). "
            "Fix: backend: native, which trains on both"
        )
    casts = device == "cuda" and torch.is_autocast_enabled("cuda")
    if not casts and not (features == weight and features in TYPES.get(device, ())):
        raise ConfigError(
            f"backend spconv: features of {features} and a weight of {weight} on {device} are not what spconv "
            "computes with. Fix: float32 without autocast, or backend: native"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """On CPU, threads of spconv's scatter write over each other's rows: several give other numbers at each call.

    Its OpenMP is torch's, whose number of threads numba changes as well, so that an OMP_NUM_THREADS would not do.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pairs(rules: Rules, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output rows (2, volume, most pairs of an offset) filled up with −1, and how many each offset has."""
    key = ("spconv", rules.kind, str(device))  # both directions may share one cache
    if key not in rules.cache:
        pairs, starts = rules.by_offset()
        counts = np.diff(starts)
        table = np.full((2, len(counts), int(counts.max(initial=0))), -1, np.int32)
        offset = np.repeat(np.arange(len(counts)), counts)
        table[:, offset, np.arange(len(pairs)) - starts[offset]] = pairs.T
        rules.cache[key] = tuple(torch.from_numpy(part).to(device) for part in (table, counts.astype(np.int32)))
    found: tuple[Any, Any] = rules.cache[key]
    return found
