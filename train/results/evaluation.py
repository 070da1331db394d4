"""Compare a prediction with the truth: average precision and curves, beside cuts that need no network."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import larstore
from larstore.errors import StoreError
from train.results.baselines import BASELINES
from train.results.curves import GHOST, TRUE, UNKNOWN, Curve, ScoreCounts

NETWORK = "network"
N_BINS = 50  # of the score histogram
CUTS = tuple(round(0.1 * i, 1) for i in range(1, 10))  # thresholds of the table of kept voxels


def evaluate(
    store_path: str | os.PathLike[str],
    prediction: str,
    out_dir: str | os.PathLike[str],
    *,
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
    truth_threshold: float = 0.0,
    max_voxels: int = 4_000_000,
) -> dict[str, Any]:
    """Write summary.json, images.csv, curves.csv and evaluate.html into ``out_dir``; returns the summary.

    A voxel is true where truth > ``truth_threshold`` (the store's units), else a ghost. Per method (the prediction
    and `train.results.baselines`): average precision (`Curve.average_precision`) pooled over all voxels, and its
    mean over images. Efficiency is given relative to the true voxels that were tiled and to all true voxels. Images
    without a complete prediction are counted and left out; those without truth count for voxels, kept and the histogram
    only.

    Args:
        files, tpcs: which images, as in `Store.select`; all by default.
        max_voxels: voxels read at a time; a larger image is read alone.

    Raises:
        StoreError: no such prediction, nothing selected, nothing predicted, or ``out_dir`` cannot be written.
    """
    store = larstore.open(store_path)
    if prediction not in store.predictions:
        known = ", ".join(sorted(store.predictions)) or "none yet"
        raise StoreError(
            f"{store.path}: no prediction {prediction!r}. Fix: one of those there are ({known}), or larstore infer"
        )
    selection = store.select(files=files, tpcs=tpcs)
    if not len(selection):
        raise StoreError(
            f"{store.path}: no image in files {files or 'all'}, TPCs {tpcs or 'all'}. "
            f"Fix: choose among those that 'larstore index {store.path}' lists"
        )
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}. Fix: another output directory") from error
    collected = Collector(truth_threshold)
    for image in read_images(selection, max_voxels, prediction):
        collected.add(image, prediction)
    if not collected.rows:
        raise StoreError(
            f"{store.path}: prediction {prediction!r} covers none of the {len(selection)} selected images. "
            "Fix: run larstore infer on them"
        )
    summary: dict[str, Any] = {
        "store": str(store.path),
        "sample": ", ".join(sorted({str(name) for name in store.inputs["sample"]} - {""})),
        "detector": store.attributes["detector"],
        "units": store.attributes["units"],
        "downsample": list(store.attributes["downsample"]),
        "prediction": prediction,
        "checkpoint_sha256": store.predictions[prediction]["checkpoint_sha256"],
        "files": list(files) if files else None,
        "tpcs": list(tpcs) if tpcs else None,
        "truth_threshold": truth_threshold,
    }
    summary |= collected.summary(len(selection))
    curves = collected.curves()
    pd.DataFrame(collected.rows).to_csv(folder / "images.csv", index=False, float_format="%.6g")
    curves.to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    plain = json.dumps(without_nan(summary), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "summary.json").write_text(plain + "\n", encoding="utf-8")
    from train.results.pages import evaluation_page  # plotly, which the figures alone need

    evaluation_page(summary, curves, pd.DataFrame(collected.rows)).write(folder / "evaluate.html")
    return summary


def read_images(selection: Any, max_voxels: int, prediction: str | None = None) -> Iterator[Any]:
    """The images of a selection with their arrays, read in runs of at most ``max_voxels`` (one image at least)."""
    ends = np.cumsum(selection.column("voxel_count").astype(np.int64))
    start = 0
    while start < len(selection):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + max_voxels, side="right")), start + 1)
        yield from selection.read(start, stop, prediction)
        start = stop


class Collector:
    """Counts pooled over images, and one row per image: ``add`` each, then ask for ``summary`` and ``curves``."""

    def __init__(self, truth_threshold: float) -> None:
        self.truth_threshold = truth_threshold
        self.labels = {NETWORK: "network", **{cut.name: cut.label for cut in BASELINES}}
        self.counts = {name: ScoreCounts() for name in self.labels}
        self.rows: list[dict[str, Any]] = []
        self.n_not_predicted = self.n_without_truth = self.n_truth_voxels = 0

    def add(self, image: Any, prediction: str) -> None:
        """Take in one image; it is left out and counted if any of its scores is missing."""
        score = image.score(prediction)
        if np.isnan(score).any():
            self.n_not_predicted += 1
            return
        kind = voxel_kinds(image.truth, len(score), self.truth_threshold)
        scores = {NETWORK: score, **{cut.name: cut.score(image.charge, image.live) for cut in BASELINES}}
        row: dict[str, Any] = dict(zip(("file", "event", "tpc"), image.key, strict=True))
        row |= {"voxels": len(score), "true_tiled": int((kind == TRUE).sum())}
        everything = image.truth_voxels
        all_true = 0 if everything is None else int((everything[1] > self.truth_threshold).sum())
        row |= {"true_all": all_true, "kept": int((score >= 0.5).sum())}
        self.n_truth_voxels += all_true
        self.n_without_truth += int(everything is None)
        for name, values in scores.items():
            self.counts[name].add(values, kind)
            alone = ScoreCounts()
            alone.add(values, kind)
            row[f"ap_{name}"] = alone.curve().average_precision
        self.rows.append(row)

    def summary(self, n_selected: int) -> dict[str, Any]:
        """All figures: plain numbers first, then ``methods``, ``kept`` and ``histogram``."""
        counts = self.counts[NETWORK]
        n = {"ghost": int(counts.n[GHOST]), "true": int(counts.n[TRUE]), "unknown": int(counts.n[UNKNOWN])}
        curves = {name: each.curve() for name, each in self.counts.items()}
        values: dict[str, Any] = {
            "images": len(self.rows),
            "images_selected": n_selected,
            "images_not_predicted": self.n_not_predicted,
            "images_without_truth": self.n_without_truth,
            "has_truth": n["true"] + n["ghost"] > 0,
            "voxels": sum(n.values()),
            "voxels_true": n["true"],
            "voxels_ghost": n["ghost"],
            "voxels_unknown": n["unknown"],
            "truth_voxels": self.n_truth_voxels,
            "tiling_efficiency": _ratio(n["true"], self.n_truth_voxels),
            "purity_after_tiling": _ratio(n["true"], n["true"] + n["ghost"]),
        }
        for name, curve in curves.items():
            key = "average_precision" if name == NETWORK else f"average_precision_{name}"
            values[key] = curve.average_precision
        values["scores_rounded"] = any(each.bits_cut for each in self.counts.values())
        values["methods"] = {name: self._method(name, curve) for name, curve in curves.items()}
        values["kept"] = [self._kept(cut) for cut in CUTS]
        low, high = counts.range()
        edges = np.linspace(*((0.0, 1.0) if low >= 0 and high <= 1 else (low, high)), N_BINS + 1)
        bins = counts.histogram(edges)
        values["histogram"] = {"edges": edges.tolist()} | {
            name: bins[:, k].tolist() for name, k in (("ghost", GHOST), ("true", TRUE), ("unknown", UNKNOWN))
        }
        return values

    def _method(self, name: str, curve: Curve) -> dict[str, Any]:
        per_image = np.array([row[f"ap_{name}"] for row in self.rows])
        per_image = per_image[np.isfinite(per_image)]
        some = len(per_image) > 0
        found: dict[str, Any] = {
            "label": self.labels[name],
            "definition": next((cut.definition for cut in BASELINES if cut.name == name), "the prediction's score"),
            "average_precision": curve.average_precision,
            "average_precision_image_mean": float(per_image.mean()) if some else math.nan,
            "average_precision_image_sd": float(per_image.std()) if some else math.nan,
        }
        best = curve.best()
        if best is not None:
            found |= {"best_threshold": float(curve.threshold[best]), "best_purity": float(curve.purity[best])}
            found["best_efficiency"] = float(curve.efficiency[best])
            found["best_efficiency_all"] = _ratio(int(curve.true[best]), self.n_truth_voxels)
        return found

    def _kept(self, threshold: float) -> dict[str, Any]:
        """What a cut on the network's score keeps."""
        counts = self.counts[NETWORK]
        kept, n = counts.kept(threshold), counts.n
        return {
            "threshold": threshold,
            "kept": int(kept.sum()),
            "kept_fraction": _ratio(int(kept.sum()), int(n.sum())),
            "purity": _ratio(int(kept[TRUE]), int(kept[TRUE] + kept[GHOST])),
            "efficiency": _ratio(int(kept[TRUE]), int(n[TRUE])),
            "efficiency_all": _ratio(int(kept[TRUE]), self.n_truth_voxels),
        }

    def curves(self) -> pd.DataFrame:
        """Points to draw: method, threshold, kept, purity, efficiency (true and tiled) and efficiency_all."""
        parts = []
        for name, counts in self.counts.items():
            curve = counts.curve()
            if not curve.n_true:
                continue
            at = curve.thinned()
            points = {"method": name, "threshold": curve.threshold[at], "kept": curve.kept[at]}
            points |= {"purity": curve.purity[at], "efficiency": curve.efficiency[at]}
            points["efficiency_all"] = curve.true[at] / max(self.n_truth_voxels, 1)
            parts.append(pd.DataFrame(points))
        columns = ["method", "threshold", "kept", "purity", "efficiency", "efficiency_all"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def voxel_kinds(truth: npt.NDArray[np.float32] | None, n: int, threshold: float) -> npt.NDArray[np.uint8]:
    """(n,) GHOST, TRUE (truth > threshold) or UNKNOWN (NaN, or no truth at all)."""
    if truth is None:
        return np.full(n, UNKNOWN, np.uint8)
    return np.where(np.isnan(truth), UNKNOWN, np.where(truth > threshold, TRUE, GHOST)).astype(np.uint8)


def without_nan(value: Any) -> Any:
    """A copy in which NaN is None, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
