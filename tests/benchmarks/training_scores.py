"""How good the scores of a prediction are: `train.results.sp_area`, average precision per event, and cuts beside."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import larstore
from tests.benchmarks.training_settings import TRUE_ELECTRONS
from train.results.baselines import BASELINES
from train.results.collecting import voxel_kinds
from train.results.curves import TRUE, ScoreCounts
from train.results.evaluation import read_images
from train.results.sp_area import SpCurve

NETWORK = "network"
COMPARED = ("no_cut", "plane_agreement")  # of train.results.baselines
ROUNDS = 2000  # of the bootstrap
MAX_VOXELS = 4_000_000  # read at a time


@dataclass
class _Method:
    curve: SpCurve = field(default_factory=lambda: SpCurve(TRUE_ELECTRONS))
    areas: list[float] = field(default_factory=list)
    precisions: list[float] = field(default_factory=list)
    pooled: ScoreCounts = field(default_factory=ScoreCounts)

    def add(self, score: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> None:
        self.areas.append(self.curve.add(score, truth))
        kind = voxel_kinds(truth, len(score), TRUE_ELECTRONS)
        self.pooled.add(score, kind)
        alone = ScoreCounts()
        alone.add(score, kind)
        self.precisions.append(alone.curve().average_precision)

    def summary(self) -> dict[str, Any]:
        efficiencies, purities = np.array(self.curve.efficiencies), np.array(self.curve.purities)
        return {
            "sp_area": self.curve.area,
            "sp_area_interval": interval(len(self.areas), lambda chosen: _area_of(efficiencies, purities, chosen)),
            "ap": float(np.mean(self.precisions)),
            "ap_interval": interval(
                len(self.precisions), lambda chosen: float(np.mean(np.array(self.precisions)[chosen]))
            ),
            "ap_pooled": self.pooled.curve().average_precision,
            "efficiency": self.curve.efficiency.tolist(),
            "purity": self.curve.purity.tolist(),
        }


def _area_of(efficiencies: Any, purities: Any, chosen: Any) -> float:
    from train.results.sp_area import area

    return area(efficiencies[chosen].mean(axis=0), purities[chosen].mean(axis=0))


def interval(
    n: int, statistic: Callable[[npt.NDArray[np.int64]], float], rounds: int = ROUNDS, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap over ``n`` events: ``statistic`` gets (n,) positions, drawn with replacement."""
    random = np.random.default_rng(20)
    drawn = [statistic(random.integers(n, size=n)) for _ in range(rounds)]
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def score_prediction(store_path: Path, prediction: str, files: tuple[int, int] | None = None) -> dict[str, Any]:
    """Figures of the images of ``files`` with at least one true voxel tiled; the others are counted.

    A baseline's score is brought to 0 … 1, where the thresholds of the measure are: the agreement of the planes is
    1 − spread, and no cut keeps everything below 0.5.
    """
    selection = larstore.open(store_path).select(files=files)
    methods = {name: _Method() for name in (NETWORK, *COMPARED)}
    baselines = {cut.name: cut for cut in BASELINES}
    voxels, true, all_true, empty = [], [], [], 0
    for image in read_images(selection, MAX_VOXELS, prediction):
        truth = image.truth
        n_true = int((truth >= TRUE_ELECTRONS).sum())
        if not n_true:
            empty += 1
            continue
        voxels.append(len(image))
        true.append(n_true)
        all_true.append(int((image.truth_voxels[1] >= TRUE_ELECTRONS).sum()))
        for name, method in methods.items():
            if name == NETWORK:
                score = image.score(prediction)
            elif name == "no_cut":
                score = np.full(len(image), 0.5, np.float32)
            else:
                score = 1 + baselines[name].score(image.charge, image.live)
            method.add(score, truth)
    counts = methods[NETWORK].pooled
    kept = {f"{t:.1f}": counts.kept(t).tolist() for t in (0.3, 0.5, 0.7)}
    return {
        "images": len(voxels),
        "images_without_truth": empty,
        "voxels": int(np.sum(voxels)),
        "voxels_per_image": float(np.mean(voxels)),
        "true_per_image": float(np.mean(true)),
        "purity_after_tiling": float(np.sum(true) / np.sum(voxels)),
        "tiling_efficiency": float(np.sum(true) / np.sum(all_true)),
        "at": {
            t: {"purity": k[TRUE] / max(k[0] + k[TRUE], 1), "efficiency": k[TRUE] / sum(true)} for t, k in kept.items()
        },
        "methods": {name: method.summary() for name, method in methods.items()},
    }
