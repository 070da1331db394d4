"""The steps of the training benchmark: each leaves files in the work directory, and is done once."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.side_by_side import machine_line
from tests.benchmarks.training_charge import charge_figures
from tests.benchmarks.training_frames import FRAMES, FrameInput, explain_frame
from tests.benchmarks.training_samples import make_again, make_sample
from tests.benchmarks.training_scores import score_prediction
from tests.benchmarks.training_settings import DETECTOR, TPC, VARIATIONS, Sample, Settings
from train.records.folder import RunFolder

STATE = "state.json"
BEE = "depos/protodune-sp-truthDepo-6evt-bee.zip"
# Predictions in a store; the charge itself is CHARGE-charge. TRAINED: the same of the images that were trained on.
SCORES, CHARGE, TRAINED, CALIBRATED = "network", "charge", "trained", "calibrated"


class StepError(RuntimeError):
    """A command failed, or the directory belongs to other settings."""


@dataclass(frozen=True)
class Step:
    """One step: its name, and what does it; what that returns is kept as its result."""

    name: str
    work: Callable[[], Any]


class Bench:
    """A work directory with the results so far: ``run`` does what is missing.

    Attributes:
        data: folder of third-party data (`LARSTORE_TEST_DATA`), or None; without it Bee events and frames are left out.
        done: by step: ``seconds``, ``load`` (of the machine, at its begin and end), ``result``.
    """

    def __init__(self, folder: Path, settings: Settings, data: Path | None) -> None:
        self.folder, self.settings, self.data = folder.absolute(), settings, data
        self.done: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        state = self.folder / STATE
        if state.exists():
            found = json.loads(state.read_text(encoding="utf-8"))
            if found["settings"] != settings.plain():
                raise StepError(f"{folder}: holds a run with other settings. Fix: another --work, or remove it")
            self.done = found["done"]
        else:
            self._save()

    def run(self, only: str | None = None) -> None:
        """Do the steps that are not done, in order; ``only``: those whose names begin with it."""
        for step in self.steps():
            if step.name in self.done or (only is not None and not step.name.startswith(only)):
                continue
            print(f"{time.strftime('%H:%M:%S')} {step.name}", flush=True)
            load, began = [os.getloadavg()[0]], time.monotonic()
            result = step.work()
            seconds = time.monotonic() - began
            load.append(os.getloadavg()[0])
            self.done[step.name] = {"seconds": seconds, "load": load, "result": result}
            self._save()

    def results(self) -> dict[str, Any]:
        """All that a page needs; steps that were not done are missing."""
        return {
            "settings": self.settings.plain(),
            "machine": machine_line("torch", "numba", "lightning"),
            "date": time.strftime("%Y-%m-%d"),
            "done": self.done,
        }

    def _save(self) -> None:
        text = json.dumps({"settings": self.settings.plain(), "done": self.done}, indent=1)
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self.folder / STATE)

    def steps(self) -> Iterator[Step]:
        """All steps in order."""
        s = self.settings
        for sample in s.samples:
            yield Step(f"simulate {sample.name}", lambda x=sample: make_sample(self._sim(x.name), x, s.response))
            yield Step(f"preprocess {sample.name}", lambda x=sample: self._preprocess(x.name))
        yield Step("train ghost", lambda: self._train("ghost", s.ghost))
        for sample in s.samples:
            yield Step(f"score {sample.name}", lambda x=sample: self._score(x.name, self._held_out(x)))
        if self.data is not None:
            yield Step("score bee", self._bee)
            for frame in (frame for frame in FRAMES if frame.name in s.frames):
                yield Step(f"frame {frame.name}", lambda x=frame: self._frame(x))
        for name, _, changes, lost in (v for v in VARIATIONS if v[0] in s.variations):
            for sample in s.samples:
                yield Step(
                    f"vary {name} {sample.name}", lambda x=sample, n=name, c=changes, q=lost: self._vary(x, n, c, q)
                )
        yield Step("score same", self._same)
        yield Step("train charge", lambda: self._train("charge", s.charge))
        for sample in s.samples:
            yield Step(f"charge {sample.name}", lambda x=sample: self._charge(x))
            yield Step(f"calibrate {sample.name}", lambda x=sample: self._calibrate(x))

    def _sim(self, name: str) -> Path:
        return self.folder / "sim" / name

    def _store(self, name: str) -> Path:
        return self.folder / f"{name}.zarr"

    def _files(self, sample: Sample) -> list[int]:
        files: list[int] = self.done[f"simulate {sample.name}"]["result"]["files"]
        return files

    def _held_out(self, sample: Sample) -> tuple[int, int]:
        files = self._files(sample)
        return files[sample.train], files[-1]

    def _varied(self, sample: Sample) -> list[int]:
        """The held-out files that are simulated again."""
        return self._files(sample)[sample.train :][: self.settings.varied]

    def _command(self, name: str, *arguments: object) -> None:
        """Run a `larstore` command with its output in a log; raises StepError where it fails."""
        words = [str(argument) for argument in arguments]
        log = self.folder / "logs" / f"{name.replace(' ', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        environment = dict(os.environ)
        if self.data is not None:
            environment.setdefault("LARSTORE_WIRES_PATH", str(self.data / "geometry"))
        with log.open("a", encoding="utf-8") as out:
            out.write(f"$ {shlex.join(['larstore', *words])}\n")
            out.flush()
            command = [sys.executable, "-m", "larstore.cli", *words]
            code = subprocess.run(command, stdout=out, stderr=out, check=False, env=environment).returncode
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            raise StepError(f"{name}: exit {code} ({last[:300]}). Fix: see {log}, then run it again")

    def _preprocess(self, name: str, detector: str = DETECTOR, tpc: int = TPC, *more: object) -> dict[str, Any]:
        inputs = more or (self._sim(name),)
        options = ("--detector", detector, "--tpcs", tpc, "--threshold", self.settings.threshold, "--sample", name)
        self._command(f"preprocess {name}", "preprocess", *inputs, "-o", self._store(name), *options)
        return {"store": str(self._store(name))}

    def _train(self, name: str, block: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(json.dumps(block))  # a deep copy
        samples = self.settings.samples
        config["data"]["data_path"] = [str(self._store(sample.name)) for sample in samples]
        config["data"]["train_i"] = [[self._files(x)[0], self._files(x)[x.train - 1]] for x in samples]
        config["output_dir"] = str(self.folder / name)
        if name == "charge":
            config["train"]["transfer"] = str(self.folder / "ghost")
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        folder = RunFolder(config["output_dir"])
        self._command(f"train {name}", "train", path, *(["--resume"] if folder.epochs() else []), "-v")
        rows = folder.read_summaries()
        return {"epochs": len(rows), "loss": [row["train_loss"] for row in rows], "config": config}

    def _infer(self, store: str, files: tuple[int, int] | None = None, run: str = "ghost", name: str = SCORES) -> None:
        chosen = ("--files", f"{files[0]}:{files[1]}") if files else ()
        self._command(
            f"infer {store} {name}", "infer", self.folder / f"{run}.yaml", "--store", self._store(store),
            "--name", name, *chosen,
        )  # fmt: skip

    def _score(self, store: str, files: tuple[int, int] | None = None) -> dict[str, Any]:
        self._infer(store, files)
        return score_prediction(self._store(store), SCORES, files)

    def _bee(self) -> dict[str, Any]:
        assert self.data is not None
        config = self.folder / "response.yaml"
        config.write_text(yaml.safe_dump(self.settings.response), encoding="utf-8")
        self._command(
            "simulate bee", "simulate", "-o", self._sim("bee"), "--detector", DETECTOR, "--tpcs", TPC,
            "--sample", "bee", "--depos", self.data / BEE, "--config", config,
        )  # fmt: skip
        self._preprocess("bee")
        return self._score("bee")

    def _frame(self, frame: FrameInput) -> dict[str, Any]:
        assert self.data is not None
        os.environ.setdefault("LARSTORE_WIRES_PATH", str(self.data / "geometry"))
        name = f"frame-{frame.name}"
        tag = ("--tag", frame.tag) if frame.tag else ()
        self._preprocess(name, frame.detector, frame.tpc, self.data / "frames" / frame.file, "--truth", "none", *tag)
        self._infer(name)
        return explain_frame(frame, self.data, self._store(name), SCORES, self.settings.threshold)

    def _vary(self, sample: Sample, name: str, changes: dict[str, Any], lost: float) -> dict[str, Any]:
        store = f"{name}-{sample.name}"
        make_again(self._sim(store), sample, {**self.settings.response, **changes}, self._varied(sample), lost)
        self._preprocess(store)
        return self._score(store)

    def _same(self) -> dict[str, Any]:
        """The same events with the response that was trained on, to compare the variations with."""
        found = {}
        for sample in self.settings.samples:
            files = self._varied(sample)
            found[sample.name] = score_prediction(self._store(sample.name), SCORES, (files[0], files[-1]))
        return found

    def _charge(self, sample: Sample) -> dict[str, Any]:
        files = self._held_out(sample)
        self._infer(sample.name, files, "charge", CHARGE)
        scale = self.settings.charge["data"]["scale"]
        return charge_figures(self._store(sample.name), SCORES, f"{CHARGE}-charge", scale, files)

    def _calibrate(self, sample: Sample) -> dict[str, Any]:
        """With the images that were trained on, for those held out."""
        files, held_out = self._files(sample), self._held_out(sample)
        trained = files[0], files[sample.train - 1]
        self._infer(sample.name, trained, "charge", TRAINED)
        self._command(
            f"calibrate {sample.name}", "calibrate", self._store(sample.name), "--prediction", f"{CHARGE}-charge",
            "--fit-prediction", f"{TRAINED}-charge", "--fit-files", f"{trained[0]}:{trained[1]}",
            "--name", CALIBRATED, "--files", f"{held_out[0]}:{held_out[1]}",
        )  # fmt: skip
        return charge_figures(self._store(sample.name), SCORES, CALIBRATED, 1.0, held_out)
