"""Metrics by name, from torchmetrics and our own; the research code's BinAccuracy is one of them."""

import warnings
from functools import partial

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification, regression

from larstore.errors import ConfigError
from larstore.settings import did_you_mean
from train.named import call_named
from train.objective.voxel_loss import VoxelLoss
from train.processes.distributed import from_first, size, to_first
from train.results.metrics.charge import ChargeBias, ChargeHalfWidth, ChargeResolution
from train.results.metrics.curves_of_bins import HistogramMetric, PooledAveragePrecision
from train.schema import NamedSection

RENAMED = {"BinAccuracy": "BinaryAccuracy"}  # score > 0.5 against the label
# Ours that have one number a voxel can be compared by; their states do not grow.
OWN: dict[str, type[torchmetrics.Metric]] = {
    metric.__name__: metric for metric in (ChargeBias, ChargeHalfWidth, ChargeResolution, PooledAveragePrecision)
}

# Of torchmetrics, without a number for pairs of outputs and references; the reason.
CURVES = "gives no single number. Fix: larstore evaluate, which draws curves"
VECTORS = "compares vectors, a voxel has one number. Fix: MeanSquaredError or PearsonCorrCoef"
GROUPS = "compares groups of people. Fix: BinAccuracy or AveragePrecision"
REFUSED = {
    "BinaryConfusionMatrix": "gives a matrix. Fix: Precision and Recall",
    "BinaryStatScores": "gives counts. Fix: Precision and Recall",
    "BinaryPrecisionRecallCurve": CURVES,
    "BinaryROC": CURVES,
    "BinaryFairness": GROUPS,
    "BinaryGroupStatRates": GROUPS,
    "ContinuousRankedProbabilityScore": VECTORS,
    "CosineSimilarity": VECTORS,
    "JensenShannonDivergence": VECTORS,
    "KLDivergence": VECTORS,
}


def _known() -> dict[str, type[torchmetrics.Metric]]:
    """Binary metrics and those of regression, by their names in torchmetrics."""
    return {
        name: getattr(module, name)
        for module, names in (
            (classification, [n for n in classification.__all__ if n.startswith("Binary")]),
            (regression, regression.__all__),
        )
        for name in names
    }


def metric_names() -> list[str]:
    """What may be asked for, by the names of torchmetrics."""
    return sorted(_known().keys() - REFUSED.keys())


class Metrics:
    """The metrics of a configuration: updated with each batch, computed and reset at the end of an epoch.

    Binary ones compare scores with ``target > 0``; those of regression with the target itself. Voxels of weight 0 do
    not count. Of a network of scores and charges, binary metrics see the scores, those of regression the charges, with
    the threshold and on the voxels of the loss (`train.objective.losses.MultiTaskLoss`).

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
        self.metrics = {name: metric for name, metric in made.items() if not (constant_memory and keeps_all(metric))}

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, weight: Tensor) -> None:
        """Take in one batch: output (n, outputs), target and weight (n, 1)."""
        pairs = {binary: self.compared(output.detach(), target, weight, binary) for binary in (True, False)}
        for metric in self.metrics.values():
            values, references = pairs[_is_binary(metric)]
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


def _is_binary(metric: torchmetrics.Metric) -> bool:
    """Whether it compares with labels, not with the target itself."""
    return type(metric).__name__.startswith("Binary") or isinstance(metric, HistogramMetric)


def keeps_all(metric: torchmetrics.Metric) -> bool:
    """Whether it keeps every score that it takes in."""
    return any(isinstance(state, list) for state in metric._defaults.values())


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
            value = metric.compute()
        except UserWarning:
            return float("nan")
        except ValueError as error:
            if "at least two samples" not in str(error):
                raise
            return float("nan")
    # Those of a fixed precision, recall … come with the threshold of it.
    return float(value[0] if isinstance(value, tuple) else value)


def make_metric(section: NamedSection) -> torchmetrics.Metric:
    """One metric by its torchmetrics name, with or without "Binary", or one of ``OWN``. Raises ConfigError."""
    known = _known() | OWN
    name = RENAMED.get(section.name, section.name)
    name = f"Binary{name}" if f"Binary{name}" in known else name
    if name in REFUSED:
        raise ConfigError(f"metrics: {section.name} {REFUSED[name]}")
    if name not in known:
        valid = [*OWN, *metric_names()]
        near = did_you_mean(section.name, [*RENAMED, *valid, *(each.removeprefix("Binary") for each in valid)])
        raise ConfigError(
            f"metrics: {section.name!r} is unknown. Fix: {near}BinAccuracy, AveragePrecision, or another binary or "
            "regression metric of torchmetrics"
        )
    with warnings.catch_warnings():
        # Only in validation: see Metrics.
        warnings.filterwarnings("ignore", message=".*save all targets and predictions")
        # `Metrics.compute` adds up what several processes took in.
        make = partial(known[name], sync_on_compute=False)
        hidden = ("bins",) if name in OWN else ()
        metric: torchmetrics.Metric = call_named(make, section.name, section.arguments, "metrics", hidden=hidden)
    return metric
