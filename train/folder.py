"""The directory of a run: copies of its configurations, log, summaries and checkpoints."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """``configs/N.yaml``, ``out_0.log``, ``summaries_0.csv``, ``checkpoints/checkpoint_NNN.pth.tar`` of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def summary_file(self) -> Path:
        """Tab-separated table, one row an epoch."""
        return self.path / "summaries_0.csv"

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

    def find_checkpoint(self, epoch: int | None = None) -> Path:
        """The checkpoint of ``epoch``, None = the last in the summaries. Raises ConfigError where there is none.

        After a resume from an older epoch, checkpoints of higher numbers are left over from the other course.
        """
        epochs = self.epochs()
        if not epochs:
            raise ConfigError(f"{self.path}: holds no checkpoint. Fix: train first, or correct output_dir")
        if epoch is not None and epoch not in epochs:
            raise ConfigError(f"{self.path}: no checkpoint of epoch {epoch}. Fix: one of {epochs[0]} to {epochs[-1]}")
        if epoch is None:
            rows = self.read_summaries()
            last = int(rows[-1]["epoch"]) if rows else epochs[-1]
            epoch = last if last in epochs else epochs[-1]
        return self.checkpoint(epoch)

    def start(self, config: dict[str, Any]) -> Path:
        """Make the directories and keep a copy of the configuration under the next free number."""
        try:
            for name in ("configs", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}. Fix: another output_dir") from error
        taken = [int(entry.stem) for entry in (self.path / "configs").glob("*.yaml") if entry.stem.isdigit()]
        copy = self.path / "configs" / f"{max(taken, default=-1) + 1}.yaml"
        copy.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
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


def column_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The research code's columns in its order (epoch; loss, metrics, time of train_, then of valid_); ours behind."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = ["epoch"]
    for part in ("train_", "valid_"):
        metrics = [name for name in names if name.startswith(part) and not name.endswith(("_loss", "_time"))]
        first += [f"{part}loss", *metrics, f"{part}time"]
    first = [name for name in first if name in names]
    return [*first, *(name for name in names if name not in first)]
