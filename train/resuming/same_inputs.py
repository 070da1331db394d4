"""Weights go on only with the inputs they were trained on: the same planes in the same order, scaled alike."""

from typing import Any

from larstore.errors import ConfigError
from train.config import make_config
from train.schema import ChargeConfig, Config


def check_inputs(checkpoint: dict[str, Any], config: Config, origin: str) -> None:
    """Compare a checkpoint's inputs with those of a run, whose ``data.input_planes`` is set.

    A checkpoint without ``input_planes`` is an older one of ours: it took the planes in the order of the stores, which
    was u, v, w.

    Raises:
        ConfigError: the weights were trained on other planes, another order or scale of them.
    """
    trained, data = make_config(checkpoint["larstore"]["config"], origin).data, config.data
    planes = trained.input_planes or data.input_planes
    if (planes, trained.charge) != (data.input_planes, data.charge):
        raise ConfigError(
            f"{origin}: its weights take {_inputs(planes, trained.charge)}; this run has "
            f"{_inputs(data.input_planes, data.charge)}. Fix: data.input_planes: [{', '.join(planes or ())}] and "
            f"data.charge: {{transform: {trained.charge.transform}, scale: {trained.charge.scale:g}}}"
        )


def check_resumable(checkpoint: dict[str, Any], origin: str) -> None:
    """Refuse (ConfigError) to go on with a run from imported weights: there is nothing else of the run."""
    if "imported" in checkpoint["larstore"]:
        raise ConfigError(
            f"{origin}: imported weights alone, without optimiser and position. "
            f"Fix: a new output_dir, and train.transfer: {origin} instead of --resume"
        )


def check_same_steps(checkpoint: dict[str, Any], config: Config, origin: str) -> None:
    """Refuse (ConfigError) another optimiser, or course of its rate: the state of the old one would win, untold."""
    before = make_config(checkpoint["larstore"]["config"], origin)
    # One cycle sets each step's rate from the configuration's, the others go on from the one before.
    keeps = checkpoint["larstore"].get("schedule") is not None or config.trainer.name != "one_cycle"
    for key, matters in (("optimizer", True), ("trainer", keeps)):
        then, now = (getattr(each, key).model_dump(mode="json") for each in (before, config))
        if matters and then != now:
            raise ConfigError(
                f"{key}: {origin} was trained with {then}, which --resume goes on with; now it is {now}. "
                f"Fix: restore it, or a new output_dir and train.transfer.from: {origin}"
            )


def _inputs(planes: list[str] | None, charge: ChargeConfig) -> str:
    return f"planes {', '.join(planes or ())} as {charge.transform}({charge.scale:g} × charge)"
