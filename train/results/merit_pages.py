"""Sections of an evaluation's page that show figures with their intervals: levels, halo, voxel sizes, differences."""

from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from larstore.report import Page
from train.results.charge_units import ELECTRONS, FIVE_KE, MEV_OF_FIVE_KE, Units
from train.results.merits import KEYS
from train.results.pages import colour, ends, layout, number
from train.results.stratum_pages import add_stratum

FULL = "1,1,1"  # voxels of the store
HALO_LABELS = {"ghosts": "a ghost", "left out": "left out"}
COMPARED = {  # (cut, metric) -> words
    ("", "average_precision"): "AP, pooled",
    ("", "average_precision_event_mean"): "AP, mean of events",
    ("", "sp_area"): "area of 2021 (sp_area)",
    ("best", "threshold"): "best cut: score ≥",
    ("best", "purity"): "best cut: purity",
    ("best", "purity_charge"): "best cut: purity by charge",
    ("best", "efficiency"): "best cut: efficiency",
    ("best", "efficiency_charge"): "best cut: efficiency by charge",
    ("best", "efficiency_all"): "best cut: efficiency (all)",
    ("best", "efficiency_all_charge"): "best cut: efficiency (all) by charge",
    ("best", "iou"): "best cut: IoU",
    ("0.5", "purity"): "score ≥ 0.5: purity",
    ("0.5", "efficiency"): "score ≥ 0.5: efficiency",
    ("0.5", "iou"): "score ≥ 0.5: IoU",
    ("", "calibration_error"): "calibration error",
}
DIFFERENCES = (  # on the page; of baselines the first alone
    ("", "average_precision"),
    ("", "average_precision_event_mean"),
    ("", "sp_area"),
    ("best", "purity"),
    ("best", "efficiency"),
    ("best", "iou"),
)
CHARGE_ROWS = {
    "charge_bias (voxel, true)": "bias, true voxels",
    "charge_half_width (voxel, true)": "68 % half width, true voxels",
    "charge_bias (voxel, true, with charge)": "bias, true voxels with charge",
    "charge_half_width (voxel, true, with charge)": "68 % half width, true voxels with charge",
    "charge_resolution (voxel, true, with charge)": "half width / median, true voxels with charge",
    "charge_bias (event, all)": "bias of events, kept against all true charge",
    "charge_half_width (event, all)": "68 % half width of events, kept against all true charge",
    "charge_bias (event, true)": "bias of events, on true voxels",
    "charge_half_width (event, true)": "68 % half width of events, on true voxels",
    "charge_total": "total: kept / all true charge",
    "charge_off": "off: Σ |kept − true| / Σ true, tiled voxels",
}


Row = dict[Any, Any]  # of the table of metrics or of differences


def add_merits(page: Page, summary: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """All sections with intervals."""
    rows: dict[tuple[str, ...], Row] = {}
    strata: dict[str, dict[str, None]] = {}
    for row in tables["metrics"].to_dict("records"):
        rows[tuple(row[key] for key in KEYS)] = row
        if row["stratum"] != "all":
            strata.setdefault(row["stratum_kind"], {})[row["stratum"]] = None
    page.heading("With 95 % intervals")
    _add_side_by_side(page, summary, rows)
    page.paragraph(_interval_sentence(summary), note=True)
    if len(tables["differences"]):
        _add_differences(page, summary, tables["differences"])
    if len(tables["mean_curves"]):
        page.heading("Every image with the same weight")
        page.figure(
            mean_curve_figure(summary, tables["mean_curves"]),
            "Means over images of purity and efficiency at scores of 0, 0.02 … 0.98; bars: 95 %. The area is that of "
            f"2021. True where {summary['levels'][-1]['label']}.",
        )
    page.heading("Levels of truth, halo and voxel size")
    _add_levels(page, summary, rows)
    if len(tables["reliability"]):
        page.heading("Is the score a probability")
        page.figure(
            reliability_figure(summary, tables["reliability"]),
            "Fraction of true voxels against the mean score, in 20 bins of the score; on the line it is calibrated.",
        )
    if summary["charges"]:
        _add_charges(page, summary, tables["charges"], rows)
    for kind, labels in strata.items():
        add_stratum(page, summary, rows, (kind, list(labels)), _cells)


def _cells(row: Row | None) -> list[str]:
    """Value and interval, or dashes."""
    if row is None:
        return ["–", "–"]
    found = [row["low"], row["high"]]
    return [number(row["value"]), ends(found) if np.isfinite(found).all() else "–"]


def _labels(summary: dict[str, Any]) -> dict[str, str]:
    return {name: method["label"] for name, method in summary["methods"].items()}


def _level(summary: dict[str, Any], metric: str) -> str:
    """At which level a figure is shown: the first; the measure of 2021 has its own."""
    return str(summary["levels"][-1 if metric == "sp_area" else 0]["name"])


def _add_side_by_side(page: Page, summary: dict[str, Any], rows: dict[tuple[str, ...], Row]) -> None:
    names = _labels(summary)
    shown = []
    for (cut, metric), words in COMPARED.items():
        at = (FULL, "", "all", _level(summary, metric), "ghosts")
        found = [rows.get((*at, name, cut, metric)) for name in names]
        if any(row is not None for row in found):
            shown.append([words, *(cell for row in found for cell in _cells(row))])
    head = ["", *(text for label in names.values() for text in (label, "95 %"))]
    page.table(head, shown)


def _interval_sentence(summary: dict[str, Any]) -> str:
    if not summary["bootstrap"]:
        return "No intervals were asked for (--bootstrap 0)."
    few = " With so few events the intervals are too narrow." if summary["events"] < 20 else ""
    return (
        f"{summary['events']:,} events; intervals hold 95 % of {summary['bootstrap']} Poisson bootstrap replicas over "
        f"events (seed {summary['seed']}), all TPCs of an event together. The best cut is the one of largest purity + "
        "efficiency in fine bins of the score; its purity and efficiency are of that cut in all replicas." + few
    )


def _add_differences(page: Page, summary: dict[str, Any], differences: pd.DataFrame) -> None:
    names = _labels(summary)
    found = {
        (row["method"], row["than"], row["cut"], row["metric"]): row
        for row in differences.to_dict("records")
        if (row["voxels"], row["stratum"], row["halo"]) == (FULL, "all", "ghosts")
        and row["level"] == _level(summary, row["metric"])
    }
    rows = []
    for method, than in dict.fromkeys(key[:2] for key in found):
        for cut, metric in DIFFERENCES if than in summary["predictions"] else DIFFERENCES[:1]:
            row = found.get((method, than, cut, metric))
            if row is None:
                continue
            both = [row["low"], row["high"]]
            known = bool(np.isfinite(both).all())
            sure = known and (both[0] > 0 or both[1] < 0)
            cells = [number(row["difference"]), ends(both) if known else "–", "yes" if sure else "no"]
            rows.append([f"{names[method]} − {names[than]}", COMPARED[cut, metric], *cells])
    page.heading("Differences, event by event")
    page.table(["", "figure", "difference", "95 %", "differs"], rows)
    page.paragraph(
        "Both have the same events in each replica, so what makes events easy or hard for both cancels. Those of all "
        "figures, levels and voxel sizes are in differences.csv.",
        note=True,
    )


def _add_levels(page: Page, summary: dict[str, Any], found: dict[tuple[str, ...], Row]) -> None:
    rows = []
    labels = {level["name"]: level["label"] for level in summary["levels"]}
    for size in summary["voxel_sizes"]:
        for level, words in labels.items():
            for halo, halo_words in HALO_LABELS.items():
                for name, label in _labels(summary).items():
                    at = (size, "", "all", level, halo, name)
                    cells = _cells(found.get((*at, "", "average_precision")))
                    for metric in ("purity", "efficiency", "efficiency_all", "iou"):
                        cells.append(_cells(found.get((*at, "best", metric)))[0])
                    rows.append([size.replace(",", " × "), words, halo_words, label, *cells])
    head = ["voxels taken as one", "true where", "halo is", "", "AP", "95 %", "purity", "efficiency"]
    page.table([*head, "efficiency (all)", "IoU"], rows)
    page.paragraph(
        "Halo: voxels that are not true and lie within one voxel in x, y and z of one that is, tiled or not: diffusion "
        "and filters smear real charge there. Purity, efficiency and IoU are those of the best cut.",
        note=True,
    )


def _add_charges(page: Page, summary: dict[str, Any], charges: pd.DataFrame, found: dict[tuple[str, ...], Row]) -> None:
    page.heading("Charge")
    names = list(summary["charges"])
    head = ["", *(text for name in names for text in (summary["charges"][name]["label"], "95 %"))]
    for size in summary["voxel_sizes"]:
        rows = []
        for key, words in CHARGE_ROWS.items():
            at = (size, "", "all", summary["levels"][0]["name"], "")
            each = [found.get((*at, name, "", key)) for name in names]
            if any(row is not None for row in each):
                rows.append([words, *chain.from_iterable(_cells(row) for row in each)])
        page.table(head, rows, summary=None if size == FULL else f"{size.replace(',', ' × ')} voxels taken as one")
    page.paragraph(
        "Bias: median of charge / true charge − 1. Half width: half the central 68 % of the ratio. What a charge is "
        "compared with is said under Definitions; the mean of the planes is that of the live planes' charges."
        + _units_sentence(summary),
        note=True,
    )
    for figure, words in (("bias", "Bias"), ("half_width", "68 % half width")):
        page.figure(
            charge_figure(summary, charges, figure),
            f"{words} of the charge of true voxels that were given charge, against the true charge; bars: 95 %. "
            f"Voxels of {summary['levels'][-1]['label']}; all of them: charges.csv.",
        )


def _units_sentence(summary: dict[str, Any]) -> str:
    """Where charges and truth have units of their own: how they are compared."""
    charge, truth = summary["units"], summary["truth_units"]
    if charge == truth:
        return ""
    if Units(charge, truth).to_truth is None:
        return f" The planes' charges are in {charge}, the truth is in {truth}: they are not compared."
    return (
        f" The truth is in {truth}: what is in {charge} (the planes' charges, those of a solver) is compared with it "
        f"at {MEV_OF_FIVE_KE} MeV for {FIVE_KE:,.0f} electrons."
    )


def mean_curve_figure(summary: dict[str, Any], curves: pd.DataFrame) -> go.Figure:
    """Mean purity against mean efficiency, with the intervals of both at every fifth threshold."""
    figure = go.Figure()
    for name, rows in curves.groupby("method", sort=False):
        label = summary["methods"][name]["label"]
        fifth = np.arange(len(rows)) % 5 == 0

        def bars(what: str, rows: pd.DataFrame = rows, fifth: Any = fifth) -> dict[str, Any]:
            found = {"type": "data", "symmetric": False, "thickness": 1, "width": 2}
            ends = (rows[f"{what}_high"] - rows[what], rows[what] - rows[f"{what}_low"])
            up, down = (each.fillna(0).clip(lower=0).where(fifth, 0) for each in ends)
            return found | {"array": up, "arrayminus": down}

        figure.add_scatter(
            x=rows["efficiency"],
            y=rows["purity"],
            error_x=bars("efficiency"),
            error_y=bars("purity"),
            text=rows["threshold"],
            mode="lines",
            name=label,
            line={"color": colour(summary, str(name)), "width": 2},
            hovertemplate="score > %{text:.2f}<br>efficiency %{x:.3f}<br>purity %{y:.3f}<extra>" + label + "</extra>",
        )
    figure.update_layout(**layout("mean efficiency", "mean purity"))
    figure.update_xaxes(range=[0, 1.005])
    figure.update_yaxes(range=[0, 1.02])
    return figure


def reliability_figure(summary: dict[str, Any], reliability: pd.DataFrame) -> go.Figure:
    """Fraction of true voxels against the mean score, at the first level."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#8a96a3", "dash": "dash", "width": 1}, showlegend=False
    )
    shown = reliability[reliability["level"] == summary["levels"][0]["name"]]
    for name, rows in shown.groupby("method", sort=False):
        label = summary["methods"][name]["label"]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": (rows["high"] - rows["true_fraction"]).fillna(0),
            "arrayminus": (rows["true_fraction"] - rows["low"]).fillna(0),
        }
        hover = "score %{x:.3f}<br>true %{y:.3f}<br>%{text:,} voxels<extra>" + label + "</extra>"
        figure.add_scatter(
            x=rows["score"],
            y=rows["true_fraction"],
            error_y=bars,
            text=rows["voxels"],
            mode="lines+markers",
            name=label,
            line={"color": colour(summary, str(name)), "width": 2},
            hovertemplate=hover,
        )
    figure.update_layout(**layout("mean score", "fraction of true voxels"))
    figure.update_xaxes(range=[-0.01, 1.01])
    figure.update_yaxes(range=[-0.01, 1.01])
    return figure


def charge_figure(summary: dict[str, Any], charges: pd.DataFrame, what: str) -> go.Figure:
    """Bias or half width of true voxels with charge, against the true charge, at the last level."""
    figure = go.Figure()
    level = summary["levels"][-1]["name"]
    shown = charges[(charges["level"] == level) & (charges["voxels"] == "true, with charge")]
    for name, rows in shown.groupby("method", sort=False):
        label = summary["charges"][name]["label"]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": (rows[f"{what}_high"] - rows[what]).fillna(0),
            "arrayminus": (rows[what] - rows[f"{what}_low"]).fillna(0),
        }
        figure.add_scatter(
            x=[
                range_words(low, high, summary["truth_units"])
                for low, high in zip(rows["from"], rows["to"], strict=True)
            ],
            y=rows[what],
            error_y=bars,
            text=rows["n"],
            mode="lines+markers",
            name=label,
            line={"color": colour(summary, str(name)), "width": 2},
            hovertemplate="%{x}<br>%{y:.3f}<br>%{text:,} voxels<extra>" + label + "</extra>",
        )
    figure.update_layout(**layout(f"true charge of the voxel ({summary['truth_units']})", what.replace("_", " "), 360))
    return figure


def range_words(low: float, high: float, unit: str) -> str:
    """A bin of charge in words: thousands of electrons, or plain numbers of another unit."""
    thousand, end = (1000, " k") if unit == ELECTRONS else (1, "")
    if not np.isfinite(high):
        return f"≥ {low / thousand:g}{end}"
    return f"{low / thousand:g} … {high / thousand:g}{end}"
