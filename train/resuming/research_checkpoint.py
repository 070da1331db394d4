"""What the checkpoints of the 2021 research code hold, and in which order its networks took the planes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from larstore.errors import ConfigError
from train.records.folder import NAME

PLANES = ("u", "v", "w")
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights")
EPOCHS = ("epoch", "checkpoint_id")
SCALE = 0.001  # its wire values are electrons times this
DETECTOR = "protodune-sp"  # the only one it knew; also -2021
LAST_TPC = 11


def research_planes(tpc: int) -> tuple[str, str, str]:
    """The planes of a ProtoDUNE-SP TPC by increasing wire angle, as its networks took them: u, w, v or v, w, u."""
    return ("u", "w", "v") if tpc % 2 else ("v", "w", "u")


def find_weights(content: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Networks of the research code among the values of a checkpoint: under which key ("" = the file itself), weights.

    A network is a dict of tensors with names like ``sparseModel.2.0…``, maybe behind the ``module.`` of
    DistributedDataParallel; a net in a net (``sparseModel.sparseModel.…``) has the same layers. Names are ours.
    """
    if not isinstance(content, Mapping):
        return {}
    candidates = {"": content} | {key: content[key] for key in WRAPPERS if key in content}
    return {key: _with_our_names(values) for key, values in candidates.items() if _is_network(values)}


def epoch_of(content: Mapping[str, Any], path: str | Path) -> int | None:
    """The epoch that a checkpoint was written after: its own entry, else the number in its name; None = not known."""
    for key in EPOCHS:
        if type(content.get(key)) is int:
            return int(content[key])
    match = NAME.fullmatch(Path(path).name)
    return int(match[1]) if match else None


def check_tpcs(imported: Mapping[str, Any], detector: str, tpcs: Iterable[int], origin: str) -> None:
    """Refuse images of the other side of ProtoDUNE-SP, where the research code gave the planes in another order.

    Only where the checkpoint was imported for a TPC: who named the planes has decided for all. Raises ConfigError.
    """
    tpc = imported.get("tpc")
    if tpc is None or not detector.startswith(DETECTOR):
        return
    other = sorted({int(n) for n in tpcs if research_planes(n) != research_planes(tpc)})
    if other:
        numbers = ", ".join(map(str, other))
        raise ConfigError(
            f"{origin}: imported for TPC {tpc}, planes {', '.join(research_planes(tpc))}; TPCs {numbers} had "
            f"{', '.join(research_planes(other[0]))}. Fix: --tpcs without them, or larstore import-checkpoint "
            f"--tpc {other[0]} for them"
        )


def _is_network(values: Any) -> bool:
    return (
        isinstance(values, Mapping)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in values.items())
        and any(_our_name(name).startswith("sparseModel.") for name in values)
    )


def _our_name(name: str) -> str:
    while name.startswith(("module.", "sparseModel.sparseModel.")):
        name = name.partition(".")[2]
    return name


def _with_our_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {_our_name(name): value for name, value in weights.items()}
    return named if len(named) == len(weights) else dict(weights)  # two of one name: the error shall show theirs
