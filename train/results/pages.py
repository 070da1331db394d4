"""Figures and tables that pages about evaluations share, drawn from a summary and its tables alone."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from larstore.report import Page

COLOURS = {"no_cut": "#8a96a3", "plane_agreement": "#d1701f", "smallest_charge": "#2b8a5a", "mean_of_planes": "#8a96a3"}
OF_PREDICTIONS = ("#1f5fa8", "#a8326e", "#6a4fb3", "#12858c", "#8c6d12")
GHOST_COLOUR, TRUE_COLOUR, ALL_COLOUR = "#c2c9d1", "#1f5fa8", "#5d6b7a"


def colour(summary: dict[str, Any], name: str) -> str:
    """Of a method, the same in all figures."""
    predictions = list(summary["predictions"])
    return OF_PREDICTIONS[predictions.index(name) % len(OF_PREDICTIONS)] if name in predictions else COLOURS[name]


def headline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The average precisions of all methods (that of no cut is the purity), and the tiling's efficiency."""
    return [
        (f"AP of {_first_label(summary)}", fixed(summary["average_precision"])),
        ("AP of the planes' agreement", fixed(summary["average_precision_plane_agreement"])),
        ("AP of the smallest plane charge", fixed(summary["average_precision_smallest_charge"])),
        ("AP of no cut = purity after tiling", fixed(summary["average_precision_no_cut"])),
        ("true voxels that were tiled", fixed(summary["tiling_efficiency"])),
    ]


def add_methods(page: Page, summary: dict[str, Any], curves: pd.DataFrame) -> None:
    """The curves and the table of the methods."""
    page.figure(curve_figure(summary, curves), "Purity against efficiency relative to the true voxels that were tiled.")
    head = ["", "AP, pooled", "95 %", "AP, mean of images", "± sd", "at score ≥", "purity", "efficiency"]
    head.append("efficiency (all)")
    keys = ["average_precision", "average_precision_image_mean", "average_precision_image_sd"]
    best = ["best_purity", "best_efficiency", "best_efficiency_all"]
    rows = [
        [
            m["label"],
            fixed(m[keys[0]]),
            ends(m.get(f"{keys[0]}_interval")),
            *(fixed(m[key]) for key in keys[1:]),
            number(m["best_threshold"]),
            *(fixed(m[key]) for key in best),
        ]
        for m in summary["methods"].values()
    ]
    page.table(head, rows, strong=0)
    page.paragraph("The last four columns: the cut with the largest purity + efficiency.", note=True)


def add_kept(page: Page, summary: dict[str, Any]) -> None:
    """The table of thresholds."""
    head, keys = ["score ≥", "voxels kept", "kept"], ["kept_fraction"]
    if summary["has_truth"]:
        head, keys = (
            [*head, "purity", "efficiency", "efficiency (all)"],
            [*keys, "purity", "efficiency", "efficiency_all"],
        )
    rows = [[f"{r['threshold']:,g}", f"{r['kept']:,}", *(fixed(r[key]) for key in keys)] for r in summary["kept"]]
    page.table(head, rows)


def curve_figure(summary: dict[str, Any], curves: pd.DataFrame) -> go.Figure:
    """Purity against efficiency, one line per method; no cut is a level line."""
    figure = go.Figure()
    for name, method in summary["methods"].items():
        points = curves[curves["method"] == name]
        x, y = points["efficiency"].to_numpy(), points["purity"].to_numpy()
        if name == "no_cut" and len(points):
            x, y = np.array([0.0, 1.0]), np.repeat(y[-1], 2)
        line = {"color": colour(summary, name), "width": 3 if name in summary["predictions"] else 2}
        if name == "no_cut":
            line["dash"] = "dash"
        label = f"{method['label']} (AP {fixed(method['average_precision'])})"
        hover = "efficiency %{x:.3f}<br>purity %{y:.3f}<extra>" + method["label"] + "</extra>"
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=label, hovertemplate=hover)
    figure.update_layout(**layout("efficiency (true and kept / true and tiled)", "purity"))
    figure.update_xaxes(range=[0, 1.005])
    figure.update_yaxes(range=[0, 1.02])
    return figure


def histogram_figure(summary: dict[str, Any]) -> go.Figure:
    """Voxels per bin of the score: ghosts and true voxels, or all of them where there is no truth."""
    found = summary["histogram"]
    edges = np.array(found["edges"])
    figure = go.Figure()
    for name, label, colour in (
        ("ghost", "ghosts", GHOST_COLOUR),
        ("true", "true voxels", TRUE_COLOUR),
        ("unknown", "voxels without known truth", ALL_COLOUR),
    ):
        counts = np.array(found[name], dtype=float)
        if not counts.any():
            continue
        # Outlines, closed at the bottom: filled steps of two classes stay readable on top of each other.
        x = np.repeat(edges, 2)[1:-1]
        y = np.repeat(np.where(counts > 0, counts, np.nan), 2)
        line = {"color": "#8a96a3" if name == "ghost" else colour, "width": 2}
        hover = "score %{x:.2f}<br>%{y:,} " + label + "<extra></extra>"
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=label, hovertemplate=hover)
    figure.update_layout(**layout("score", "voxels per bin"))
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure


def images_figure(summary: dict[str, Any], images: pd.DataFrame) -> go.Figure:
    """Average precision of each image, predictions and planes' agreement, against its purity after tiling."""
    figure = go.Figure()
    key = [f"file {r.file} event {r.event} TPC {r.tpc}" for r in images[["file", "event", "tpc"]].itertuples()]
    for name in (*summary["predictions"], "plane_agreement"):
        label = summary["methods"][name]["label"]
        hover = "%{text}<br>purity %{x:.3f}<br>AP %{y:.3f}<extra>" + label + "</extra>"
        marker = {"color": colour(summary, name), "size": 8, "line": {"color": "#fff", "width": 1}}
        figure.add_scatter(
            x=images["ap_no_cut"],
            y=images[f"ap_{name}"],
            mode="markers",
            name=label,
            text=key,
            hovertemplate=hover,
            marker=marker,
        )
    figure.update_layout(**layout("purity after tiling", "average precision"))
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, 1.02])
    return figure


def layout(x_title: str, y_title: str, height: int = 430) -> dict[str, Any]:
    """The look that all flat figures share."""
    axis = {"showline": True, "linecolor": "#8a96a3", "gridcolor": "#eceff3", "zeroline": False, "ticks": "outside"}
    return {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 55},
        "font": {"family": "system-ui, Segoe UI, Roboto, Arial, sans-serif", "size": 14, "color": "#1c2733"},
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
        "legend": {"bgcolor": "rgba(255,255,255,0.85)", "bordercolor": "#dfe5ec", "borderwidth": 1},
    }


def ends(found: list[float] | None) -> str:
    """The ends of an interval; a dash where there is none."""
    return "–" if found is None else f"{number(found[0])}\u00a0…\u00a0{number(found[1])}"


def number(value: float) -> str:
    """Three decimals, four below 0.01, none from 1,000 up."""
    decimals = 0 if abs(value) >= 1000 else 4 if 0 < abs(value) < 0.01 else 3
    return f"{value:,.{decimals}f}".replace("-", "−")


def fixed(value: float | None) -> str:
    """A number with three decimals; a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _first_label(summary: dict[str, Any]) -> str:
    first = next(iter(summary["predictions"]))
    return "the network" if first == "network" else str(summary["methods"][first]["label"])
