"""The part of an epoch that a checkpoint in its middle has to carry: sums so far, and Lightning's counters."""

import copy
import logging
from typing import Any

import torch
import torchmetrics

from train.fitting.module import ImageModule
from train.objective.metrics import Metrics

log = logging.getLogger("larstore.train")


def sums(module: ImageModule) -> dict[str, Any]:
    """Losses, their parts, metrics and images of this epoch's batches so far, in this process."""
    return {
        "images": list(module.images),
        "losses": torch.tensor(module.losses["train"], dtype=torch.float64),
        "parts": {k: torch.tensor(v, dtype=torch.float64) for k, v in module.loss_parts["train"].items()},
        "metrics": {name: _metric_state(metric) for name, metric in module.metrics["train"].metrics.items()},
    }


def take_sums(module: ImageModule, states: list[dict[str, Any]], rank: int, n_ranks: int) -> None:
    """Go on from what the processes had summed up, of which there may be another number now.

    Losses are those of the joint batch, the same in all of them; metrics and images are added up over processes at the
    end of an epoch, so that each state is taken over by one.
    """
    counted = [state.get("images", [0, 0]) for state in states[rank::n_ranks]]  # which older checkpoints lack
    module.images = [sum(column) for column in zip([0, 0], *counted, strict=True)]
    module.losses["train"] = states[0]["losses"].tolist()
    module.loss_parts["train"] = {name: values.tolist() for name, values in states[0]["parts"].items()}
    _take_metrics(module.metrics["train"], [state["metrics"] for state in states[rank::n_ranks]])


def _metric_state(metric: torchmetrics.Metric) -> dict[str, Any]:
    states = {name: copy.deepcopy(getattr(metric, name)) for name in metric._defaults}
    return {"count": metric.update_count, "states": states}


def _take_metrics(metrics: Metrics, states: list[dict[str, Any]]) -> None:
    for name, metric in metrics.metrics.items():
        found = [state[name] for state in states if name in state]
        for i, state in enumerate(found):
            one = metric if i == 0 else copy.deepcopy(metric)
            for key, value in state["states"].items():
                setattr(one, key, value)
            one._update_count = state["count"]
            if i:
                try:
                    metric.merge_state(one)
                except RuntimeError:
                    log.warning("metrics: %s of other processes cannot be added up in this epoch", name)
        if len(found) < len(states):
            log.warning("metrics: %s is new, in this epoch it counts from here on", name)


def rewind(loops: dict[str, Any], stepped: bool) -> None:
    """Set Lightning's counters in the middle of an epoch to that epoch's start, its steps counted.

    A run goes on as if an epoch began that has only the batches that are left. Lightning's own way into the middle of
    one counts batches of a fixed number of processes and skips the validation of some cases. ``stepped``: a batch was
    trained on since the run began, whose step it counts for its loggers only later.
    """
    fit = loops["fit_loop"]
    for progress in fit["epoch_progress"].values():
        progress.update(dict.fromkeys(progress, progress["completed"]))
    batches = fit["epoch_loop.batch_progress"]
    batches["total"].update(dict.fromkeys(batches["total"], batches["total"]["ready"]))
    batches["current"].update(dict.fromkeys(batches["current"], 0))
    batches["is_last_batch"] = False
    for progress in ("total", "current"):
        validation = fit["epoch_loop.val_loop.batch_progress"][progress]
        validation.update(dict.fromkeys(validation, 0))
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] += int(stepped)
