"""Rows of events pooled into samples and bins of angle: the numbers that are only meaningful together."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from larstore.errors import ConfigError
from preprocess.closure.events import TRACKS
from preprocess.closure.measure import STRONG
from preprocess.closure.rows import Row

EDGES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)  # degrees
FLAT = 60.0  # tracks below it in every plane are what the bars are for
ALL, LARGEST_XZ, SMALLEST_YZ = "all", "largest θ_xz", "smallest θ_yz"
COUNTS = (
    "tiled", "true", "both", "strong", "strong_found", "charge", "charge_found", "charge_outside", "collected",
)  # fmt: skip
KEY = ["sample", "response", "threshold", "dead"]
# The bars: noise-free charge and plane sums; then charge, strong voxels and purity of flat tracks.
NOISE_FREE_CHARGE, NOISE_FREE_BIAS = 0.995, 0.005
OWN = 1e-4  # less charge from another face does not count
CHARGE, STRONG_VOXELS, PURITY = 0.97, 0.98, 0.03


def pooled(rows: Sequence[Row], planes: Sequence[str]) -> pd.DataFrame:
    """One line per sample, response, threshold and fraction of dead channels, and for single muons per bin of angle.

    Args:
        rows: as ``tiled_rows`` yields them.
        planes: their names.

    Returns:
        Columns ``KEY``, then ``angle``, ``low``, ``high`` (degrees; of ALL: NaN), ``events``, then ratios:

        charge: true electrons in tiled voxels / those inside the pixel grid and the read-out window.
        strong: tiled voxels above 5 ke of truth / all such voxels.
        purity: tiled voxels with truth / tiled voxels; purity_median: of the events' own ones. per_true: tiled voxels
        / true voxels.
        outside: true electrons outside the grid and window / all of the TPC's drift volume.
        bias_P: charge of plane P in all tiled voxels / electrons collected − 1. spread_P: half the central 68 % of
        that ratio over events. foreign_P: charge from the other face of wrapped wires / electrons collected; it is
        part of the plane's sum as far as it lies on tiled voxels.
        voxel_P, voxel_spread_P: median and half the central 68 % of charge / electrons collected in strong tiled
        voxels where the plane is live.

        NaN where nothing is counted.
    """
    lines = []
    for key in dict.fromkeys((row.sample, row.response, row.threshold, row.dead) for row in rows):
        members = [row for row in rows if (row.sample, row.response, row.threshold, row.dead) == key]
        for angle, low, high, chosen in _bins(members, planes):
            if chosen:
                place = {"angle": angle, "low": low, "high": high, "events": len(chosen)}
                lines.append(dict(zip(KEY, key, strict=True)) | place | _ratios(chosen, planes))
    return pd.DataFrame(lines)


def events_table(rows: Sequence[Row], planes: Sequence[str]) -> pd.DataFrame:
    """One line per event and tiling with its counts and angles, for other cuts than ours."""
    lines = []
    for row in rows:
        line = {"tpc": row.tpc, "number": row.number} | {name: getattr(row, name) for name in KEY}
        line |= {name: getattr(row.measured, name) for name in COUNTS}
        for index, plane in enumerate(planes):
            line[f"charge_{plane}"] = row.measured.plane_charge[index]
            line[f"foreign_{plane}"] = row.foreign[index]
            line[f"theta_xz_{plane}"] = row.theta_xz[index]
            line[f"theta_yz_{plane}"] = row.theta_yz[index]
        lines.append(line)
    return pd.DataFrame(lines)


def verdict(line: pd.Series, planes: Sequence[str]) -> str:
    """What a pooled line says about its bar: "met", "missed: …" with the measures, or "" where there is none.

    Noise-free lines of all events: charge, and the sums of planes without charge from another face. Tracks below 60°
    in every plane: charge, voxels, purity.
    """
    if line["dead"] > 0:
        return ""
    if line["response"] != "default" and line["angle"] == ALL and line["threshold"] == 1.0:
        short = [] if line["charge"] >= NOISE_FREE_CHARGE else ["charge"]
        own = [plane for plane in planes if line[f"foreign_{plane}"] <= OWN]
        short += [f"plane {plane}" for plane in own if not abs(line[f"bias_{plane}"]) <= NOISE_FREE_BIAS]
    elif line["response"] == "default" and line["sample"] == TRACKS and is_flat(line):
        least = {"charge": CHARGE, "strong": STRONG_VOXELS, "purity": PURITY}
        short = [name for name, bar in least.items() if not line[name] >= bar]
    else:
        return ""
    return "missed: " + ", ".join(short) if short else "met"


def is_flat(line: pd.Series) -> bool:
    """Whether a pooled line is that of all tracks below 60° in every plane."""
    return bool(line["angle"] == LARGEST_XZ and line["low"] == 0.0 and line["high"] == FLAT)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table with 6 significant digits; ConfigError where that is not possible."""
    try:
        table.to_csv(path, index=False, float_format="%.6g")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Fix: another output folder.") from error
    return path


def groups(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, float, float], pd.DataFrame]]:
    """(sample, response, threshold, dead) and its lines, in the order of the table."""
    for _, lines in table.groupby(KEY, sort=False):
        first = lines.iloc[0]
        yield (first["sample"], first["response"], first["threshold"], first["dead"]), lines


def _bins(rows: list[Row], planes: Sequence[str]) -> Iterator[tuple[str, float, float, list[Row]]]:
    yield ALL, np.nan, np.nan, rows
    tracks = [row for row in rows if np.isfinite(row.theta_xz).all()]
    if not tracks:
        return
    xz, yz = np.array([row.theta_xz for row in tracks]), np.array([row.theta_yz for row in tracks])
    angles = {LARGEST_XZ: xz.max(axis=1), SMALLEST_YZ: yz.min(axis=1)}
    for index, plane in enumerate(planes):
        angles[f"θ_xz of {plane}"] = xz[:, index]
        angles[f"θ_yz of {plane}"] = yz[:, index]
    for name, degrees in angles.items():
        ranges = [(0.0, FLAT), (FLAT, 90.0)] if name == LARGEST_XZ else []
        for low, high in [*ranges, *pairwise(EDGES)]:
            inside = (low <= degrees) & ((degrees < high) | (high == EDGES[-1]))
            yield name, low, high, [tracks[i] for i in np.flatnonzero(inside)]


def _ratios(rows: list[Row], planes: Sequence[str]) -> dict[str, float]:
    found = [row.measured for row in rows]

    def total(name: str) -> float:
        return float(sum(getattr(each, name) for each in found))

    out = {
        "charge": _over(total("charge_found"), total("charge")),
        "strong": _over(total("strong_found"), total("strong")),
        "purity": _over(total("both"), total("tiled")),
        "purity_median": _middle(np.array([each.both / each.tiled for each in found if each.tiled]))[0],
        "per_true": _over(total("tiled"), total("true")),
        "outside": _over(total("charge_outside"), total("charge_outside") + total("charge")),
    }
    ratios = np.concatenate([each.voxel_ratio for each in found])
    for index, plane in enumerate(planes):
        charge = np.array([each.plane_charge[index] for each in found])
        collected = np.array([each.collected for each in found])
        some = collected > 0
        out[f"bias_{plane}"] = _over(float(charge.sum()), float(collected.sum())) - 1.0
        out[f"foreign_{plane}"] = _over(float(sum(row.foreign[index] for row in rows)), float(collected.sum()))
        out[f"spread_{plane}"] = _middle(charge[some] / collected[some])[1]
        voxels = ratios[:, index]
        out[f"voxel_{plane}"], out[f"voxel_spread_{plane}"] = _middle(voxels[np.isfinite(voxels)])
    return out


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Median, and half the distance of the 16 % and 84 % quantiles."""
    if not len(values):
        return float("nan"), float("nan")
    low, middle, high = np.quantile(values.astype(np.float64), [0.16, 0.5, 0.84])
    return float(middle), float(high - low) / 2.0


DEFINITIONS = (
    "Charge: true electrons in tiled voxels / true electrons inside the pixel grid and the read-out window.",
    f"Strong: voxels with more than {STRONG:g} true electrons that were tiled / all of them.",
    "Purity: tiled voxels with truth / tiled voxels, of all events together and the median of the events. Per true: "
    "tiled voxels / true voxels.",
    "Outside: true electrons that the window or the grid cuts off / all of the TPC's drift volume.",
    "Plane sum: charge of a plane in all tiled voxels / electrons collected, true electrons × exp(−drift time / "
    "lifetime), minus 1; ± half the central 68 % over events.",
    "Wrapped wires also carry the charge of their anode's other face: it is in the plane sums, whose bar is then void.",
    "Voxel: median of a plane's charge / electrons collected over strong tiled voxels where the plane is live. Smear "
    "moves charge to neighbouring voxels, and voxels without truth share it.",
    "θ_xz of a plane: angle of the track to the wire plane, seen along the wires: 90° is along the drift. θ_yz of a "
    "plane: angle of the track to the wires, seen along the drift: 0° is along the wires.",
)
