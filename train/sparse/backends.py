"""Which code does the convolutions of a network: ours, spconv's or sparseconvnet's. One file and one function each."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from larstore.errors import ConfigError
from train.sparse.layers import InputLayer
from train.sparse.tensor import Convolve

BACKENDS = ("native", "spconv", "sparseconvnet")


def use_backend(model: nn.Module, name: str, device: torch.device | str, *, training: bool = False) -> str:
    """Let a network's convolutions be done by a backend, for tensors on ``device``; returns which one and why.

    ``auto`` takes spconv for a GPU where it is installed, else native. Weights are the same for all of them.
    Raises ConfigError for an unknown name, a package that is not installed, or one that cannot train there.
    """
    kind = torch.device(device).type
    reason = "as asked for"
    if name == "auto":
        name, reason = _automatic(kind)
    convolve = load_backend(name)
    if training and name == "spconv" and kind != "cuda":
        raise ConfigError(f"backend spconv: it trains on CUDA only, on {kind} it infers. Fix: backend: native")
    for module in model.modules():
        if isinstance(module, InputLayer):
            module.convolve = convolve
    how = ""
    if name == "native":
        how = ", numba kernels" if kind == "cpu" else ", torch operations"
    return f"backend {name} on {kind}{how} ({reason})"


def _automatic(kind: str) -> tuple[str, str]:
    """The backend for a kind of device, and the reason."""
    if kind != "cuda":
        return "native", f"auto: on {kind}"
    if find_spec("spconv"):
        return "spconv", "auto: it is installed, and fast on a GPU"
    return "native", "auto: spconv, which is faster on a GPU, is not installed"


def load_backend(name: str) -> Convolve:
    """The convolution of a backend. Raises ConfigError."""
    if name not in BACKENDS:
        raise ConfigError(f"backend: {name!r} is unknown. Fix: auto, {', '.join(BACKENDS)}")
    if name != "native" and find_spec(name) is None:
        raise ConfigError(f"backend: the package {name} is not installed. Fix: install it, or backend: native")
    convolve: Convolve = import_module(f"train.sparse.{name}").convolve
    return convolve
