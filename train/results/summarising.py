"""The plain figures of an evaluation: what summary.json holds, and the points of its curves."""

import math
from typing import Any

import numpy as np
import pandas as pd

from train.results.charge_units import electron_in
from train.results.collecting import Collector
from train.results.curves import GHOST, TRUE, UNKNOWN, Curve, ScoreCounts
from train.results.grain import MEAN_OF_PLANES
from train.results.merits import BEST, Merits, of_headline
from train.results.tallies import interval

N_BINS = 50  # of the score histogram
SCORE_CUTS = tuple(round(0.1 * i, 1) for i in range(1, 10))  # thresholds of the table of kept voxels
CHARGE_CUTS = (1.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)  # electrons
CHARGE_DECADES = tuple(10.0**k for k in range(-3, 5))  # of another unit
# Of the figures with an interval, those of a method in the summary: name there -> cut, metric.
HEADLINE = {
    "average_precision": ("", "average_precision"),
    "average_precision_event_mean": ("", "average_precision_event_mean"),
    "sp_area": ("", "sp_area"),
    "best_threshold": (BEST, "threshold"),
    "best_purity": (BEST, "purity"),
    "best_efficiency": (BEST, "efficiency"),
    "calibration_error": ("", "calibration_error"),
}


def summary_of(collected: Collector, merits: Merits, n_selected: int) -> dict[str, Any]:
    """All figures: plain numbers first, then ``methods``, ``kept`` and ``histogram``."""
    first = next(iter(collected.methods))
    counts = collected.counts[first]
    n = {"ghost": int(counts.n[GHOST]), "true": int(counts.n[TRUE]), "unknown": int(counts.n[UNKNOWN])}
    curves = {name: each.curve() for name, each in collected.counts.items()}
    images = collected.images()
    values: dict[str, Any] = {
        "images": collected.n_images,
        "images_selected": n_selected,
        "images_not_predicted": collected.n_not_predicted,
        "images_without_truth": collected.n_without_truth,
        "images_untiled_unknown": collected.n_untiled_unknown,
        "images_without_collected": collected.n_without_collected,
        "events": collected.n_events,
        "has_truth": n["true"] + n["ghost"] > 0,
        "voxels": sum(n.values()),
        "voxels_true": n["true"],
        "voxels_ghost": n["ghost"],
        "voxels_unknown": n["unknown"],
        "truth_voxels": collected.n_truth_voxels,
        "tiling_efficiency": _ratio(n["true"], collected.all_true),
        "purity_after_tiling": _ratio(n["true"], n["true"] + n["ghost"]),
    }
    for name, curve in curves.items():
        key = "average_precision" if name == first else f"average_precision_{name}"
        values[key] = curve.average_precision
    values["scores_rounded"] = any(each.bits_cut for each in collected.counts.values())
    values["bootstrap"], values["seed"] = collected.weights.replicas, collected.weights.seed
    values["levels"] = [{"name": level.name, "label": level.label} for level in collected.levels]
    values["voxel_sizes"] = [",".join(map(str, grain.factors)) for grain in collected.grains]
    values["predictions"] = {
        name: {"name": method.kind.name, "output": "charge" if method.kind.is_charge else "score"}
        | ({"scale": method.kind.scale, "reference": method.kind.reference} if method.kind.is_charge else {})
        for name, method in collected.methods.items()
        if method.kind is not None
    }
    values["methods"] = {
        name: _method(collected, merits, name, curve, images[f"ap_{name}"].to_numpy()) for name, curve in curves.items()
    }
    values["charges"] = _charges(collected, merits)
    if collected.lit.n_images or collected.lit.missing:
        values["lit_charge"] = collected.lit.told()
    values["kept"] = [_kept(collected, cut) for cut in _cuts(collected, first)]
    low, high = counts.range()
    edges = np.linspace(*((0.0, 1.0) if low >= 0 and high <= 1 else (low, high)), N_BINS + 1)
    bins = counts.histogram(edges)
    values["histogram"] = {"edges": edges.tolist()} | {
        name: bins[:, k].tolist() for name, k in (("ghost", GHOST), ("true", TRUE), ("unknown", UNKNOWN))
    }
    return values


def _method(
    collected: Collector, merits: Merits, name: str, curve: Curve, per_image: "np.ndarray[Any, Any]"
) -> dict[str, Any]:
    method = collected.methods[name]
    per_image = per_image[np.isfinite(per_image)]
    some = len(per_image) > 0
    found: dict[str, Any] = {
        "label": method.label,
        "definition": method.definition,
        "average_precision": curve.average_precision,
        "average_precision_image_mean": float(per_image.mean()) if some else math.nan,
        "average_precision_image_sd": float(per_image.std()) if some else math.nan,
    }
    best = curve.best()
    if best is None:  # no true voxel
        found |= dict.fromkeys(("best_threshold", "best_purity", "best_efficiency", "best_efficiency_all"), math.nan)
    else:
        found |= {"best_threshold": float(curve.threshold[best]), "best_purity": float(curve.purity[best])}
        found["best_efficiency"] = float(curve.efficiency[best])
        found["best_efficiency_all"] = _ratio(int(curve.true[best]), collected.all_true)
    for key, (cut, metric) in HEADLINE.items():
        figure = of_headline(merits, collected, name, cut, metric)
        if figure is None or not np.isfinite(figure[0]):
            continue
        # The best cut is exact here, that of the figure is an edge of a bin.
        exact = found.setdefault(key, float(figure[0]))
        ends = interval(figure if metric == "threshold" else figure + (exact - figure[0]))
        if np.isfinite(ends).all():
            found[f"{key}_interval"] = list(ends)
    return found


def _charges(collected: Collector, merits: Merits) -> dict[str, Any]:
    """Of each charge: label, what it is compared with, figures at full voxels and the first level, with intervals.

    ``strata``: kind -> label -> the same figures of that stratum.
    """
    found: dict[str, Any] = {}
    compared = {name: method.kind.reference for name, method in collected.methods.items() if method.kind is not None}
    first = next((kind.reference for kind in collected.kinds if kind.is_charge), "truth")
    for name in collected.grains[0].charges:
        label = "mean of the planes" if name == MEAN_OF_PLANES else collected.methods[name].label
        found[name] = {"label": label, "reference": compared.get(name, first)}
    for key, figure in merits.items():
        size, kind, stratum, level, halo, method, _, metric = key
        at_full = size == "1,1,1" and level == collected.levels[0].name
        if not at_full or halo != "" or method not in found or not np.isfinite(figure[0]):
            continue
        of = found[method]
        if kind:
            of = of.setdefault("strata", {}).setdefault(kind, {}).setdefault(stratum, {})
        of[metric] = float(figure[0])
        ends = interval(figure)
        if np.isfinite(ends).all():
            of[f"{metric}_interval"] = list(ends)
    return found


def _cuts(collected: Collector, name: str) -> tuple[float, ...]:
    kind = collected.methods[name].kind
    if kind is None or not kind.is_charge:
        return SCORE_CUTS
    electron = electron_in(collected.units.truth)
    return CHARGE_DECADES if electron is None else tuple(float(f"{cut * electron:g}") for cut in CHARGE_CUTS)


def _kept(collected: Collector, threshold: float) -> dict[str, Any]:
    """What a cut on the first prediction keeps."""
    counts: ScoreCounts = next(iter(collected.counts.values()))
    kept, n = counts.kept(threshold), counts.n
    return {
        "threshold": threshold,
        "kept": int(kept.sum()),
        "kept_fraction": _ratio(int(kept.sum()), int(n.sum())),
        "purity": _ratio(int(kept[TRUE]), int(kept[TRUE] + kept[GHOST])),
        "efficiency": _ratio(int(kept[TRUE]), int(n[TRUE])),
        "efficiency_all": _ratio(int(kept[TRUE]), collected.all_true),
    }


def curve_table(collected: Collector) -> pd.DataFrame:
    """Points to draw: method, threshold, kept, purity, efficiency (true and tiled) and efficiency_all."""
    parts = []
    for name, counts in collected.counts.items():
        curve = counts.curve()
        if not curve.n_true:
            continue
        at = curve.thinned()
        points: dict[str, Any] = {"method": name, "threshold": curve.threshold[at], "kept": curve.kept[at]}
        points |= {"purity": curve.purity[at], "efficiency": curve.efficiency[at]}
        points["efficiency_all"] = curve.true[at] / max(collected.all_true, 1.0)
        parts.append(pd.DataFrame(points))
    columns = ["method", "threshold", "kept", "purity", "efficiency", "efficiency_all"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _ratio(part: int, whole: float) -> float:
    return part / whole if whole else math.nan
