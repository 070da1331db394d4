"""Charges that the classical solver finds for the images of a store, written as a prediction of their own."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.image import Image
from larstore.selection import expect_tpcs
from larstore.store import Store
from train.results.prediction_kinds import prediction_of
from train.results.solving import DAMP, METHODS, PASSES, PENALTY, Solution, check_settings, solve_charges, wire_system
from train.results.wire_shares import PlaneWires, plane_wires, voxel_shares
from train.runtime import log_to_stderr
from train.streaming.choosing import expect_images

THRESHOLD = 0.35  # the research code's

log = logging.getLogger("larstore.train")


@dataclass(frozen=True)
class SolveResult:
    """What a call did: images and voxels it solved now, how many it kept, images solved before, seconds.

    ``not_converged``: images whose charges are not yet the best ones; the log names them.
    """

    store: str
    name: str
    images: int
    voxels: int
    kept: int
    done_before: int
    not_converged: int
    seconds: float


def solve(
    store: str | os.PathLike[str],
    name: str,
    *,
    kept_by: str | None = None,
    threshold: float = THRESHOLD,
    on_true: bool = False,
    method: str = METHODS[0],
    damp: float = DAMP,
    penalty: float = PENALTY,
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
    query: str | None = None,
    verbose: bool = False,
    progress: bool = True,
) -> SolveResult:
    """Write ``predictions/NAME``: the charge in electrons of each kept voxel (`train.results.solving`), 0 for others.

    Shards that an earlier, interrupted call with the same settings has written are kept.

    Args:
        store: path of the store; of single TPCs, not of joined ones.
        name: of the prediction; one name belongs to one choice of settings and images.
        kept_by: keep the voxels whose score in this prediction is at least ``threshold``.
        on_true: keep the true voxels (truth > 0): the best that the solver can do. Neither: all voxels are kept.
        method, damp, penalty: as in `solve_charges`.
        files, tpcs, query: which images, as in `Store.select`; all by default.

    Raises:
        ConfigError: settings that make no sense together, or nothing is selected.
        StoreError: a joined store, an image without score or truth, or a name that is taken or being written.
    """
    with log_to_stderr(verbose):
        opened = larstore.open(store)
        solver = _Solver(opened, kept_by, threshold, on_true, method, damp, penalty)
        expect_tpcs(opened, tpcs, "--tpcs")
        return _run(solver, opened.select(files=files, tpcs=tpcs, query=query), name, progress)


def _run(solver: "_Solver", selection: Any, name: str, progress: bool) -> SolveResult:
    began, path = time.monotonic(), selection.store.path
    expect_images(selection)
    images = voxels = kept = 0
    unfinished: list[tuple[int, int, int]] = []
    with larstore.PredictionWriter(path, name, solver.attributes) as writer:
        groups = writer.groups(selection)
        total = sum(len(image) for _, group in groups for image in group)
        with Progress(console=Console(stderr=True), disable=not (progress and sys.stderr.isatty())) as bar:
            task = bar.add_task(name, total=total)
            try:
                for shard, group in groups:
                    found = []
                    for image in group:
                        wanted, solution = solver(image)
                        found.append((image, solution.charge.astype(np.float32)))
                        kept += int(wanted.sum())
                        if not solution.converged:
                            unfinished.append(image.key)
                        bar.advance(task, len(image))
                    writer.write(shard, found)
                    writer.commit()
                    images, voxels = images + len(group), voxels + sum(len(image) for image in group)
            except KeyboardInterrupt:
                log.warning("%s: stopped. What is done is kept, the same command does the rest", path)
                raise
        if not groups:
            writer.commit()
    if unfinished:
        log.warning(
            "%s: charges of %d images, the first (file, event, tpc) %s, are not yet the best ones. Fix: a larger damp",
            path,
            len(unfinished),
            unfinished[0],
        )
    seconds = time.monotonic() - began
    return SolveResult(str(path), name, images, voxels, kept, len(selection) - images, len(unfinished), seconds)


class _Solver:
    """Solves images of one store with one choice of settings, after checking that these make sense for it."""

    def __init__(
        self,
        store: Store,
        kept_by: str | None,
        threshold: float,
        on_true: bool,
        method: str,
        damp: float,
        penalty: float,
    ) -> None:
        check_settings(method, damp, penalty)
        if kept_by is not None and on_true:
            raise ConfigError(
                f"voxels kept by prediction {kept_by!r} or the true ones, not both. Fix: give one of them"
            )
        if store.geometry.joined:
            raise StoreError(
                f"{store.path}: TPCs {store.geometry.joined} are joined, their wires are not. "
                "Fix: solve the store that it was joined from"
            )
        self.kept_by, self.threshold, self.on_true = kept_by, threshold, on_true
        self.options: dict[str, Any] = {"method": method, "damp": damp, "penalty": penalty}
        self._store = store
        self._planes: dict[int, tuple[PlaneWires, ...]] = {}
        settings = self.options | {"passes": PASSES, "kept": "true" if on_true else kept_by or "all"}
        if method != "lasso":
            del settings["penalty"]
        if kept_by is not None:
            settings |= {
                "threshold": threshold,
                "kept_by_sha256": prediction_of(store, kept_by, "score")["checkpoint_sha256"],
            }
        text = json.dumps({"solver": settings}, sort_keys=True)
        self.attributes: dict[str, Any] = {
            # Whoever resumes a prediction tells it by this: here it stands for the settings.
            "checkpoint_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "output": "charge",
            **settings,
            "kept_by": kept_by,
            "units": store.attributes["units"],
            "versions": {package: version(package) for package in ("larstore", "numpy", "scipy")},
        }

    def __call__(self, image: Image) -> tuple[npt.NDArray[np.bool_], Solution]:
        """Which voxels of an image are kept (n,), and their charges."""
        image = Image(image.store, image.row)  # its arrays are let go of when it is solved
        kept = self._kept(image)
        tpc = image.key[2]
        if tpc not in self._planes:
            self._planes[tpc] = plane_wires(self._store.geometry, tpc)
        frame = self._store.geometry.tpcs[tpc]
        shares = voxel_shares(self._planes[tpc], frame, self._store.attributes["downsample"], image.coords)
        system = wire_system(image.coords, image.charge, image.live, shares)
        return kept, solve_charges(system, kept, **self.options)

    def _kept(self, image: Image) -> npt.NDArray[np.bool_]:
        if self.on_true:
            truth = image.truth
            if truth is None or np.isnan(truth).any():
                raise StoreError(
                    f"{self._store.path}: image {image.key} has no truth to keep voxels by. "
                    "Fix: choose images that have, or another way to keep voxels"
                )
            return np.asarray(truth > 0)
        if self.kept_by is None:
            return np.ones(len(image), bool)
        score = image.score(self.kept_by)
        if np.isnan(score).any():
            raise StoreError(
                f"{self._store.path}: prediction {self.kept_by!r} has no scores of image {image.key}. "
                f"Fix: larstore infer --name {self.kept_by}, or choose images that have them"
            )
        return np.asarray(score >= self.threshold)
