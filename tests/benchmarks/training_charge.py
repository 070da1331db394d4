"""How good the predicted charges are, against the electrons that reach the wires and the mean of the planes."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import larstore
from tests.benchmarks.training_settings import TRUE_ELECTRONS
from train.results.baselines import mean_of_planes
from train.results.evaluation import read_images

N_DECILES = 10
ESTIMATES = "network", "calibrated", "mean of planes"
CUT = 0.5  # of the score, for the sum over kept voxels


def charge_figures(
    store_path: Path, scores: str, charges: str, scale: float, files: tuple[int, int], max_voxels: int = 4_000_000
) -> dict[str, Any]:
    """Bias and resolution on the voxels with truth of at least 5 ke, by decile of the charge.

    ``deciles`` are those of the collected charge: what a voxel of that much is taken for. ``estimated`` are those of
    the estimate itself: how far one that reads so much is off. An estimate of finite resolution cannot be without bias
    in both; one that minimises its absolute error has none in the second.

    Estimates are the network's, and the mean of the live planes' charges; of each the ratio to what is collected is
    looked at, see `spread`. ``sums``: per image Σ estimate over voxels with score >= 0.5 over Σ collected of all truth
    voxels of the image.

    Args:
        scores, charges: predictions of the store.
        scale: what the charges are in, ``data.scale`` of the training: electrons × scale.
    """
    collected, network, planes = [], [], []
    sums: dict[str, list[float]] = {"network": [], "mean of planes": []}
    selection = larstore.open(store_path).select(files=files)
    for image in read_images(selection, max_voxels, scores):
        truth = image.truth
        true = truth >= TRUE_ELECTRONS
        if not true.any():
            continue
        estimate = image.score(charges) / scale
        mean = mean_of_planes(image.charge, image.live)
        collected.append(image.collected[true])
        network.append(estimate[true])
        planes.append(mean[true])
        kept = image.score(scores) >= CUT
        everything = float(image.truth_columns["collected"].sum())
        sums["network"].append(float(estimate[kept].sum() / everything))
        sums["mean of planes"].append(float(mean[kept].sum() / everything))
    reference = np.concatenate(collected)
    estimates = {"network": np.concatenate(network), "mean of planes": np.concatenate(planes)}
    return {
        "voxels": len(reference),
        "methods": {name: compare(values, reference) for name, values in estimates.items()},
        "sums": {name: {**spread(np.array(ratios)), "images": len(ratios)} for name, ratios in sums.items()},
    }


def charges_of(done: dict[str, Any], name: str) -> dict[str, Any] | None:
    """`charge_figures` of a sample from the results of the steps, with the method "calibrated"; None without them."""
    if f"charge {name}" not in done:
        return None
    figures: dict[str, Any] = done[f"charge {name}"]
    calibrated = done[f"calibrate {name}"]
    both = {key: {**figures[key], "calibrated": calibrated[key]["network"]} for key in ("methods", "sums")}
    return {**figures, **both}


def compare(estimate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> dict[str, Any]:
    """`spread` of the ratio estimate / reference, and of the ``deciles`` of the reference and of the ``estimated``."""
    ratio = estimate.astype(np.float64) / reference
    return {**spread(ratio), "deciles": _by_decile(ratio, reference), "estimated": _by_decile(ratio, estimate)}


def _by_decile(ratio: npt.NDArray[Any], charge: npt.NDArray[Any]) -> list[dict[str, float]]:
    """`spread` of the ratios in each decile of the charge, with its range."""
    parts = np.array_split(np.argsort(charge, kind="stable"), N_DECILES)  # equal charges may be parted
    return [
        {"low": float(charge[part[0]]), "high": float(charge[part[-1]]), **spread(ratio[part])}
        for part in parts
        if len(part)
    ]


def spread(ratio: npt.NDArray[Any]) -> dict[str, float]:
    """Of ratios to the reference: ``bias`` = median − 1, ``resolution`` = half the central 68 % over the median.

    Over the median, as an estimate that is far too small would else look sharp; infinite where that is not above 0.
    """
    low, middle, high = np.quantile(ratio, [0.16, 0.5, 0.84])
    width = float(high - low) / 2 / float(middle) if middle > 0 else float("inf")
    return {"bias": float(middle) - 1, "resolution": width}
