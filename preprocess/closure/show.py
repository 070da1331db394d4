"""A closure table as people read it: the rows that matter, formatted, for the terminal and for the page."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from preprocess.closure.table import ALL, FLAT, LARGEST_XZ, is_flat, verdict


def head(planes: Sequence[str], voxels: bool = True) -> list[str]:
    """Titles of the columns of ``cells``."""
    sums = [f"sum {plane}" for plane in planes]
    own = [f"voxel {plane}" for plane in planes] if voxels else []
    ratios = ["charge", "strong", "purity", "median", "per true", "outside"]
    return ["tracks", "events", *ratios, *sums, *own, "bar"]


def cells(line: pd.Series, planes: Sequence[str], voxels: bool = True) -> list[str]:
    """A pooled line: ratios in per cent, plane sums as bias ± spread in per cent, voxel charges as ratios.

    ``voxels``: whether with the voxel charges, for which a terminal is too narrow.
    """
    sums = [f"{signed(line[f'bias_{p}'])} ± {number(100 * line[f'spread_{p}'], 2)}" for p in planes]
    shown = planes if voxels else ()
    own = [number(line[f"voxel_{p}"], 2) for p in shown]
    per_cent = [percent(line[name], 2) for name in ("charge", "strong", "purity", "purity_median")]
    return [
        where(line), str(line["events"]), *per_cent, number(line["per_true"], 1), percent(line["outside"], 1),
        *sums, *own, verdict(line, planes),
    ]  # fmt: skip


def title(key: tuple[str, str, float, float]) -> str:
    """Sample, response, threshold and dead channels in words."""
    sample, response, threshold, dead = key
    channels = f", {100 * dead:g} % of the channels dead" if dead else ""
    return f"{sample}: response {response}, threshold {threshold:g} e a tick{channels}"


def where(line: pd.Series) -> str:
    """The bin of a pooled line."""
    if line["angle"] == ALL:
        return "all"
    if is_flat(line):
        return f"θ_xz < {FLAT:g}° in all planes"
    return f"{line['angle']} {line['low']:g}–{line['high']:g}°"


def main_lines(table: pd.DataFrame) -> pd.DataFrame:
    """All events and the bins of the largest θ_xz; the others are in the page and in the CSV."""
    return table[table["angle"].isin([ALL, LARGEST_XZ])]


def percent(value: float, digits: int) -> str:
    """A ratio in per cent, – where it is not known; never rounded up to 100."""
    if not np.isfinite(value):
        return "–"
    scaled = 100.0 * value
    if value < 1.0 <= round(scaled, digits) / 100.0:
        scaled = 100.0 - 10.0**-digits
    return f"{scaled:.{digits}f} %"


def number(value: float, digits: int) -> str:
    """A plain number, – where it is not known."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference in per cent with its sign."""
    if not np.isfinite(value):
        return "–"
    shown = round(100.0 * value, 2)
    return f"{shown:+.2f}".replace("-", "−") if shown else "0.00"
