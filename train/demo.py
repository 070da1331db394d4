"""`larstore demo`: the main job by the commands that a user would type, one process each, and a report."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from larstore.errors import ConfigError, LarstoreError
from train.demo_settings import FULL, PREDICTION, QUICK, DemoSettings

STATE = "demo.json"  # what is done, and with which settings


@dataclass(frozen=True)
class Stage:
    """One step: its commands are made when its turn comes, as they may depend on what earlier ones left."""

    name: str
    what: str
    commands: Callable[[], list[list[str]]]


class Demo:
    """A demo in a directory: its paths, its stages and which of them are done."""

    def __init__(self, folder: Path, settings: DemoSettings) -> None:
        self.folder, self.settings = folder, settings
        self.done: dict[str, dict[str, Any]] = {}
        self.raw, self.store = folder / "raw", folder / "run.zarr"
        self.simulation, self.config = folder / "simulate.yaml", folder / "train.yaml"
        self.run, self.evaluation, self.events = folder / "run", folder / "evaluation", folder / "events"

    @property
    def stages(self) -> list[Stage]:
        """In the order they run."""
        return [
            Stage("simulate", "tracks and showers to frames of deconvolved charge, with truth", self._simulate),
            Stage("preprocess", "tile the frames, write the images into the store", self._preprocess),
            Stage("train", "train a sparse U-Net on all files but the last ones", self._train),
            Stage("infer", "predict a score for each voxel of the held-out files", self._infer),
            Stage("evaluate", "compare with the truth, and with cuts that need no network", self._evaluate),
            Stage("view", "draw a held-out event in 3D", self._view),
        ]

    def _simulate(self) -> list[list[str]]:
        s = self.settings
        shutil.rmtree(self.raw, ignore_errors=True)  # half of a simulation is simulated again
        self.simulation.write_text(yaml.safe_dump(s.simulation, sort_keys=False), encoding="utf-8")
        command = ["simulate", "-o", str(self.raw), "--detector", s.detector, "--tpcs", str(s.tpc)]
        command += ["--events", str(s.files * s.events_per_file), "--events-per-file", str(s.events_per_file)]
        return [[*command, "--first-file", "1", "--seed", str(s.seed), "--config", str(self.simulation)]]

    def _preprocess(self) -> list[list[str]]:
        s = self.settings
        command = ["preprocess", str(self.raw), "-o", str(self.store), "--detector", s.detector]
        return [[*command, "--tpcs", str(s.tpc), "--sample", "demo", *s.preprocessing]]

    def _train(self) -> list[list[str]]:
        s = self.settings
        config = json.loads(json.dumps(s.training))  # a deep copy
        config["data"] |= {"data_path": str(self.store), "train_i": list(s.train_files)}
        config["output_dir"] = str(self.run)
        self.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        return [["train", str(self.config), "--auto-resume"]]

    def _infer(self) -> list[list[str]]:
        command = ["infer", str(self.config), "--store", str(self.store), "--name", PREDICTION]
        return [[*command, "--files", self._held_out()]]

    def _evaluate(self) -> list[list[str]]:
        command = ["evaluate", str(self.store), "--prediction", PREDICTION, "-o", str(self.evaluation)]
        return [[*command, "--files", self._held_out()]]

    def _view(self) -> list[list[str]]:
        key = [str(number) for number in self.median_event()]
        page = str(self.events / "event.html")
        return [["view", str(self.store), *key, "--prediction", PREDICTION, "-o", page]]

    def _held_out(self) -> str:
        first, last = self.settings.held_out_files
        return f"{first}:{last}"

    def median_event(self) -> tuple[int, int, int]:
        """The held-out image of median average precision: neither the prettiest nor the worst."""
        images = pd.read_csv(self.evaluation / "images.csv")
        ranked = images[images["true_tiled"] > 0].sort_values(["ap_network", "file", "event"], ignore_index=True)
        if ranked.empty:
            raise LarstoreError(f"{self.evaluation}/images.csv: no image has true voxels. Fix: more --events")
        row = ranked.iloc[len(ranked) // 2]
        return int(row["file"]), int(row["event"]), int(row["tpc"])

    def open(self) -> None:
        """Make the directory, or find out what is done in it. Raises ConfigError if it holds something else."""
        state = self.folder / STATE
        wanted = plain(self.settings)
        if state.exists():
            found = json.loads(state.read_text(encoding="utf-8"))
            if found["settings"] != wanted:
                raise ConfigError(
                    f"{self.folder}: holds a demo with other settings. Fix: the options it was started with, "
                    "or another directory"
                )
            self.done = found["done"]
            return
        try:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ConfigError(f"{self.folder}: is not empty and holds no demo. Fix: another directory")
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder}: {error.strerror}. Fix: another directory") from error
        self._save()

    def finish(self, stage: Stage, commands: list[list[str]], seconds: float) -> None:
        """Note that a stage is done, and what it took."""
        self.done[stage.name] = {"commands": [typed(command) for command in commands], "seconds": seconds}
        self._save()

    def _save(self) -> None:
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(json.dumps({"settings": plain(self.settings), "done": self.done}, indent=1) + "\n")
        os.replace(partial, self.folder / STATE)


def demo(
    out_dir: str | os.PathLike[str],
    events: int | None = None,
    quick: bool = False,
    settings: DemoSettings | None = None,
) -> dict[str, Any]:
    """Simulate, preprocess, train, infer, evaluate, view; then write ``out_dir``/report.html.

    A directory with a demo that did not end is taken up where it stopped.

    Args:
        events: simulated events, about a sixth of them held out; as many as needed by default.
        quick: few events and steps, to see that everything runs; its result means nothing.
        settings: instead of those in `train.demo_settings`.

    Returns the summary of the evaluation.

    Raises:
        ConfigError: ``out_dir`` holds something else, or a demo with other settings.
        LarstoreError: a command failed; names its log.
    """
    chosen = settings or (QUICK if quick else FULL)
    if events is not None:
        chosen = chosen.with_events(events)
    this = Demo(Path(out_dir), chosen)
    this.open()
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        for number, stage in enumerate(this.stages, 1):
            label = f"{number}/{len(this.stages)} {stage.name}: {stage.what}"
            if stage.name in this.done:
                console.print(f"{label} (done before)", highlight=False, soft_wrap=True)
                continue
            task = bar.add_task(label)
            began = time.monotonic()
            log = this.folder / "logs" / f"{number}-{stage.name}.log"
            commands = stage.commands()
            run_commands(commands, log, stage.name)
            seconds = time.monotonic() - began
            this.finish(stage, commands, seconds)
            bar.remove_task(task)
            console.print(f"{label} ({seconds:.0f} s)", highlight=False, soft_wrap=True)
    from train.demo_report import write_report

    return write_report(this)


def run_commands(commands: list[list[str]], log: Path, name: str) -> None:
    """Run `larstore` commands one after the other, their output in ``log``. Raises LarstoreError on a failure."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        for command in commands:
            out.write(f"$ {typed(command)}\n")
            out.flush()
            process = [sys.executable, "-m", "larstore.cli", *command]
            code = subprocess.run(process, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
            if code:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise LarstoreError(
                    f"demo: {name} ended with exit {code} ({lines[-1][:300]}). Fix: see {log}, then run it again"
                )


def typed(command: list[str]) -> str:
    """A command as a user types it."""
    return shlex.join(["larstore", *command])


def plain(settings: DemoSettings) -> dict[str, Any]:
    """Settings as JSON keeps them."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return values
