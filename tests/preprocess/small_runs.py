"""Runs over small read-outs: their inputs, their configuration, and faults that workers meet."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocess.config import RunConfig

DETECTOR = "protodune-sp-2021"


def write_read_out(path: Path, seed: int = 0, events: int = 1, lit: int = 400) -> Path:
    """A small read-out whose three planes are lit in a few places."""
    rng = np.random.default_rng(seed)
    waveforms = np.zeros((events, 64, 2560), np.float32)
    for waveform in waveforms:
        waveform[rng.integers(0, 64, lit), rng.integers(0, 2560, lit)] = rng.uniform(0.1, 5, lit)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, *waveforms)
    return path


def make_config(tmp_path: Path, files: int = 7, events: int = 1, **options) -> RunConfig:
    """A run over ``files`` read-outs, a task for each."""
    for file in range(files):
        write_read_out(tmp_path / "raw" / f"a_{file}_wire-TPC1.npz", file, events)
    settings = {"task_bytes": 1, "min_live_planes": 1, "truth": None, "retry_seconds": 0.05} | options
    return RunConfig(inputs=(str(tmp_path / "raw"),), output=tmp_path / "run.zarr", detector=DETECTOR, **settings)


def fault(name: str, what: str, once: str = "") -> Callable[[], None]:
    """For every worker, also restarted ones: the unit of a file ``name`` kills its process, raises, or is slow.

    ``once``: path of a file to make: only whoever makes it meets the fault. Nested, so that it travels by value, as
    workers cannot import a test.
    """

    def install() -> None:
        import preprocess.task

        unpatched = preprocess.task.process_unit

        def strikes() -> bool:
            if not once:
                return True
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
            return True

        def patched(unit, *arguments):
            time.sleep(0.2)  # so that other units wait on the same worker
            if name in unit.path and strikes():
                if what == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if what == "raise":
                    raise ZeroDivisionError("planted\nfault")
                if what == "stumble":
                    raise larstore.errors.InputError(f"{unit.path}: cannot be read") from OSError(5, "I/O error")
                if what == "refuse to write":
                    raise preprocess.task._WriteError(_refused(5))
                if what == "full disk":
                    raise preprocess.task._WriteError(_refused(28))
                time.sleep(float(what))
            return unpatched(unit, *arguments)

        import larstore

        def _refused(number: int) -> Exception:
            error = larstore.errors.StoreError("a/store: cannot write (planted). Fix: nothing")
            error.__cause__ = OSError(number, "planted")
            return error

        preprocess.task.process_unit = patched

    return install
