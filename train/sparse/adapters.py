"""What the backends over other packages share: importing them, and convolutions in which nothing meets."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import torch

from larstore.errors import ConfigError
from train.sparse.rulebook import Rules


def import_package(module: str, fix: str) -> Any:
    """The module of another package, for the backend named like the package.

    Raises ConfigError with the ``fix`` when the package is not installed. A package that is there but does not load
    raises its own ImportError.
    """
    if (loaded := sys.modules.get(module)) is not None:
        return loaded
    package = module.partition(".")[0]
    try:
        # spconv's build helper calls a function of the standard library that will be gone in Python 3.15.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module(package)  # alone, to tell its absence from that of something it needs
            return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        raise ConfigError(f"backend {package}: package {package} is not installed. Fix: {fix}") from missing


def nothing_meets(features: torch.Tensor, weight: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Zeros (n_out, Cout) whose gradients are zeros: other packages stop at rules without any pair."""
    no_rows = features[:0] @ weight[0, 0]
    return torch.cat([no_rows, no_rows.new_zeros((len(rules.output_coords), weight.shape[3]))])
