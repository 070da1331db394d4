"""Networks by name, as the ``model:`` block of a configuration asks for them."""

import inspect
import logging
from typing import Any

from torch import nn

from larstore.errors import ConfigError
from larstore.settings import did_you_mean
from train.models.cellnet import BinarySparseCellNet, ChargeSparseCellNet, SparseCellNet
from train.models.multitask import MultiTaskSparseCellNet
from train.objective.torch_losses import OF_LOGITS

log = logging.getLogger("larstore.train")
MODELS: dict[str, type[SparseCellNet]] = {
    "cellnet": SparseCellNet,
    "cellnet_binary": BinarySparseCellNet,
    "cellnet_charge": ChargeSparseCellNet,
    "cellnet_multi": MultiTaskSparseCellNet,
}
# The research code's configurations name modules, ours classes too.
ALIASES = {"cellnet_sparse": "cellnet"} | {model.__name__: name for name, model in MODELS.items()}
__all__ = [
    "MODELS",
    "BinarySparseCellNet",
    "ChargeSparseCellNet",
    "MultiTaskSparseCellNet",
    "SparseCellNet",
    "build_model",
    "check_scores",
    "outputs_of",
]


def arguments_of(model: type[SparseCellNet]) -> dict[str, inspect.Parameter]:
    """Arguments of a model and of the net below it, by name."""
    own = inspect.signature(model).parameters | inspect.signature(SparseCellNet).parameters
    return {name: p for name, p in own.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def build_model(block: dict[str, Any]) -> nn.Module:
    """The network of a configuration's ``model:`` block: ``name`` and the arguments of its class.

    ``model(coords, features)``: coords (n, 4) int64 x, y, z, event in the batch, features (n, nInputFeatures) ->
    (n, outputs) in the input's order; one output, two (score, charge) of cellnet_multi. Raises ConfigError for an
    unknown name, an unknown or a missing argument.
    """
    name = _name(block)
    settings = {key: value for key, value in block.items() if key != "name"}
    known = arguments_of(MODELS[name])
    unknown = sorted(set(settings) - set(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"model: {unknown[0]} is no argument of {name}. Fix: {hint}one of {', '.join(known)}")
    missing = [key for key, p in known.items() if p.default is p.empty and key not in settings]
    if missing:
        raise ConfigError(f"model: {missing[0]} is missing for {name}. Fix: add it")
    return MODELS[name](**settings)


def outputs_of(block: dict[str, Any]) -> tuple[str, ...]:
    """What inference keeps of the columns of a ``model:`` block's network. Raises ConfigError for an unknown name."""
    return MODELS[_name(block)].outputs


def check_scores(block: dict[str, Any], loss: str, takes_scores: bool) -> None:
    """Does the network give what the loss of that name takes? Raises ConfigError; what is only unwise is logged."""
    gives_scores, name = outputs_of(block)[0] == "score", _name(block)
    if takes_scores and not gives_scores:
        raise ConfigError(
            f"loss: {loss} takes scores from 0 to 1, {name} gives any number. Fix: model: cellnet_binary, or, for "
            "charges, a loss such as MSELoss"
        )
    if loss in OF_LOGITS and gives_scores:
        log.warning("loss: %s is made for outputs of any size, %s gives scores from 0 to 1: take BCELoss", loss, name)


def _name(block: dict[str, Any]) -> str:
    given = block.get("name")
    name = ALIASES.get(given, given) if isinstance(given, str) else given
    if name not in MODELS:
        hint = did_you_mean(str(given), (*MODELS, *ALIASES))
        raise ConfigError(f"model: name = {given!r} is unknown. Fix: {hint}one of {', '.join(MODELS)}")
    return str(name)
