"""Figures of merit with their intervals, and paired differences, from the sums of a `Collector`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from train.results.charge_tally import OF_EVENTS, POPULATIONS, ChargeTally
from train.results.collecting import Collector
from train.results.grain import MEAN_OF_PLANES, Grain
from train.results.method_tally import HALO, MethodTally, true_and_ghosts
from train.results.metrics import calibration, charge, curves_of_bins
from train.results.prediction_kinds import SCORE_CUT
from train.results.score_bins import SCORE, Bins
from train.results.score_tally import CHARGE, COUNT, TRUTH, ScoreTally
from train.results.score_tally import SCORE as SCORE_SUM
from train.results.sp_area import THRESHOLDS, areas
from train.results.stratum_charges import StratumCharges
from train.results.tallies import Floats, interval

KEYS = ("voxels", "stratum_kind", "stratum", "level", "halo", "method", "cut", "metric")
BEST = "best"
SPREAD = ("bias", "half_width", "resolution")
Key = tuple[str, ...]  # an entry for each of KEYS
Merits = dict[Key, Floats]  # (1 + B,) each: the figure, then that of each replica


def merits_of(collected: Collector) -> Merits:
    """All figures. ``cut`` says at which cut: that of the largest purity + efficiency, a score, or "" for none."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are many and small: threads would wait for each other
    try:
        return _merits_of(collected)
    finally:
        torch.set_num_threads(threads)


def _merits_of(collected: Collector) -> Merits:
    found: Merits = {}
    for grain in collected.grains:
        size = ",".join(map(str, grain.factors))
        for name, tally in grain.methods.items():
            kind = collected.methods[name].kind
            cuts = (SCORE_CUT,) if kind is not None and not kind.is_charge else ()
            for (level, halo, cut, metric), values in _of_method(grain, tally, cuts):
                found[size, "", "all", level, halo, name, cut, metric] = values
            if tally.strata is not None:
                for stratum, (level, halo, cut, metric), values in _of_strata(grain, tally.strata, cuts):
                    found[size, *stratum, level, halo, name, cut, metric] = values
        for name, charges in grain.charges.items():
            for (level, metric), values in _of_charge(charges):
                found[size, "", "all", level, "", name, "", metric] = values
        for name, of_strata in grain.stratum_charges.items():
            for stratum, (level, metric), values in _of_stratum_charges(of_strata):
                found[size, *stratum, level, "", name, "", metric] = values
    _make_exact(found, collected)
    return found


def _make_exact(found: Merits, collected: Collector) -> None:
    """Move the average precisions of the headline from those of binned scores to the exact ones, replicas alike."""
    for name, counts in collected.counts.items():
        key = (_size(collected), "", "all", collected.levels[0].name, HALO[0], name, "", "average_precision")
        if key in found:
            found[key] = found[key] + (counts.curve().average_precision - found[key][0])


def _size(collected: Collector) -> str:
    return ",".join(map(str, collected.grains[0].factors))


Found = Iterator[tuple[tuple[str, str, str, str], Floats]]


def _of_method(grain: Grain, tally: MethodTally, cuts: Sequence[float]) -> Found:
    sums, everything = tally.score.sums[:, 0], grain.truth.sums[:, 0]
    for number, level in enumerate(grain.classes.levels):
        for halo, halo_name in enumerate(HALO):
            parts = true_and_ghosts(sums, grain.classes, number, halo)
            for (cut, metric), values in _of_histograms(*parts, tally.score.bins, cuts, everything[:, number]):
                yield (level.name, halo_name, cut, metric), values
            events = tally.events.sums[:, number, halo]
            yield (level.name, halo_name, "", "average_precision_event_mean"), _ratio(events[:, 0], events[:, 1])
    if tally.unit is not None:
        yield (grain.classes.levels[-1].name, HALO[0], "", "sp_area"), areas(*_mean_curves(tally))


def _mean_curves(tally: MethodTally) -> tuple[Floats, Floats]:
    """Efficiency and purity (1 + B, thresholds), means over images, at the thresholds of the measure of 2021."""
    n, sums = tally.areas.sums[:, -1:], tally.areas.sums[:, :-1]
    means = np.divide(sums, n, out=np.full_like(sums, np.nan), where=n > 0)
    return means[:, : len(THRESHOLDS)], means[:, len(THRESHOLDS) :]


def _of_strata(
    grain: Grain, tally: ScoreTally, cuts: Sequence[float]
) -> Iterator[tuple[tuple[str, str], tuple[str, str, str, str], Floats]]:
    for index, stratum in enumerate(tally.labels):
        if index == 0 or not tally.sums[0, index, ..., COUNT].any():
            continue  # everything, which is there in finer bins; or a stratum without voxels
        for number, level in enumerate(grain.classes.levels):
            everything = grain.truth.sums[:, index, number]
            for halo, halo_name in enumerate(HALO):
                parts = true_and_ghosts(tally.sums[:, index], grain.classes, number, halo)
                for (cut, metric), values in _of_histograms(*parts, tally.bins, cuts, everything):
                    yield stratum, (level.name, halo_name, cut, metric), values


def _of_histograms(
    true: Floats, ghost: Floats, bins: Bins, cuts: Sequence[float], everything: Floats
) -> Iterator[tuple[tuple[str, str], Floats]]:
    """Figures of (1 + B, bins, quantities) of true voxels and ghosts.

    The best cut is found in the sums themselves, and its purity and efficiency are of that cut in all replicas; the
    interval of its threshold is that of the best cuts of the replicas.
    """
    n_true, n_ghost = (torch.from_numpy(np.ascontiguousarray(part[..., COUNT])) for part in (true, ghost))
    tied = torch.from_numpy(bins.tied)
    yield ("", "average_precision"), curves_of_bins.mixed_average_precision(n_true, n_ghost, tied).numpy()
    best = curves_of_bins.best_cut(n_true, n_ghost).numpy()
    thresholds = bins.thresholds[best]
    yield (BEST, "threshold"), np.where(true[..., COUNT].sum(-1) > 0, thresholds, np.nan)
    whole = true.sum(1)
    for cut, at in ((BEST, int(best[0])), *((f"{cut:g}", bins.at(cut)) for cut in cuts)):
        t, g = true[:, at:].sum(1), ghost[:, at:].sum(1)
        yield (cut, "purity"), _ratio(t[:, COUNT], t[:, COUNT] + g[:, COUNT])
        yield (cut, "purity_charge"), _ratio(t[:, CHARGE], t[:, CHARGE] + g[:, CHARGE])
        yield (cut, "efficiency"), _ratio(t[:, COUNT], whole[:, COUNT])
        yield (cut, "efficiency_charge"), _ratio(t[:, TRUTH], whole[:, TRUTH])
        yield (cut, "iou"), _ratio(t[:, COUNT], whole[:, COUNT] + g[:, COUNT])
        yield (cut, "efficiency_all"), _ratio(t[:, COUNT], everything[:, 0])
        yield (cut, "efficiency_all_charge"), _ratio(t[:, TRUTH], everything[:, 1])
    if bins is SCORE:
        yield ("", "calibration_error"), calibration.expected_error(*reliability_sums(true, ghost)).numpy()


def reliability_sums(true: Floats, ghost: Floats) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Voxels, sum of scores and true voxels (…, `calibration.N_BINS`) from histograms in the bins ``SCORE``."""
    both = true + ghost
    low = np.where(np.isfinite(SCORE.thresholds), SCORE.thresholds, 0.0)
    # An edge as float32 may lie just below the one it stands for.
    at = np.clip(np.floor(low * calibration.N_BINS + 1e-6), 0, calibration.N_BINS - 1).astype(int)
    first = np.flatnonzero(np.diff(at, prepend=-1))
    count, score, n_true = (
        torch.from_numpy(np.add.reduceat(values, first, axis=-1))
        for values in (both[..., COUNT], both[..., SCORE_SUM], true[..., COUNT])
    )
    return count, score, n_true


def _of_charge(tally: ChargeTally) -> Iterator[tuple[tuple[str, str], Floats]]:
    ratios = torch.from_numpy(tally.ratios.sums.sum(axis=-2))
    for number, level in enumerate(tally.levels):
        for population, name in enumerate(POPULATIONS):
            yield from _spread(level.name, f"voxel, {name}", ratios[:, number, population])
    events = torch.from_numpy(tally.events.sums)
    for number, name in enumerate(OF_EVENTS):
        yield from _spread(tally.levels[0].name, f"event, {name}", events[:, number])
    held, off, tiled, everything = tally.totals.sums.T
    yield (tally.levels[0].name, "charge_total"), _ratio(held, everything)
    yield (tally.levels[0].name, "charge_off"), _ratio(off, tiled)


def _of_stratum_charges(
    tally: StratumCharges,
) -> Iterator[tuple[tuple[str, str], tuple[str, str], Floats]]:
    ratios, events, totals = tally.sums
    for index, stratum in enumerate(tally.labels):
        for number, level in enumerate(tally.levels):
            counts = torch.from_numpy(ratios[:, index, number].copy())
            if not counts[0].any():
                continue
            for population in POPULATIONS:
                for key, values in _spread(level.name, f"voxel, {population}", counts, charge.FEW_EDGES):
                    yield stratum, key, values
                counts[:, 0] = 0.0  # those without charge
        for number, name in enumerate(OF_EVENTS):
            counts = torch.from_numpy(events[:, index, number].copy())
            if counts[0].any():
                for key, values in _spread(tally.levels[0].name, f"event, {name}", counts, charge.FEW_EDGES):
                    yield stratum, key, values
        held, off, tiled, everything = totals[:, index].T
        yield stratum, (tally.levels[0].name, "charge_total"), _ratio(held, everything)
        yield stratum, (tally.levels[0].name, "charge_off"), _ratio(off, tiled)


def _spread(
    level: str, of: str, counts: torch.Tensor, edges: torch.Tensor = charge.RATIO_EDGES
) -> Iterator[tuple[tuple[str, str], Floats]]:
    for name, values in zip(SPREAD, charge.spread(counts, edges), strict=True):
        yield (level, f"charge_{name} ({of})"), values.numpy()


def merit_table(merits: Merits) -> pd.DataFrame:
    """One row per figure: ``KEYS``, value, low and high of its 95 % interval."""
    rows = [[*key, float(values[0]), *interval(values)] for key, values in merits.items() if np.isfinite(values[0])]
    return pd.DataFrame(rows, columns=[*KEYS, "value", "low", "high"])


def difference_table(merits: Merits, collected: Collector) -> pd.DataFrame:
    """Paired differences ``method`` - ``than`` of predictions, and of predictions and baselines; otherwise as above."""
    position = KEYS.index("method")
    names = [*collected.methods, MEAN_OF_PLANES]
    pairs = [
        (a, b)
        for a, b in combinations(names, 2)
        if collected.methods[a].kind is not None and (b != MEAN_OF_PLANES or a in collected.grains[0].charges)
    ]
    rows: list[list[Any]] = []
    for key, values in merits.items():
        if key[KEYS.index("metric")] == "threshold":
            continue
        for a, b in pairs:
            other = merits.get((*key[:position], b, *key[position + 1 :])) if key[position] == a else None
            if other is not None and np.isfinite(values[0] - other[0]):
                difference = values - other
                rows.append([*key[: position + 1], b, *key[position + 1 :], difference[0], *interval(difference)])
    columns = [*KEYS[: position + 1], "than", *KEYS[position + 1 :], "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def charge_table(collected: Collector) -> pd.DataFrame:
    """Bias, half width and resolution of charges by bin of the true charge, at full voxels."""
    grain = collected.grains[0]
    rows: list[list[Any]] = []
    for name, tally in grain.charges.items():
        edges = [0.0, *tally.edges.tolist(), np.inf]
        counts = torch.from_numpy(tally.ratios.sums)
        for number, level in enumerate(grain.classes.levels):
            for population, of in enumerate(POPULATIONS):
                for at in range(len(edges) - 1):
                    each = counts[:, number, population, at]
                    n = int(each[0].sum())
                    if not n:
                        continue
                    figures = [values.numpy() for values in charge.spread(each)]
                    spread = [number for values in figures for number in (float(values[0]), *interval(values))]
                    rows.append([name, level.name, of, edges[at], edges[at + 1], n, *spread])
    of_figures = [f"{n}{end}" for n in SPREAD for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["method", "level", "voxels", "from", "to", "n", *of_figures])


def mean_curve_table(collected: Collector) -> pd.DataFrame:
    """Means over images of efficiency and purity of cuts, with intervals, at full voxels."""
    rows: list[list[Any]] = []
    for name, tally in collected.grains[0].methods.items():
        if tally.unit is None or not tally.areas.sums[0, -1]:
            continue
        efficiency, purity = _mean_curves(tally)
        for i, threshold in enumerate(THRESHOLDS):
            figures = (efficiency[:, i], purity[:, i])
            rows.append([name, threshold, *(x for each in figures for x in (float(each[0]), *interval(each)))])
    of_figures = [f"{name}{end}" for name in ("efficiency", "purity") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["method", "threshold", *of_figures])


def reliability_table(collected: Collector) -> pd.DataFrame:
    """Mean score, fraction of true voxels with its interval, and voxels of each bin, of scores, at full voxels."""
    rows: list[list[Any]] = []
    grain = collected.grains[0]
    for name, tally in grain.methods.items():
        if tally.score.bins is not SCORE:
            continue
        for number, level in enumerate(grain.classes.levels):
            count, score, true = reliability_sums(*true_and_ghosts(tally.score.sums[:, 0], grain.classes, number, 0))
            means, fractions = (values.numpy() for values in calibration.reliability(count, score, true))
            rows += [
                [name, level.name, float(means[0, i]), float(fractions[0, i]), *interval(fractions[:, i]), int(n)]
                for i, n in enumerate(count[0].tolist())
                if n
            ]
    return pd.DataFrame(rows, columns=["method", "level", "score", "true_fraction", "low", "high", "voxels"])


def of_headline(merits: Mapping[Key, Floats], collected: Collector, method: str, cut: str, metric: str) -> Any:
    """The (1 + B,) figure at full voxels and the first level, halo counted as ghosts; None if there is none."""
    level = collected.levels[-1 if metric == "sp_area" else 0].name
    return merits.get((_size(collected), "", "all", level, HALO[0], method, cut, metric))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))
