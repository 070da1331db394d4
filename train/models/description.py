"""What a network costs before it has run: parameters, receptive field, multiply-adds, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from larstore.errors import ConfigError
from train.models.cellnet import SparseCellNet
from train.models.receptive import receptive_field
from train.sparse import layers, rulebook
from train.sparse.tensor import Sites, Triple, sort_sites

VOXELS = 10_000  # that costs are given for
FLOAT = 4  # bytes of a float32

# Of a simulated ProtoDUNE-SP event (8 muons, 2000 electrons a tick, downsample 8, 4, 4; tests/benchmarks/bench_sparse):
# a filter of V cells meets about V^0.73 sites, and windows of stride s leave about 1 site of s^0.6.
MET = 0.73
LEFT = 0.6


@dataclass(frozen=True)
class Description:
    """What `describe` found; ``str()`` of it is two lines to read.

    Attributes:
        parameters, trainable: numbers that make up the network; those of them that a training changes.
        receptive_field: voxels along x, y, z, see `train.models.receptive.receptive_field`.
        multiply_adds: of a forward pass over 10,000 voxels; one is two floating-point operations.
        training_bytes, inference_bytes: features in memory for 10,000 voxels, float32.
        voxels: of the image that these were counted on; None if they are estimated.
    """

    parameters: int
    trainable: int
    receptive_field: tuple[int, int, int]
    multiply_adds: float
    training_bytes: float
    inference_bytes: float
    voxels: int | None

    def __str__(self) -> str:
        trained = "all" if self.trainable == self.parameters else f"{self.trainable:,}"
        field = " × ".join(map(str, self.receptive_field))
        source = "estimated" if self.voxels is None else f"counted on an image of {self.voxels:,}"
        return (
            f"{self.parameters:,} parameters ({trained} trained), receptive field {field} voxels\n"
            f"per {VOXELS:,} voxels ({source}): {_millions(self.multiply_adds)} M multiply-adds forward, "
            f"{_millions(self.training_bytes)} MB of features kept in training, "
            f"{_millions(self.inference_bytes)} MB at a time in inference"
        )


def _millions(number: float) -> str:
    """Three digits of it."""
    return f"{float(f'{number / 1e6:.3g}'):,g}"


def describe(model: SparseCellNet, coords: torch.Tensor | None = None) -> Description:
    """Count what a network costs, without running it.

    Multiply-adds are those of convolutions and linear maps: Cin × Cout for each pair of an input and an output that
    a filter brings together; normalisation, ReLU, sums and the search for neighbours are not counted. Memory is
    that of features: in training what the backward pass needs (the inputs of convolutions, linear maps and
    normalisations, each once; where a level recomputes, the inputs of its blocks, without those of the one that is
    being worked on), in inference the most that exist at one time. The rules (who meets whom), weights and
    what a kernel uses in between come on top.

    Args:
        model: a network of `train.models`.
        coords: (n, 4) int64 x, y, z, event of an image like those it is for. Costs per voxel depend on how many
            neighbours voxels have; with coords that is counted, without (or with none) a tiled image is assumed in
            which a filter of V cells meets V^0.73 sites and windows of stride s leave 1 site of s^0.6.

    Raises:
        InputError: coords that the network would refuse.
        ConfigError: a layer that is not of `train.sparse.layers`.
    """
    counted = coords is not None and len(coords) > 0
    rows = len(coords) if coords is not None and counted else VOXELS
    entrance = model.sparseModel[0]
    assert isinstance(entrance, layers.InputLayer)
    level: _Level = _TypicalLevel(rows)
    if coords is not None and counted:
        level = _RealLevel(sort_sites(coords, entrance.spatial_size)[0])
    first = next(module for module in model.modules() if isinstance(module, layers.SubmanifoldConvolution))
    costs = _Costs(rows)
    x: Any = _Features(level.n, first.weight.shape[2], level)
    for module in model.sparseModel:
        x = costs.run(module, x, ())
    for name, head in model.named_children():
        if name != "sparseModel":
            costs.run(head, x, ())
    scale = VOXELS / rows
    return Description(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        receptive_field=receptive_field(model),
        multiply_adds=costs.multiply_adds * scale,
        training_bytes=sum(kept.numbers for kept in costs.kept) * FLOAT * scale,
        inference_bytes=costs.peak * FLOAT * scale,
        voxels=rows if counted else None,
    )


class _Level(Protocol):
    """The sites of one resolution: how many, how many pairs a filter makes of them, and the next coarser level."""

    n: float

    def pairs(self, filter_size: Triple) -> float: ...

    def below(self, filter_size: Triple, stride: Triple) -> tuple[_Level, float]: ...


class _RealLevel:
    def __init__(self, sites: Sites) -> None:
        self.sites, self.n = sites, float(len(sites))
        self.known: dict[Any, Any] = {}

    def pairs(self, filter_size: Triple) -> float:
        if filter_size not in self.known:
            self.known[filter_size] = len(rulebook.submanifold(self.sites, filter_size))
        return float(self.known[filter_size])

    def below(self, filter_size: Triple, stride: Triple) -> tuple[_Level, float]:
        if (filter_size, stride) not in self.known:
            coarse, rules = rulebook.strided(self.sites, filter_size, stride)
            self.known[filter_size, stride] = _RealLevel(coarse), len(rules)
        found: tuple[_Level, float] = self.known[filter_size, stride]
        return found


class _TypicalLevel:
    def __init__(self, n: float) -> None:
        self.n = n

    def pairs(self, filter_size: Triple) -> float:
        met: float = math.prod(filter_size) ** MET
        return self.n * met

    def below(self, filter_size: Triple, stride: Triple) -> tuple[_Level, float]:
        volume, cells = math.prod(filter_size), math.prod(stride)
        return _TypicalLevel(self.n / cells**LEFT), self.n * volume / cells


@dataclass(frozen=True, eq=False)  # each is one array, equal only to itself
class _Features:
    rows: float
    channels: int
    level: _Level | None
    finer: tuple[_Level, ...] = ()
    learns: bool = False  # a weight that is trained has had a part in it
    is_normed: bool = False  # the output of a normalisation

    @property
    def numbers(self) -> float:
        return self.rows * self.channels


class _Costs:
    """Follows features through modules as their forward passes would, and adds up."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.multiply_adds = self.peak = 0.0
        self.kept: dict[_Features, None] = {}  # in order: a sum over a set would differ in its last digits

    def run(self, module: nn.Module, x: Any, waiting: tuple[_Features, ...]) -> Any:
        """Features behind a module; ``waiting``: those that its callers still hold."""
        match module:
            case layers.ConcatTable():
                done: list[_Features] = []
                before = dict(self.kept)
                for each in module:
                    done.append(self.run(each, x, (*waiting, x, *done)))
                if module.recompute and self.kept != before:
                    self.kept = before | {x: None}
                elif isinstance(module, layers.ResidualTable):  # what is behind a normalisation is found again
                    self.kept = {each: None for each in self.kept if each in before or not each.is_normed}
                return done
            case nn.Sequential():
                y = x
                for each in module:
                    y = self.run(each, y, (*waiting, x))
                return y
            case layers.AddTable() | layers.JoinTable():
                channels = x[0].channels if isinstance(module, layers.AddTable) else sum(part.channels for part in x)
                out = _Features(x[0].rows, channels, x[0].level, x[0].finer, any(part.learns for part in x))
                self._alive(*waiting, *x, out)
                return out
            case layers.Identity() | layers.InputLayer():
                return x
            case layers.OutputLayer():
                return self._made(x, _Features(self.rows, x.channels, None, (), x.learns), waiting, keeps=())
        learns = x.learns or any(p.requires_grad for p in module.parameters())
        match module:
            case layers.SubmanifoldConvolution():
                out = _Features(x.rows, module.weight.shape[3], x.level, x.finer, learns)
                return self._multiplied(module.weight, x.level.pairs(module.filter_size), x, out, waiting)
            case layers.Deconvolution():
                fine = x.finer[-1]
                _, pairs = fine.below(module.filter_size, module.stride)
                out = _Features(fine.n, module.weight.shape[3], fine, x.finer[:-1], learns)
                return self._multiplied(module.weight, pairs, x, out, waiting)
            case layers.Convolution():
                coarse, pairs = x.level.below(module.filter_size, module.stride)
                out = _Features(coarse.n, module.weight.shape[3], coarse, (*x.finer, x.level), learns)
                return self._multiplied(module.weight, pairs, x, out, waiting)
            case layers.NetworkInNetwork() | nn.Linear():
                channels = module.weight.shape[1 if isinstance(module, layers.NetworkInNetwork) else 0]
                out = _Features(x.rows, channels, x.level, x.finer, learns)
                return self._multiplied(module.weight, x.rows, x, out, waiting)
            case layers.BatchNormReLU():
                out = _Features(x.rows, x.channels, x.level, x.finer, learns, is_normed=True)
                return self._made(x, out, waiting, keeps=(x,))
            case nn.ReLU():
                out = _Features(x.rows, x.channels, x.level, x.finer, learns)
                return self._made(x, out, waiting, keeps=(out,))
        raise ConfigError(
            f"model: the costs of {type(module).__name__} are unknown. Fix: add it to train/models/description.py"
        )

    def _multiplied(
        self, weight: torch.Tensor, pairs: float, x: _Features, out: _Features, waiting: tuple[_Features, ...]
    ) -> _Features:
        self.multiply_adds += pairs * weight.shape[-1] * weight.shape[-2]
        return self._made(x, out, waiting, keeps=(x,))

    def _made(
        self, x: _Features, out: _Features, waiting: tuple[_Features, ...], keeps: tuple[_Features, ...]
    ) -> _Features:
        self._alive(*waiting, x, out)
        if out.learns:
            self.kept |= dict.fromkeys(keeps)
        return out

    def _alive(self, *features: _Features) -> None:
        self.peak = max(self.peak, sum(each.numbers for each in dict.fromkeys(features)))
