"""The part of an evaluation's page on events without truth: charge of the wires that the kept voxels explain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from larstore.report import Page
from train.results.lit_charge import CHANCE
from train.results.pages import ALL_COLOUR, colour, fixed, layout

SHOWN = (0.001, 1.0)  # of the voxels kept


def curves(summary: dict[str, Any], table: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Label, colour, plane and rows of each line to draw: predictions and the planes' agreement, then chance."""
    names = [*summary["predictions"], "plane_agreement", CHANCE]
    for name in names:
        label = "chance" if name == CHANCE else summary["methods"][name]["label"]
        shade = ALL_COLOUR if name == CHANCE else colour(summary, name)
        for plane, rows in table[table["method"] == name].groupby("plane", sort=False):
            yield label, shade, str(plane), rows[rows["kept"] >= SHOWN[0]]


def add_lit_charge(page: Page, summary: dict[str, Any], table: pd.DataFrame) -> None:
    """Figure and table, or why there are none."""
    told = summary.get("lit_charge")
    if told is None:
        return
    page.heading("Charge of the wires that the kept voxels explain")
    if not told["images"]:
        page.paragraph(f"It cannot be told: {told['missing']}.")
        return
    for plane in dict.fromkeys(table["plane"]):
        page.figure(_figure(summary, table, str(plane)), f"Plane {plane}, of {told['images']:,} images without truth.")
    head = ["", "plane", *(f"{100 * part:g} % kept" for part in told["kept"])]
    rows = [
        ["chance" if name == CHANCE else summary["methods"][name]["label"], plane, *map(fixed, values)]
        for name, planes in told["explained"].items()
        for plane, values in planes.items()
    ]
    page.table(head, rows)
    page.paragraph(
        "Of each plane the share of the charge that lies on wires, in slices of ticks, with at least one kept voxel. A "
        "score that finds the real voxels explains nearly all of it with few; chance keeps voxels at random.",
        note=True,
    )


def _figure(summary: dict[str, Any], table: pd.DataFrame, plane: str) -> go.Figure:
    figure = go.Figure()
    for label, shade, of_plane, rows in curves(summary, table):
        if of_plane != plane:
            continue
        x, low, high = (rows[column].to_numpy() for column in ("kept", "low", "high"))
        if len(rows) and np.isfinite(low).any():
            band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            figure.add_scatter(x=x, y=high, **band)
            figure.add_scatter(x=x, y=low, fill="tonexty", opacity=0.2, **band)
        line = {"color": shade, "dash": "dash" if label == "chance" else "solid"}
        hover = "kept %{x:.3g}<br>explained %{y:.3f}<extra>" + label + "</extra>"
        figure.add_scatter(x=x, y=rows["explained"], mode="lines", line=line, name=label, hovertemplate=hover)
    figure.update_layout(**layout("voxels kept", "charge explained", 360))
    figure.update_xaxes(type="log", range=[float(np.log10(end)) for end in SHOWN])
    figure.update_yaxes(range=[0, 1.02])
    return figure
