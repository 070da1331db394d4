"""Start from the weights of another run: what fits by name and shape is taken over, parts of it may be frozen."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from larstore.errors import ConfigError
from train.records.folder import RunFolder, checkpoint_of
from train.resuming.checkpoint import load_checkpoint, model_weights
from train.resuming.same_inputs import check_inputs
from train.schema import Config, TransferConfig

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class Transferred:
    """What became of each tensor, by name; ``differing`` also says both shapes.

    Attributes:
        origin: the checkpoint.
        taken: taken over.
        differing: in both, of another shape; stays as it was drawn.
        missing: not in the checkpoint; stays as it was drawn.
        left_over: in the checkpoint alone.
        excluded: kept out by ``train.transfer.exclude``.
    """

    origin: str
    taken: list[str]
    differing: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """All counts in a line."""
        n_own = len(self.taken) + len(self.differing) + len(self.missing) + len(self.excluded)
        counts = {
            "of another shape": self.differing,
            "missing in the checkpoint": self.missing,
            "left over there": self.left_over,
            "excluded": self.excluded,
        }
        others = "".join(f", {len(names)} {what}" for what, names in counts.items() if names)
        return f"{self.origin}: {len(self.taken)} of {n_own} tensors taken over{others}"

    def lines(self) -> list[str]:
        """A line for each tensor."""
        return [
            *(f"transfer: taken over: {name}" for name in self.taken),
            *(f"transfer: of another shape: {name}, {shapes}" for name, shapes in self.differing.items()),
            *(f"transfer: missing in the checkpoint: {name}" for name in self.missing),
            *(f"transfer: left over in the checkpoint: {name}" for name in self.left_over),
            *(f"transfer: excluded: {name}" for name in self.excluded),
        ]


def transfer(model: nn.Module, config: Config, wanted: TransferConfig) -> Transferred:
    """Take over the tensors whose names and shapes match, from a checkpoint file or the last one of a run.

    Raises:
        ConfigError: no filter fits, a pattern matches nothing, or the weights are of other inputs.
        InputError: the checkpoint cannot be read.
    """
    path = checkpoint_of(wanted.path)
    content = load_checkpoint(path)
    check_inputs(content, config, str(path))
    weights, own = model_weights(content), model.state_dict()
    excluded = _matching(own, wanted.exclude, "train.transfer.exclude")
    common = [name for name in own if name in weights and name not in excluded]
    found = Transferred(
        origin=str(path),
        taken=[name for name in common if own[name].shape == weights[name].shape],
        differing={
            name: f"{tuple(own[name].shape)} here, {tuple(weights[name].shape)} there"
            for name in common
            if own[name].shape != weights[name].shape
        },
        missing=[name for name in own if name not in weights and name not in excluded],
        left_over=[name for name in weights if name not in own],
        excluded=excluded,
    )
    if not any(own[name].ndim > 1 for name in found.taken):  # a bias fits any network
        raise ConfigError(f"{path}: none of its filters fits the model. Fix: correct train.transfer or model")
    model.load_state_dict({name: weights[name] for name in found.taken}, strict=False)
    return found


def freeze(model: nn.Module, wanted: bool | Sequence[str], taken: Sequence[str]) -> list[str]:
    """Exclude parameters from training: those that match a pattern, or with True all that were ``taken`` over.

    Returns their names. Raises ConfigError for a pattern that matches none, or if none is left to train.
    """
    parameters = dict(model.named_parameters())
    if isinstance(wanted, bool):
        names = [name for name in parameters if wanted and name in set(taken)]
    else:
        names = _matching(parameters, wanted, "train.transfer.freeze")
    _hold(parameters, names)
    return names


def freeze_again(model: nn.Module, names: Sequence[str], config: Config, origin: str) -> list[str]:
    """Freeze what was frozen when the checkpoint ``origin`` was written; its optimiser knows the others alone.

    Raises ConfigError where the configuration now asks for something else.
    """
    wanted = config.train.transfer.freeze if config.train.transfer is not None else False
    parameters = dict(model.named_parameters())
    now = set(_matching(parameters, wanted, "train.transfer.freeze")) if isinstance(wanted, list) else set(names)
    if now != set(names) or (isinstance(wanted, bool) and wanted != bool(names)):
        raise ConfigError(
            f"train.transfer.freeze: {origin} was trained with {len(names)} frozen tensors, now others are. "
            f"Fix: restore it, or a new output_dir and train.transfer.from: {origin}"
        )
    _hold(parameters, names)
    return list(names)


def hold_norms(model: nn.Module, frozen: Iterable[str]) -> None:
    """Keep normalisations in evaluation whose parameters are all frozen: their running statistics stay, too."""
    frozen = set(frozen)
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)]
        if own and hasattr(module, "running_mean") and frozen.issuperset(own):
            module.eval()


def log_transfer(found: Transferred | None, model: nn.Module, frozen: Sequence[str], folder: RunFolder) -> None:
    """Tell what was taken over and frozen; the list of all tensors goes into the run's log file alone."""
    if found is not None:
        whole = not (found.differing or found.missing or found.left_over)
        log.log(logging.INFO if whole else logging.WARNING, found.summary())
        handler = folder.log_handler()
        for line in found.lines():
            handler.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None))
        handler.close()
    if frozen:
        sizes: dict[str, Any] = {name: p.numel() for name, p in model.named_parameters()}
        n_frozen = sum(sizes[name] for name in frozen)
        log.info(
            "frozen: %d tensors with %d parameters; %d are trained",
            len(frozen),
            n_frozen,
            sum(sizes.values()) - n_frozen,
        )
        drawn = [name for name in frozen if found is not None and name not in found.taken]
        if drawn:
            log.warning("frozen, but not taken over: %d tensors stay as they were drawn (%s …)", len(drawn), drawn[0])


def _hold(parameters: dict[str, nn.Parameter], names: Sequence[str]) -> None:
    for name in names:
        parameters[name].requires_grad = False
    if names and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError("train.transfer.freeze: no parameter is left to train. Fix: freeze fewer")


def _matching(names: Iterable[str], patterns: Sequence[str], key: str) -> list[str]:
    """The names that match any pattern. Raises ConfigError for a pattern that matches none."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(sorted({name.partition(".")[0] + ".*" for name in names}))
            raise ConfigError(f"{key}: {pattern!r} matches nothing in the model. Fix: for example one of {shown}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
