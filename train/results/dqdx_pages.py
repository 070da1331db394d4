"""Figures and page of dQ/dx along muon tracks, drawn by matplotlib from the tables alone."""

import io
import json
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from larstore.errors import StoreError
from larstore.report import Page
from train.results.dqdx import Tables
from train.results.dqdx_segments import METHODS, Settings
from train.results.rate_bins import median, spread

COLOURS = {
    "truth": "#1c2733", "collected": "#8a96a3", "tiled": "#e0a86e", "tiled_w": "#d1701f", "kept": "#7fb2e5",
    "kept_w": "#1f5fa8", "predicted": "#2b8a5a",
}  # fmt: skip
KE = 1000.0  # electrons


def distribution_figure(tables: Tables) -> Figure:
    """Histograms of dQ/dx of all methods, normalised, and the fitted curves."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0.0, 2.5 * median(tables.histograms["truth"]) / KE, 81)
    for name, counts in tables.histograms.items():
        fit = tables.curves.get(name)
        label = METHODS[name] if fit is None else f"{METHODS[name]}: {fit.mpv / KE:.1f} ke/cm"
        density = spread(counts, edges * KE) / counts.sum() / np.diff(edges)
        axes.stairs(density, edges, color=COLOURS[name], label=label, linewidth=1.2)
        if fit is not None:
            x = np.linspace(fit.low, fit.high, 400)
            inside = fit.n / counts.sum()
            axes.plot(x / KE, fit.density(x) * KE * inside, color=COLOURS[name], linewidth=0.9, linestyle="--")
    axes.set(xlabel="dQ/dx [thousand electrons/cm]", ylabel="segments / (ke/cm), normalised", xlim=(0.0, edges[-1]))
    axes.legend(title="most probable value of the fit (dashed)", fontsize=8, title_fontsize=8, frameon=False)
    return figure


def residual_figure(tables: Tables) -> Figure:
    """Median dQ/dx of all methods against the residual range of stopping muons."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    table = tables.residual
    middle = (table["low_cm"] + table["high_cm"]) / 2
    for name in (each for each in METHODS if each in table):
        axes.plot(middle, table[name] / KE, "o-", color=COLOURS[name], label=METHODS[name], markersize=3.5, linewidth=1)
    axes.set(xlabel="residual range [cm]", ylabel="median dQ/dx [thousand electrons/cm]", ylim=(0.0, None))
    axes.legend(fontsize=8, frameon=False)
    return figure


def write(tables: Tables, out_dir: str | os.PathLike[str], about: dict[str, Any], settings: Settings) -> Path:
    """Write fits.csv, residual_range.csv, figures as PNG and SVG, summary.json and dqdx.html; returns the page's path.

    Args:
        about: store, detector and prediction, for the page and the summary.

    Raises:
        StoreError: the folder cannot be written.
    """
    folder = Path(out_dir)
    figures = {"dqdx": distribution_figure(tables)}
    if len(tables.residual):
        figures["residual_range"] = residual_figure(tables)
    page = _page(tables, about, settings, figures)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("fits", tables.fits), ("residual_range", tables.residual)):
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
        if "residual_range" not in figures:  # those of an earlier call
            for suffix in ("png", "svg"):
                (folder / f"residual_range.{suffix}").unlink(missing_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
            (folder / f"{name}.svg").write_text(_svg(figure), encoding="utf-8")
        summary = about | {"settings": vars(settings), "counts": tables.counts, "fits": _plain(tables.fits)}
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}. Fix: another output directory") from error
    return page.write(folder / "dqdx.html")


def _page(tables: Tables, about: dict[str, Any], settings: Settings, figures: dict[str, Figure]) -> Page:
    counts = tables.counts
    page = Page(
        "dQ/dx along muon tracks", f"{about['store']} · {about['detector']} · prediction {about['prediction']!r}"
    )
    mpv = dict(zip(tables.fits["method"], tables.fits["mpv"], strict=True))
    page.cards(
        [
            (f"ke/cm, most probable: {METHODS[name]}", _number(mpv[name] / KE, 1))
            for name in ("truth", "tiled_w", "kept_w", "predicted")
            if name in mpv
        ]
    )
    page.paragraph(
        f"{counts['tracks']:,} muons in {counts['images']:,} images, {counts['pieces']:,} straight pieces "
        f"({counts['pieces_bent']:,} more are bent), {counts['segments']:,} segments of about "
        f"{settings.segment_cm:g} cm ({counts['segments_interrupted']:,} more without the muon in a layer, "
        f"{counts['segments_dead']:,} with dead "
        f"planes), {counts['stopping']:,} muons stop.",
        note=True,
    )
    page.drawings([(_inline(figures["dqdx"]), "dQ/dx of all segments. Dashed: Landau folded with a Gauss.")])
    page.table(
        ["", "most probable, ke/cm", "/ truth", "Landau width", "Gauss width", "peak", "full width at half", "median",
         "without charge"],
        [
            [
                row["label"], _with_error(row, "mpv"), _number(row["mpv_over_truth"], 3), _with_error(row, "width"),
                _with_error(row, "sigma"), _with_error(row, "peak"), _with_error(row, "fwhm"),
                _number(row["median"] / KE, 1), _number(100 * row["empty"], 1) + " %",
            ]
            for _, row in tables.fits.iterrows()
        ],
    )  # fmt: skip
    page.heading("Stopping muons")
    if "residual_range" in figures:
        page.drawings([(_inline(figures["residual_range"]), "Median of the segments in a bin of residual range.")])
        names = [name for name in METHODS if name in tables.residual]
        page.table(
            ["residual range, cm", "segments", *(f"{METHODS[name]}, ke/cm" for name in names)],
            [
                [f"{row['low_cm']:g} to {row['high_cm']:g}", f"{int(row['segments']):,}",
                 *(_number(row[name] / KE, 1) for name in names)]
                for _, row in tables.residual.iterrows()
            ],
        )  # fmt: skip
    else:
        page.paragraph("No muon stops in these images.")
    page.heading("Definitions")
    page.paragraph(
        "A muon is a truth track of pdg ±13 with at least 50 true voxels. It is cut into straight pieces of about "
        f"{settings.piece_cm:g} cm, each the principal axis of its true voxels; pieces whose second eigenvalue's root "
        f"is above {settings.straight_cm:g} cm are left out. The charge is that within {settings.tube_cm:g} cm of the "
        "axis, of all particles. A muon stops if one end is at least 10 cm inside the face and the window, and its own "
        "charge rises there by 1.4 or more. Errors: bootstrap over tracks."
    )
    return page


def _svg(figure: Figure) -> str:
    """A figure as SVG, the same bytes whenever it is drawn."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "larstore"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _inline(figure: Figure) -> str:
    text = _svg(figure)
    return text[text.index("<svg") :].replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)


def _number(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:,.{digits}f}"


def _with_error(row: Any, name: str) -> str:
    value, error = row[name] / KE, row[f"{name}_error"] / KE
    return _number(value, 1) if np.isnan(error) else f"{value:,.1f} ± {error:.1f}"


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows without NaN, which JSON has not."""
    rows = table.to_dict(orient="records")
    return [{str(k): None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows]
