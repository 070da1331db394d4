"""Receptive field of a network: how far away an input voxel may lie and still change an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from larstore.errors import ConfigError
from train.models.cellnet import SparseCellNet
from train.sparse import layers

NOWHERE = 1 << 60  # first input of a position that no input reaches
Ints = npt.NDArray[np.int64]


def receptive_field(model: SparseCellNet) -> tuple[int, int, int]:
    """Voxels along x, y, z from the first to the last input that can change one output, where that is most.

    In evaluation, and where all voxels in between are active: nothing passes through inactive ones, so it is an upper
    limit in a sparse image. (In training the normalisation's means reach over the whole batch.) A submanifold filter
    f adds (f − 1) × the product of the strides above it; of branches the widest counts; how much filters behind a
    deconvolution add depends on where in its coarse cell a voxel lies, and here the worst place is taken. All this
    comes out of following the first and last input of each position through the modules, along a line long enough.
    """
    x, y, z = (_along(model.sparseModel, axis) for axis in range(3))
    return x, y, z


def _along(trunk: nn.ModuleList, axis: int) -> int:
    strided = [
        m for m in trunk.modules() if isinstance(m, layers.Convolution) and not isinstance(m, layers.Deconvolution)
    ]
    period = int(np.prod([m.stride[axis] for m in strided]))
    length = 64 * period
    while True:
        line = _Line(np.arange(length), np.arange(length))
        for module in trunk:
            line = _follow(module, line, axis)
        middle = slice(length // 2, length // 2 + period)
        first, last = line.first[middle], line.last[middle]
        if first.min() >= length // 4 and last.max() < 3 * length // 4:  # no end of the line has been felt
            return int((last - first).max()) + 1
        length *= 2


@dataclass(frozen=True)
class _Line:
    """For each position of a level its first and last input; ``finer``: lengths of the levels above, nearest last."""

    first: Ints
    last: Ints
    finer: tuple[int, ...] = ()


def _gather(line: _Line, pairs: list[tuple[slice, slice]], n: int, finer: tuple[int, ...]) -> _Line:
    """A level of ``n`` positions: for each offset of a filter, the outputs and the inputs that meet."""
    first, last = np.full(n, NOWHERE), np.full(n, -1)
    for outputs, inputs in pairs:
        first[outputs] = np.minimum(first[outputs], line.first[inputs])
        last[outputs] = np.maximum(last[outputs], line.last[inputs])
    return _Line(first, last, finer)


def _follow(module: nn.Module, line: Any, axis: int) -> Any:
    """The line (or lines) behind a module."""
    match module:
        case layers.ConcatTable():
            return [_follow(each, line, axis) for each in module]
        case nn.Sequential():
            for each in module:
                line = _follow(each, line, axis)
            return line
        case layers.AddTable() | layers.JoinTable():
            return _Line(
                np.min([part.first for part in line], axis=0),
                np.max([part.last for part in line], axis=0),
                line[0].finer,
            )
        case layers.SubmanifoldConvolution():
            n, f = len(line.first), module.filter_size[axis]
            shifts = range(-(f // 2), f - f // 2)
            pairs = [(slice(max(0, -s), n - max(0, s)), slice(max(0, s), n - max(0, -s))) for s in shifts]
            return _gather(line, pairs, n, line.finer)
        case layers.Deconvolution() | layers.Convolution():
            f, stride = module.filter_size[axis], module.stride[axis]
            up = isinstance(module, layers.Deconvolution)
            fine = line.finer[-1] if up else len(line.first)
            coarse = (fine - f) // stride + 1
            every = [(slice(k, k + (coarse - 1) * stride + 1, stride), slice(None)) for k in range(f)]
            if up:
                return _gather(line, every, fine, line.finer[:-1])
            return _gather(line, [(b, a) for a, b in every], coarse, (*line.finer, fine))
        case (
            layers.InputLayer()
            | layers.OutputLayer()
            | layers.BatchNormReLU()
            | layers.NetworkInNetwork()
            | layers.Identity()
        ):
            return line
    raise ConfigError(
        f"model: {type(module).__name__} has no receptive field. Fix: add it to train/models/receptive.py"
    )
