"""`larstore find-lr`: the loss while the learning rate grows from step to step, and the rate that this suggests.

Source: Smith, arXiv:1506.01186, as Lightning's finder does it; a loss that is no number any more ends the search.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import pandas as pd
from lightning.pytorch.callbacks import Callback

from larstore.errors import ConfigError, LarstoreError
from larstore.report import Page, write_page
from train.config import naming_file
from train.fitting.module import ImageModule, TrainingError
from train.fitting.probing import make_probe, train_steps
from train.records.line_charts import Line, chart
from train.runtime import compute_threads, log_to_stderr
from train.schema import BasicTrainer, Config

KEPT = 0.9  # of the running mean of losses at each step
DIVERGED = 4.0  # × the least running mean so far
PATIENCE = 4  # steps for each rate, at most
SKIPPED = 5  # first steps: they tell of the start, not of the rate
WIDTH = 0.05  # of the smoothing, in all steps: batches differ more than neighbouring rates do
PART = 0.1  # of the fall at its start and its end, where the steepest point is noise


@dataclass(frozen=True)
class RateTest:
    """One step a row.

    Attributes:
        rates: learning rate of each step.
        losses: of its batch.
        smoothed: mean of the losses around a step, not behind it.
        suggestion: where the smoothed loss falls fastest per factor of the rate, on its way to the minimum.
        least: rate at the smoothed loss's minimum; what is higher does harm already.
        diverged: whether the loss exploded before the last step.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    least: float
    diverged: bool


class GrowingRate(Callback):
    """Sets the rate of each step and notes its loss; stops where the running mean explodes."""

    def __init__(self, low: float, high: float, n_steps: int) -> None:
        self.rates = np.geomspace(low, high, n_steps).tolist()
        self.losses: list[float] = []
        self.means: list[float] = []
        self.mean, self.diverged = 0.0, False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate; groups of the optimiser keep their ratios, and those that would be 0 / 0 have the same."""
        assert isinstance(pl_module, ImageModule)
        groups, bases = trainer.optimizers[0].param_groups, pl_module.base_rates
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = self.rates[len(self.losses)] * (base / bases[0] if bases[0] else 1.0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Note the loss; where no voxel counted, the next batch has the same rate."""
        assert isinstance(pl_module, ImageModule)
        loss = pl_module.losses["train"][-1]
        if math.isnan(loss):
            return
        self.losses.append(loss)
        self.mean = KEPT * self.mean + (1 - KEPT) * loss
        self.means.append(self.mean / (1 - KEPT ** len(self.losses)))
        if len(self.means) > SKIPPED and self.means[-1] > DIVERGED * min(self.means[SKIPPED - 1 :]):
            self.diverged = trainer.should_stop = True
        elif len(self.losses) == len(self.rates):
            trainer.should_stop = True


def find_learning_rate(
    config: Config, low: float = 1e-6, high: float = 1.0, n_steps: int = 100, *, verbose: bool = False
) -> RateTest:
    """Train ``n_steps`` steps with rates from ``low`` to ``high``, each by the same factor above the one before.

    The configuration's rate only sets the ratio of the optimiser's groups; its course (``trainer``) is left out.

    Raises ConfigError for settings that do not fit, LarstoreError where no loss fell at any rate.
    """
    if not 0 < low < high or n_steps < 4 * SKIPPED:
        raise ConfigError(f"find-lr: {low:g} to {high:g} in {n_steps} steps. Fix: 0 < low < high, {4 * SKIPPED} steps")
    constant = config.model_copy(update={"trainer": BasicTrainer()})
    growing = GrowingRate(low, high, n_steps)
    with (
        naming_file(config),
        log_to_stderr(verbose),
        compute_threads(config.train.threads, config.train.backend),
    ):
        probe = make_probe(constant, n_steps, augmented=True)
        try:
            # Ended by `growing` after n_steps in which a voxel counted; more are for those in which none does.
            train_steps(probe, probe.loader, PATIENCE * n_steps, [growing])
        except TrainingError:  # a loss that is not finite, beyond the first steps, is how a search may end
            if len(growing.losses) <= 2 * SKIPPED:
                raise
            growing.diverged = True
    if not growing.diverged and len(growing.losses) < n_steps:
        raise ConfigError(
            f"find-lr: in {len(growing.losses)} of {PATIENCE * n_steps} steps a voxel counted. "
            "Fix: look at data.coord_lim and data.train_i"
        )
    return suggest(growing.rates[: len(growing.losses)], growing.losses, growing.diverged)


def suggest(rates: list[float], losses: list[float], diverged: bool) -> RateTest:
    """Choose the rate. Raises LarstoreError where the loss did not fall."""
    smoothed = smooth(losses)
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed, np.log(rates))
    fallen = (smoothed[0] - smoothed) / max(smoothed[0] - smoothed[lowest], 1e-30)
    falling = (fallen > PART) & (fallen < 1 - PART) & (np.arange(len(rates)) < lowest) & (slopes < 0)
    if not falling.any():
        raise LarstoreError(
            f"find-lr: the loss fell at no learning rate from {rates[0]:g} to {rates[-1]:g} "
            f"({smoothed[0]:.4g} → {smoothed[-1]:.4g}). Fix: a lower --low, more --steps, or see larstore overfit"
        )
    steepest = int(np.argmin(np.where(falling, slopes, np.inf)))
    return RateTest(rates, losses, smoothed.tolist(), rates[steepest], rates[lowest], diverged)


def smooth(losses: list[float]) -> npt.NDArray[np.float64]:
    """Means weighted by a Gaussian around each step, so without a lag; an explosion at the end counts little."""
    values = np.array(losses)
    values = np.minimum(values, DIVERGED * max(values[:SKIPPED].mean(), np.median(values)))
    steps = np.arange(len(values))
    width = max(1.0, WIDTH * len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    smoothed: npt.NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return smoothed


def write_rate_test(test: RateTest, config: Config, path: Path) -> Path:
    """The page ``path``, and the table beside it with the ending .csv (tab separated). Returns the table's path."""
    page = Page("Learning rates", f"{config._origin or 'configuration'} · {len(test.rates)} steps")
    page.cards([("suggested", f"{test.suggestion:.2g}"), ("least loss at", f"{test.least:.2g}")])
    top = 1.5 * max(test.losses[: test.rates.index(test.least) + 1])  # the explosion would flatten the rest
    lines = [
        Line("loss of each step", *_below(test.rates, test.losses, top)),
        Line("smoothed", *_below(test.rates, test.smoothed, top)),
    ]
    marks = [(test.suggestion, f"{test.suggestion:.2g}"), (test.least, f"{test.least:.2g}")]
    page.drawings([(chart(lines, "learning rate", "loss", log_x=True, marks=marks), "")])
    ended = "The loss exploded behind the last point." if test.diverged else "The loss did not explode."
    page.paragraph(
        "Each step had a learning rate a factor above the one before. Suggested is where the smoothed loss falls "
        f"fastest per factor, on its way to the minimum. {ended} With trainer one_cycle the rate is the highest of its "
        "course, so a rate up to the minimum's may do."
    )
    page.write(path)
    table = path.with_suffix(".csv")
    columns = {"lr": test.rates, "loss": test.losses, "smoothed": test.smoothed}
    return write_page(table, pd.DataFrame(columns).to_csv(sep="\t", index=False, float_format="%.8g"))


def _below(x: list[float], y: list[float], top: float) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b <= top]
    return [a for a, _ in pairs], [b for _, b in pairs]
