"""Stand-ins for units of a run: nearly empty inputs, and a way to take the tiling's place on every worker."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocess.cluster.keeper import ClusterState, Keeper
from preprocess.config import RunConfig

DETECTOR = "protodune-sp"


def run_config(folder: Path, n_units: int, **options: object) -> RunConfig:
    """A run over so many inputs, all of them names of one small file."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    np.savez(folder / "small.npz", np.zeros((4, 2560), np.float32))
    for number in range(n_units):
        os.link(folder / "small.npz", raw / f"a_{number}_wire-TPC1.npz")
    return RunConfig(inputs=(str(raw),), output=folder / "run.zarr", detector=DETECTOR, truth=None, **options)


def stand_in(seconds: float, burn: bool = False, patch_worker: bool = False) -> Callable[[], None]:
    """For every worker: a unit sleeps, or burns processor time, for so long, and yields an image of 20 voxels.

    ``patch_worker``: ask for no Dask worker either. Nested, so that it travels by value.
    """

    def install() -> None:
        import time
        from dataclasses import replace
        from types import SimpleNamespace

        import preprocess.task
        from larstore.records import InputFile
        from larstore.testing import make_image
        from preprocess.pipeline import UnitResult

        image = make_image(file=0, event=0, tpc=1, n_voxels=20, input="")

        def unit_of(unit, config, geometry_hash, take):
            end = time.perf_counter() + seconds
            if burn:
                while time.perf_counter() < end:
                    pass
            elif seconds:
                time.sleep(seconds)
            take(replace(image, file=unit.file, tpc=unit.tpc, input=unit.path))
            return UnitResult(inputs=[InputFile(unit.path, unit.file, unit.size, f"{unit.file:064x}")])

        preprocess.task.process_unit = unit_of
        if patch_worker:
            worker = SimpleNamespace(state=SimpleNamespace(nthreads=1))
            preprocess.task.get_worker = lambda: worker

    return install


class InstantClient:
    """In place of a cluster's client: what is submitted is done here and at once; ``busy`` is the seconds that took."""

    status = "running"
    scheduler = None

    def __init__(self, keeper: object) -> None:
        self.keeper = keeper
        self.busy = self.began = 0.0  # seconds of the tasks, and when the first one came
        self.tasks = 0

    def submit(self, call: Callable[..., object], *arguments: object, **options: object) -> "DoneFuture":
        """Do it."""
        start = time.perf_counter()
        self.began = self.began or start
        result = call(*arguments)
        self.busy += time.perf_counter() - start
        self.tasks += 1
        return DoneFuture(result)


class DoneFuture:
    """A future that is done."""

    status = "finished"

    def __init__(self, result: object) -> None:
        self._result = result

    def add_done_callback(self, call: Callable[["DoneFuture"], None]) -> None:
        """Call it."""
        call(self)

    def result(self, timeout: float) -> object:
        """What came out."""
        return self._result

    def release(self) -> None:
        """Nothing is held."""

    def cancel(self) -> None:
        """Too late."""


class SteadyKeeper(Keeper):
    """Of workers that are always there."""

    def __init__(self, slots: int) -> None:
        super().__init__(None, slots, slots)

    def wanted(self, n_tasks: int) -> None:
        """There are no more."""

    def state(self) -> ClusterState:
        """All of them."""
        return ClusterState(self._least, self._least, 0, self._least)
