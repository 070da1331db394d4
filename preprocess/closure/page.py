"""The page of a closure test: the bars, tables, and each measure against the angle to the wire planes."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from larstore.report import Page
from preprocess.closure.events import TRACKS
from preprocess.closure.show import cells, head, main_lines, title
from preprocess.closure.table import ALL, DEFINITIONS, LARGEST_XZ, SMALLEST_YZ, groups, is_flat, verdict

COLOURS = ("#1f5fa8", "#d1701f", "#2b8a5a", "#8a4fb0")
SHARES = {"charge": "charge", "strong": "voxels above 5 ke", "purity": "purity"}


def closure_page(
    name: str, table: pd.DataFrame, planes: Sequence[str], settings: str, picture: go.Figure | None = None
) -> Page:
    """The whole page.

    Args:
        name: of the detector and TPCs.
        table: of ``pooled``.
        planes: their names.
        settings: the command line and the simulation's settings, as text.
        picture: of some tracks.
    """
    page = Page("Closure test", name)
    page.paragraph("Simulated, tiled and compared with the truth. The measures are meaningful only together.")
    judged = [(line, verdict(line, planes)) for _, line in table.iterrows()]
    rows = [[title(_key(line)), *cells(line, planes)] for line, word in judged if word]
    if rows:
        page.heading("The bars")
        page.table(["sample", *head(planes)], rows)
    if table["threshold"].nunique() > 1:
        page.heading("The threshold of the tiling")
        page.figure(threshold_figure(table), "Charge and strong voxels found against purity, one point a threshold.")
    for key, lines in groups(table):
        page.heading(title(key))
        page.table(head(planes), [cells(line, planes) for _, line in main_lines(lines).iterrows()])
        if key[0] == TRACKS:
            page.figure(angle_figure(lines), "Against the angle in the plane where the track is steepest.")
            page.figure(
                charge_figure(lines, planes),
                "Plane sums against each plane's own angles; bars: central 68 %. closure.csv has all numbers.",
            )
    if picture is not None:
        page.heading("Tracks as they were tiled")
        page.figure(picture, "Without dead channels, at the first threshold. Grey: tiled voxels without truth.")
    page.heading("Definitions")
    for text in DEFINITIONS:
        page.paragraph(text)
    page.code(settings, "Settings")
    return page


def threshold_figure(table: pd.DataFrame) -> go.Figure:
    """Efficiencies against purity of the flat tracks (all events of other samples), a line per sample and response."""
    figure = go.Figure()
    flat = table.apply(is_flat, axis=1)
    lines = table[flat | ((table["angle"] == ALL) & (table["sample"] != TRACKS))]
    for _, group in lines.groupby(["sample", "response", "dead"], sort=False):
        sample, response, _, dead = _key(group.iloc[0])
        for share, dash in (("charge", "solid"), ("strong", "dot")):
            label = f"{sample}, {response}, {100 * dead:g} % dead: {SHARES[share]}"
            text = [f"{threshold:g} e" for threshold in group["threshold"]]
            figure.add_scatter(
                x=group["purity"], y=group[share], mode="lines+markers+text", text=text, textposition="bottom center",
                name=label, line={"dash": dash},
            )  # fmt: skip
    lowest = min(lines["charge"].min(), lines["strong"].min())
    figure.update_layout(**_layout("purity", "found", 460))
    figure.update_yaxes(range=[min(lowest, 0.98) - 0.005, 1.002])
    return figure


def angle_figure(lines: pd.DataFrame) -> go.Figure:
    """Charge, strong voxels and purity in bins of the largest θ_xz and of the smallest θ_yz."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (angle, label) in enumerate(((LARGEST_XZ, "largest θ_xz"), (SMALLEST_YZ, "smallest θ_yz")), start=1):
        bins = _fine(lines[lines["angle"] == angle])
        for colour, (share, name) in zip(COLOURS, SHARES.items(), strict=False):
            figure.add_scatter(
                x=_centres(bins), y=bins[share], name=name, mode="lines+markers", line={"color": colour},
                showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title_text=f"{label} of the planes [°]", range=[0, 90], dtick=15, row=1, col=column)
    figure.update_layout(**_layout(None, None, 380))
    # Purities are per cent, the others nearly 1.
    figure.update_yaxes(type="log", range=[-2.5, 0.05], tickvals=[0.003, 0.01, 0.03, 0.1, 0.3, 1])
    return figure


def charge_figure(lines: pd.DataFrame, planes: Sequence[str]) -> go.Figure:
    """Bias and spread of each plane's sum in bins of its own θ_xz and θ_yz."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, kind in enumerate(("θ_xz", "θ_yz"), start=1):
        for colour, plane in zip(COLOURS, planes, strict=False):
            bins = _fine(lines[lines["angle"] == f"{kind} of {plane}"])
            figure.add_scatter(
                x=_centres(bins), y=bins[f"bias_{plane}"], error_y={"array": bins[f"spread_{plane}"]}, name=plane,
                mode="lines+markers", line={"color": colour}, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title_text=f"{kind} of the plane [°]", range=[0, 90], dtick=15, row=1, col=column)
    figure.update_yaxes(title_text="plane sum / collected − 1", row=1, col=1)
    figure.update_layout(**_layout(None, None, 380))
    return figure


def _fine(lines: pd.DataFrame) -> pd.DataFrame:
    return lines[lines["high"] - lines["low"] < 20.0]


def _centres(lines: pd.DataFrame) -> "pd.Series[float]":
    return (lines["low"] + lines["high"]) / 2.0


def _key(line: pd.Series) -> tuple[str, str, float, float]:
    return line["sample"], line["response"], line["threshold"], line["dead"]


def _layout(x: str | None, y: str | None, height: int) -> dict[str, object]:
    layout: dict[str, object] = {
        "template": "plotly_white",
        "height": height,
        "legend": {"orientation": "h", "y": -0.2},
    }
    layout["margin"] = {"l": 60, "r": 20, "t": 20, "b": 40}
    if x is not None:
        layout |= {"xaxis_title": x, "yaxis_title": y}
    return layout
