"""The sparseconvnet backend: SparseConvNet's own rules and products (github.com/facebookresearch/SparseConvNet, BSD).

The package is not published as such and its sources are no longer maintained; this file is for those who have it. Its
Metadata hashes the sites again and numbers coarse sites in its own order, so that rows are permuted on the way. It was
compared with the native backend on CPU; it has not been run on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from larstore.errors import ConfigError
from train.sparse.adapters import import_package, nothing_meets
from train.sparse.rulebook import Rules

FIX = "install it from github.com/facebookresearch/SparseConvNet, or backend: native"
DIMENSION = 3


def convolve(features: torch.Tensor, weight: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Apply weight (volume, 1, Cin, Cout) to features (n_in, Cin) along the rules: (n_out, Cout); differentiable.

    Raises ConfigError when the package is not installed, for types other than float32, and for a strided or
    transposed convolution between levels of the same extent.
    """
    import_package("sparseconvnet", FIX)
    if not features.dtype == weight.dtype == torch.float32:
        raise ConfigError(
            f"backend sparseconvnet: features of {features.dtype} and a weight of {weight.dtype}, but SparseConvNet "
            "computes in float32. Fix: float32 without autocast, or backend: native"
        )
    if not len(rules.input_coords) or not len(rules.output_coords):
        return nothing_meets(features, weight, rules)
    features, weight, no_bias = features.contiguous(), weight.contiguous(), features.new_empty(0)
    size, filter_size = _long(rules.input_size), _long(rules.filter_size)
    if rules.kind == "submanifold":
        (metadata,) = _known(rules, "sites", lambda: (_metadata(rules.input_coords, rules.input_size),))
        function = _function("submanifoldConvolution", "SubmanifoldConvolutionFunction")
        out: torch.Tensor = function.apply(features, weight, no_bias, metadata, size, DIMENSION, filter_size)
        return out
    metadata, theirs, ours = _known(rules, "levels", lambda: _levels(rules))
    places = (metadata, size, _long(rules.output_size), DIMENSION, filter_size, _long(rules.stride))
    if rules.kind == "strided":
        out = _function("convolution", "ConvolutionFunction").apply(features, weight, no_bias, *places)
        return out.index_select(0, theirs.to(out.device))
    features = features.index_select(0, ours.to(features.device))
    out = _function("deconvolution", "DeconvolutionFunction").apply(features, weight, no_bias, *places)
    return out


def _known(rules: Rules, what: str, make: Any) -> Any:
    """What was made for these rules before; both directions may share one cache, and what is kept serves both."""
    key = ("sparseconvnet", what)
    if key not in rules.cache:
        rules.cache[key] = make()
    return rules.cache[key]


def _function(module: str, name: str) -> Any:
    return getattr(import_package(f"sparseconvnet.{module}", FIX), name)


def _long(numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def _numbered(events: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Events numbered from 0 without gaps as they come in ``among``: Metadata has a table for each number."""
    return np.searchsorted(np.unique(among), events)


def _metadata(coords: npt.NDArray[np.int64], size: tuple[int, int, int]) -> Any:
    """Their table of these sites, in the order of our rows."""
    events = _numbered(coords[:, 3], coords[:, 3])
    metadata = import_package("sparseconvnet", FIX).Metadata(DIMENSION)
    rows = torch.from_numpy(np.column_stack([events, coords[:, :3]]))
    metadata.createMetadataForDenseToSparse(_long(size), rows, int(events[-1]) + 1)
    return metadata


def _levels(rules: Rules) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Metadata with both levels; (n,) their row of each of our coarse sites, and our row of each of theirs."""
    fine, fine_size = rules.input_coords, rules.input_size
    coarse, coarse_size = rules.output_coords, rules.output_size
    if rules.kind == "transposed":
        fine, fine_size, coarse, coarse_size = coarse, coarse_size, fine, fine_size
    if fine_size == coarse_size:
        raise ConfigError(
            f"backend sparseconvnet: a convolution of filter {rules.filter_size}, stride {rules.stride} keeps the "
            f"extent {fine_size}, but SparseConvNet knows levels by their extent. Fix: backend: native"
        )
    metadata = _metadata(fine, fine_size)
    # A convolution with one channel makes them find the coarse sites.
    volume = int(np.prod(rules.filter_size))
    with torch.no_grad():
        _function("convolution", "ConvolutionFunction").apply(
            torch.zeros(len(fine), 1),
            torch.zeros(volume, 1, 1, 1),
            torch.empty(0),
            metadata,
            _long(fine_size),
            _long(coarse_size),
            DIMENSION,
            _long(rules.filter_size),
            _long(rules.stride),
        )
    found = metadata.getSpatialLocations(_long(coarse_size)).numpy()
    theirs = np.lexsort(found.T[[2, 1, 0, 3]])
    wanted = np.column_stack([coarse[:, :3], _numbered(coarse[:, 3], fine[:, 3])])
    if not np.array_equal(found[theirs], wanted):
        raise RuntimeError(f"SparseConvNet found {len(found)} coarse sites, not the {len(coarse)} of the rules")
    return metadata, torch.from_numpy(theirs), torch.from_numpy(np.argsort(theirs))
