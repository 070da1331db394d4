"""Figures of an evaluation as PNG and SVG files, for slides; drawn by matplotlib without a display or global state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from larstore.errors import StoreError
from train.results.lit_pages import SHOWN, curves
from train.results.merit_pages import range_words
from train.results.pages import ALL_COLOUR, GHOST_COLOUR, TRUE_COLOUR, colour

SIZE = (7.0, 4.6)  # inches
DPI = 160
# Text stays text in SVG, and the same figure is the same file.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "larstore", "font.size": 12}


def draw_figures(summary: dict[str, Any], tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write each figure as NAME.png and NAME.svg; returns the files. StoreError where that is not possible."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context(STYLE):
            for name, figure in _figures(summary, tables):
                figure.savefig(folder / f"{name}.png", dpi=DPI)
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                written += [folder / f"{name}.png", folder / f"{name}.svg"]
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}. Fix: another output directory") from error
    return written


def _figures(summary: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    yield "scores", _scores(summary)
    for plane in dict.fromkeys(tables["lit_charge"]["plane"]):
        yield f"lit_charge_{plane}", _lit_charge(summary, tables["lit_charge"], plane)
    if not summary["has_truth"]:
        return
    yield "curves", _curves(summary, tables["curves"])
    yield "average_precision", _precisions(summary)
    if len(tables["reliability"]):
        yield "reliability", _reliability(summary, tables["reliability"])
    for what in ("bias", "half_width") if len(tables["charges"]) else ():
        yield f"charge_{what}", _charge(summary, tables["charges"], what)


def _empty(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)  # fixed margins: to fit them takes longer than to draw
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.14, top=0.96)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#eceff3")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curves(summary: dict[str, Any], curves: pd.DataFrame) -> Figure:
    figure, axes = _empty("efficiency (true and kept / true and tiled)", "purity")
    for name, method in summary["methods"].items():
        points = curves[curves["method"] == name]
        x, y = points["efficiency"].to_numpy(), points["purity"].to_numpy()
        label = f"{method['label']} (AP {method['average_precision']:.3f})"
        if name == "no_cut" and len(points):
            axes.plot([0, 1], [y[-1], y[-1]], "--", color=colour(summary, name), label=label)
        else:
            axes.plot(x, y, color=colour(summary, name), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=10)
    return figure


def _precisions(summary: dict[str, Any]) -> Figure:
    figure, axes = _empty("average precision, pooled, with 95 % interval", "")
    methods = summary["methods"]
    for row, (name, method) in enumerate(methods.items()):
        value = method["average_precision"]
        low, high = method.get("average_precision_interval", (value, value))
        # A percentile interval need not hold the value itself.
        bars = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
        axes.errorbar([value], [row], xerr=bars, fmt="o", color=colour(summary, name), capsize=4)
    axes.set_yticks(range(len(methods)), [method["label"] for method in methods.values()])
    axes.invert_yaxis()
    figure.subplots_adjust(left=0.3)
    axes.set_xlim(left=0)
    return figure


def _scores(summary: dict[str, Any]) -> Figure:
    figure, axes = _empty("score", "voxels per bin")
    edges = np.array(summary["histogram"]["edges"])
    parts = (("ghost", "ghosts", GHOST_COLOUR), ("true", "true voxels", TRUE_COLOUR), ("unknown", "all", ALL_COLOUR))
    for name, label, shade in parts:
        counts = np.array(summary["histogram"][name], float)
        if counts.any():
            axes.stairs(counts, edges, color=shade, label=label, linewidth=2)
            axes.set_yscale("log")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure


def _lit_charge(summary: dict[str, Any], table: pd.DataFrame, plane: str) -> Figure:
    figure, axes = _empty("voxels kept", f"charge of plane {plane} explained")
    for label, shade, of_plane, rows in curves(summary, table):
        if of_plane == plane:
            axes.plot(rows["kept"], rows["explained"], "--" if label == "chance" else "-", color=shade, label=label)
            axes.fill_between(rows["kept"], rows["low"], rows["high"], color=shade, alpha=0.2, linewidth=0)
    axes.set(xscale="log", xlim=SHOWN, ylim=(0, 1.02))
    axes.legend(frameon=False)
    return figure


def _reliability(summary: dict[str, Any], reliability: pd.DataFrame) -> Figure:
    figure, axes = _empty("mean score", "fraction of true voxels")
    axes.plot([0, 1], [0, 1], "--", color=ALL_COLOUR, linewidth=1)
    shown = reliability[reliability["level"] == summary["levels"][0]["name"]]
    for name, rows in shown.groupby("method", sort=False):
        _bars(axes, rows["score"], rows, "true_fraction", ("low", "high"), summary, str(name))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return figure


def _charge(summary: dict[str, Any], charges: pd.DataFrame, what: str) -> Figure:
    figure, axes = _empty(f"true charge of the voxel ({summary['truth_units']})", what.replace("_", " "))
    level = summary["levels"][-1]["name"]
    shown = charges[(charges["level"] == level) & (charges["voxels"] == "true, with charge")]
    places = sorted(set(zip(shown["from"], shown["to"], strict=True)))
    for name, rows in shown.groupby("method", sort=False):
        x = [places.index(place) for place in zip(rows["from"], rows["to"], strict=True)]
        _bars(axes, x, rows, what, (f"{what}_low", f"{what}_high"), summary, str(name))
    words = [range_words(*place, summary["truth_units"]) for place in places]
    axes.set_xticks(range(len(places)), words, rotation=30, ha="right", fontsize=9)
    figure.subplots_adjust(bottom=0.22)
    if places:
        axes.legend(frameon=False)
    return figure


def _bars(
    axes: Axes, x: Any, rows: pd.DataFrame, what: str, ends: tuple[str, str], summary: dict[str, Any], name: str
) -> None:
    y = rows[what].to_numpy(float)
    bars = np.stack([y - rows[ends[0]].to_numpy(float), rows[ends[1]].to_numpy(float) - y])
    bars = np.maximum(np.nan_to_num(bars), 0.0)
    label = (summary["methods"].get(name) or summary["charges"][name])["label"]
    axes.errorbar(np.asarray(x, float), y, yerr=bars, color=colour(summary, name), marker="o", capsize=3, label=label)
