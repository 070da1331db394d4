"""Optimisers of torch.optim by name; those that cannot train these networks say why."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from larstore.errors import ConfigError
from larstore.settings import did_you_mean
from train.named import call_named
from train.schema import NamedSection

FUSED = ("Adam", "AdamW", "SGD")  # one kernel for all weights, on CPUs and GPUs
NOT_FOR_US = {
    "Muon": ("moves matrices only, the networks have filters and normalisations too", "AdamW"),
    "SparseAdam": ("takes sparse gradients, these are dense", "Adam"),
}


def optimiser_names() -> list[str]:
    """What ``optimizer.name`` may be, of this torch."""
    base = torch.optim.Optimizer
    found = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, base)}
    return sorted(found - {"Optimizer", *NOT_FOR_US})


def make_optimiser(
    section: NamedSection, parameters: Iterable[nn.Parameter], fused: bool = True
) -> torch.optim.Optimizer:
    """The optimiser of a configuration's block, for ``parameters``; with ``fused`` in one kernel where there is one.

    Raises ConfigError for a wrong name or argument.
    """
    name, arguments = section.name, section.arguments
    if name in NOT_FOR_US:
        reason, instead = NOT_FOR_US[name]
        raise ConfigError(f"optimizer: {name} {reason}. Fix: {instead}")
    valid = optimiser_names()
    if name not in valid:
        raise ConfigError(
            f"optimizer: {name!r} is not in torch.optim. Fix: {did_you_mean(name, valid)}one of {', '.join(valid)}"
        )
    make = getattr(torch.optim, name)
    if fused and name in FUSED and not {"foreach", "fused", "differentiable"} & set(arguments):
        make = partial(make, fused=True)
    made: torch.optim.Optimizer = call_named(make, name, arguments, "optimizer", parameters, hidden=("params",))
    return made
