"""Checkpoints of the 2021 research code become checkpoints of ours, which say what the network takes as inputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from larstore.errors import ConfigError, InputError
from train.config import naming_file, with_inputs, with_planes
from train.models import build_model
from train.resuming.checkpoint import load_weights, read_tensors, sha256, write_checkpoint
from train.resuming.research_checkpoint import (
    LAST_TPC,
    PLANES,
    SCALE,
    WRAPPERS,
    epoch_of,
    find_weights,
    research_planes,
)
from train.runtime import versions
from train.schema import BasicTrainer, ChargeConfig, Config, TrainConfig


@dataclass(frozen=True)
class Imported:
    """What an import wrote: the checkpoint, its inputs, the epoch if known, the tensors, the origin's hash."""

    checkpoint: Path
    input_planes: tuple[str, ...]
    input_scale: float
    epoch: int | None
    tensors: int
    sha256: str


def import_checkpoint(
    old: str | Path,
    new: str | Path,
    config: Config,
    *,
    input_planes: Sequence[str] | None = None,
    tpc: int | None = None,
    input_scale: float = SCALE,
) -> Imported:
    """Write a checkpoint that `infer` and ``train.transfer`` take, of the weights in one of the research code.

    Exactly one of ``input_planes`` and ``tpc`` is given: the file does not say it, and nothing is guessed.

    Args:
        old: ``checkpoint_NNN.pth.tar``: a dict with the network's state dict, or that alone. Loaded without executing
            anything in it.
        new: the file to write; must not exist.
        config: its ``model`` block makes the network; ``data.z_segments`` and ``data.round`` are kept as well.
        input_planes: the planes in the order of the network's inputs.
        tpc: the ProtoDUNE-SP TPC it was trained on, whose order is taken: u, w, v of odd ones, v, w, u of even ones.
        input_scale: factor from electrons to its inputs.

    Raises:
        ConfigError: planes, TPC or scale that cannot be, a network that is not the model block's, ``new`` exists.
        InputError: ``old`` cannot be read, or holds no network of the research code.
    """
    planes, new = _planes(input_planes, tpc), Path(new)
    if not (math.isfinite(input_scale) and input_scale > 0):
        raise ConfigError(f"input_scale {input_scale:g}: not above 0. Fix: {SCALE}, which the research code had")
    if new.exists():
        raise ConfigError(f"{new}: exists, and is not overwritten. Fix: another name, or remove it")
    weights, epoch = _network(old)
    with naming_file(config):
        if config.data.input_planes not in (None, list(planes)):
            raise ConfigError(
                f"data.input_planes is [{', '.join(config.data.input_planes or ())}], the import is told "
                f"{','.join(planes)}. Fix: make them the same, or leave data.input_planes out"
            )
        record = _about_the_network(config, planes, input_scale)
        model = build_model(record.model.model_dump())
        load_weights(model, weights, str(old))
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{old}: {broken[0]} holds NaN or infinity. Fix: take an earlier epoch's checkpoint")
    origin = {"file": str(old), "sha256": sha256(old)}
    done = Imported(new, planes, input_scale, epoch, len(weights), origin["sha256"])
    about = {
        "config": record.plain(),
        "versions": versions(),
        "stores": [],
        "n_planes": len(planes),
        "imported": {**origin, "input_planes": list(planes), "input_scale": input_scale, "tpc": tpc},
    }
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    try:
        write_checkpoint({"epoch": done.epoch, "global_step": 0, "state_dict": tensors, "larstore": about}, new)
    except OSError as error:
        raise ConfigError(f"{new}: cannot be written ({error.strerror}). Fix: another place for it") from error
    return done


def _planes(input_planes: Sequence[str] | None, tpc: int | None) -> tuple[str, ...]:
    """The order, from whichever of both is given."""
    if (input_planes is None) == (tpc is None):
        raise ConfigError(
            f"{'neither' if tpc is None else 'both'} of input_planes and tpc given. Fix: one of them, for example "
            "--input-planes u,w,v, or --tpc 1 for the research code's order there"
        )
    if tpc is not None:
        if not 0 <= tpc <= LAST_TPC:
            raise ConfigError(f"tpc {tpc}: ProtoDUNE-SP has 0 to {LAST_TPC}. Fix: one of them, or --input-planes")
        return research_planes(tpc)
    planes = tuple(input_planes or ())
    if not planes or len(set(planes)) != len(planes) or not set(planes) <= set(PLANES):
        raise ConfigError(f"input_planes {','.join(planes)!r}: not planes, each once. Fix: for example u,w,v")
    return planes


def _network(path: str | Path) -> tuple[dict[str, torch.Tensor], int | None]:
    """The weights of the one network in a checkpoint, and its epoch if that is known."""
    content = read_tensors(path)
    if isinstance(content, dict) and "larstore" in content:
        raise InputError(
            f"{path}: is a checkpoint of larstore already. Fix: give it to infer or train.transfer as it is"
        )
    found = find_weights(content)
    if len(found) > 1:
        raise InputError(
            f"{path}: holds networks under {', '.join(map(repr, found))}. Fix: save the one that is meant alone: "
            "torch.save({'model': …}, FILE)"
        )
    if not found:
        held = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path}: holds no network of the research code (found: {held or 'nothing'}). Fix: a file whose state dict "
            f"has sparseModel.… names, under one of {', '.join(WRAPPERS)} or alone"
        )
    return next(iter(found.values())), epoch_of(content, path)


def _about_the_network(config: Config, planes: Sequence[str], scale: float) -> Config:
    """What of a configuration is true of the network; how it was trained is not known and left out."""
    charge = ChargeConfig(transform="linear", scale=scale)
    unknown = {"train_i": None, "inference_i": None, "coord_lim": None, "noise": None}
    data = config.data.model_copy(update={**unknown, "charge": charge})
    not_used: dict[str, Any] = {
        "trainer": BasicTrainer(),
        "store_inference": None,
        "loss": None,
        "optimizer": None,
        "metrics": {},
    }
    named = config.model_copy(update={**not_used, "train": TrainConfig(), "data": data})
    return with_inputs(with_planes(named, planes), len(planes))
