"""The directory of a run: copies of its configurations, log, summaries and checkpoints."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from larstore.errors import ConfigError

NAME = re.compile(r"checkpoint_(\d+)\.pth\.tar")


@dataclass(frozen=True)
class FitResult:
    """What a training left behind: the last checkpoint, and one summary row an epoch (as in the CSV)."""

    checkpoint: Path
    summaries: list[dict[str, Any]]


class RunFolder:
    """``configs/N.yaml``, ``out_0.log``, ``summaries_0.csv``, ``steps_0.csv`` and ``checkpoints/`` of one run.

    Checkpoints are ``checkpoint_NNN.pth.tar`` at the end of epochs, ``last.pth.tar``, the run's newest state, often in
    the middle of an epoch, and ``best.pth.tar``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def summary_file(self) -> Path:
        """Tab-separated table, one row an epoch."""
        return self.path / "summaries_0.csv"

    @property
    def step_file(self) -> Path:
        """Tab-separated table, one row a batch; see `train.records.step_table`."""
        return self.path / "steps_0.csv"

    @property
    def last(self) -> Path:
        """The checkpoint of the run's newest state."""
        return self.path / "checkpoints" / "last.pth.tar"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.path / "checkpoints" / "best.pth.tar"

    @property
    def log_file(self) -> Path:
        """What was logged by all starts of this run."""
        return self.path / "out_0.log"

    def checkpoint(self, epoch: int) -> Path:
        """Where the checkpoint written at the end of ``epoch`` lies."""
        return self.path / "checkpoints" / f"checkpoint_{epoch:03d}.pth.tar"

    def epochs(self) -> list[int]:
        """Epochs there are checkpoints of, ascending."""
        found = (NAME.fullmatch(entry.name) for entry in (self.path / "checkpoints").glob("checkpoint_*"))
        return sorted(int(match[1]) for match in found if match)

    def find_checkpoint(self, which: int | Literal["best", "last"] | None = None) -> Path:
        """The checkpoint of an epoch, the best or the last one; None = of the last epoch in the summaries.

        After a resume from an older epoch, checkpoints of higher numbers are left over from the other course.

        Raises:
            ConfigError: there is none.
        """
        epochs = self.epochs()
        if which in ("best", "last"):
            named = self.best if which == "best" else self.last
            if not named.exists():
                raise ConfigError(f"{named}: no such checkpoint. Fix: train first, or name an epoch of {epochs}")
            return named
        if not epochs:
            if which is None and self.last.exists():
                return self.last
            raise ConfigError(f"{self.path}: holds no checkpoint. Fix: train first, or correct the path")
        if which is not None and which not in epochs:
            raise ConfigError(
                f"{self.path}: no checkpoint of epoch {which}. Fix: one of {_ranges(epochs)}, best or last"
            )
        if which is None:
            rows = self.read_summaries()
            last = int(rows[-1]["epoch"]) if rows else epochs[-1]
            which = last if last in epochs else epochs[-1]
        return self.checkpoint(int(which))

    def newest(self) -> Path | None:
        """Where the run stands: what a resumed one goes on from, None before the first checkpoint."""
        if self.last.exists():
            return self.last
        return self.find_checkpoint() if self.epochs() else None

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        for partial in (*(self.path / "checkpoints").glob("*.partial"), *self.path.glob("*.partial")):
            partial.unlink(missing_ok=True)

    def make(self) -> None:
        """Make the directories. Raises ConfigError where that cannot be."""
        try:
            for name in ("configs", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}. Fix: another output_dir, or free space") from error

    def start(self, config: dict[str, Any]) -> Path:
        """Make the directories and keep a copy of the configuration under the next free number."""
        self.make()
        try:
            taken = [int(entry.stem) for entry in (self.path / "configs").glob("*.yaml") if entry.stem.isdigit()]
            copy = self.path / "configs" / f"{max(taken, default=-1) + 1}.yaml"
            copy.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}. Fix: another output_dir, or free space") from error
        return copy

    def read_summaries(self, before_epoch: int | None = None) -> list[dict[str, Any]]:
        """Rows of the epochs before ``before_epoch``, by default all."""
        if not self.summary_file.exists():
            return []
        rows = pd.read_csv(self.summary_file, sep="\t")
        if before_epoch is not None:
            rows = rows[rows["epoch"] < before_epoch]
        return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]

    def write_summaries(self, rows: list[dict[str, Any]]) -> None:
        """Replace the table; its columns are in the order of `column_order`."""
        partial = self.summary_file.with_suffix(".partial")
        table = pd.DataFrame(rows, columns=column_order(rows))
        table.to_csv(partial, sep="\t", index=False, float_format="%.8g")
        partial.replace(self.summary_file)

    def log_handler(self, rank: int = 0) -> logging.Handler:
        """A handler that appends to the log file, or to that of another process, ``out_RANK.log``."""
        self.path.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.log_file.with_name(f"out_{rank}.log"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        return handler


def checkpoint_of(origin: str) -> Path:
    """What ``train.transfer`` names: a checkpoint file, or a run's directory, of which it is the last one."""
    path = Path(origin)
    return RunFolder(path).find_checkpoint() if path.is_dir() else path


def column_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The research code's columns in its order (epoch; loss, metrics, time of train_, then of valid_); ours behind."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = ["epoch"]
    for part in ("train_", "valid_"):
        metrics = [name for name in names if name.startswith(part) and not name.endswith(("_loss", "_time"))]
        first += [f"{part}loss", *metrics, f"{part}time"]
    first = [name for name in first if name in names]
    return [*first, *(name for name in names if name not in first)]


def _ranges(numbers: list[int]) -> str:
    """``0 to 3, 7`` of ascending numbers."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]} to {group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
