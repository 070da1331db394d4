"""Metrics by name, from torchmetrics; the research code's BinAccuracy is one of them."""

import warnings

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification, regression

from larstore.errors import ConfigError
from train.distributed import from_first, size, to_first
from train.losses import VoxelLoss
from train.schema import NamedSection

RENAMED = {"BinAccuracy": "BinaryAccuracy"}  # score > 0.5 against the label


def _find(name: str) -> type[torchmetrics.Metric] | None:
    name = RENAMED.get(name, name)
    for module, candidate in ((classification, f"Binary{name}"), (classification, name), (regression, name)):
        found = getattr(module, candidate, None)
        if isinstance(found, type) and issubclass(found, torchmetrics.Metric):
            if module is classification and not candidate.startswith("Binary"):
                continue
            return found
    return None


class Metrics:
    """The metrics of a configuration: updated with each batch, computed and reset at the end of an epoch.

    Binary ones compare scores with ``target > 0``; those of regression with the target itself. Voxels of weight 0 do
    not count. Of a network of scores and charges, binary metrics see the scores, those of regression the charges, with
    the threshold and on the voxels of the loss (`train.losses.MultiTaskLoss`).

    Args:
        sections: name in summaries -> metric and its arguments.
        constant_memory: leave out those that keep every score (average precision without ``thresholds``).
        loss: knows which outputs are compared with what; by default as said for one output.
    """

    def __init__(
        self, sections: dict[str, NamedSection], constant_memory: bool = False, loss: VoxelLoss | None = None
    ) -> None:
        self.compared = (VoxelLoss() if loss is None else loss).compared
        made = {name: make_metric(section) for name, section in sections.items()}
        self.metrics = {
            name: metric
            for name, metric in made.items()
            if not (constant_memory and any(isinstance(state, list) for state in metric._defaults.values()))
        }

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, weight: Tensor) -> None:
        """Take in one batch: output (n, outputs), target and weight (n, 1)."""
        pairs = {binary: self.compared(output.detach(), target, weight, binary) for binary in (True, False)}
        for metric in self.metrics.values():
            values, references = pairs[type(metric).__name__.startswith("Binary")]
            if len(values):
                metric.to(values.device).update(values, references)

    def compute(self) -> dict[str, float]:
        """Values by name, NaN where nothing was taken in or no voxel is true; the metrics start afresh.

        Where several processes train, of what all of them took in, and the same for all.
        """
        states = to_first({name: _state(metric) for name, metric in self.metrics.items() if metric.update_called})
        values = {}
        for name, metric in self.metrics.items() if states is not None else ():
            known = [each[name] for each in states or () if name in each]
            values[name] = _value(_merged(metric, known)) if known else float("nan")
        for metric in self.metrics.values():
            metric.reset()
        agreed: dict[str, float] = from_first(values)
        return agreed


State = dict[str, Tensor | list[Tensor]]


def _state(metric: torchmetrics.Metric) -> State:
    """What a metric took in, lists as one tensor each, on the CPU; empty where no other process wants it."""
    state: State = {}
    for name, value in metric.metric_state.items() if size() > 1 else ():
        if isinstance(value, list):
            state[name] = [torch.cat([part.cpu()[None] if part.ndim == 0 else part.cpu() for part in value])]
        else:
            state[name] = value.cpu()
    return state


def _merged(metric: torchmetrics.Metric, states: list[State]) -> torchmetrics.Metric:
    """A metric that took in what all of these did, merged by its own rules."""
    if size() == 1:
        return metric
    merged = metric.clone().cpu()
    for name, value in states[0].items():
        setattr(merged, name, value)
    columns = ([s[name][0] if isinstance(s[name], list) else s[name] for s in states] for name in states[0])
    merged.sync(dist_sync_fn=lambda tensor, group: next(columns), distributed_available=lambda: True)
    return merged


def _value(metric: torchmetrics.Metric) -> float:
    with warnings.catch_warnings():
        # It may have taken in what other processes saw.
        warnings.filterwarnings("ignore", message=r"The ``compute`` method of metric .* was called before")
        warnings.filterwarnings("error", message="No (positive|negative) samples")  # it would go on with made-up values
        try:
            return float(metric.compute())
        except UserWarning:
            return float("nan")


def make_metric(section: NamedSection) -> torchmetrics.Metric:
    """One metric by its torchmetrics name, with or without "Binary". Raises ConfigError."""
    found = _find(section.name)
    if found is None:
        raise ConfigError(
            f"metrics: {section.name!r} is unknown. Fix: BinAccuracy, AveragePrecision, or another binary or "
            "regression metric of torchmetrics"
        )
    try:
        metric = found(**{"sync_on_compute": False, **section.arguments})  # `Metrics.compute` does that
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metrics: {section.name}: {error}. Fix: correct its arguments") from error
    return metric
