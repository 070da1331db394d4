"""The page that a demo ends with: what was done with which settings, curves, an event before and after, timings."""

import json
import platform
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
import yaml

import larstore
from larstore.cores import cores
from larstore.report import Page
from train.demo_settings import PREDICTION
from train.results.cloud import find_image, make_cloud
from train.results.comparison import SAME_VIEW, comparison_figure
from train.results.pages import add_kept, add_methods, fixed, headline, histogram_figure, layout
from train.runtime import versions

if TYPE_CHECKING:
    from train.demo import Demo

MAX_POINTS = 60_000  # of the first of three scenes
THRESHOLD = 0.5


def write_report(demo: "Demo") -> dict[str, Any]:
    """Write ``report.html`` into the demo's directory; returns the summary of the evaluation."""
    summary = json.loads((demo.evaluation / "summary.json").read_text(encoding="utf-8"))
    curves = pd.read_csv(demo.evaluation / "curves.csv")
    store = larstore.open(demo.store)
    s = demo.settings
    page = Page(
        "From wires to deghosted images: a larstore demo",
        f"{s.detector}, TPC {s.tpc} · {s.files * s.events_per_file} simulated events · "
        f"{summary['images']} of them held out for everything below",
    )
    page.cards(headline(summary))
    page.paragraph(_findings(summary))
    page.heading("A held-out event, before and after")
    _add_event(page, demo, store)
    page.heading("Network and baselines on the held-out events")
    add_methods(page, summary, curves)
    page.figure(histogram_figure(summary), "Scores of ghosts and true voxels; the vertical axis is logarithmic.")
    add_kept(page, summary)
    page.links([("definitions, and the figures image by image", "evaluation/evaluate.html")])
    page.heading("Training")
    _add_training(page, demo)
    page.heading("What was done")
    _add_stages(page, demo)
    page.heading("Settings")
    _add_settings(page, demo, store)
    page.write(demo.folder / "report.html")
    return dict(summary)


def _findings(summary: dict[str, Any]) -> str:
    network, agreement = summary["average_precision"], summary["average_precision_plane_agreement"]
    smallest = summary["average_precision_smallest_charge"]
    return (
        f"Tiling found {summary['tiling_efficiency']:.1%} of the true voxels, and only "
        f"{summary['purity_after_tiling']:.1%} of what it found is true (purity after tiling, which is the average "
        f"precision of no cut: {fixed(summary['average_precision_no_cut'])}). Without a network, a cut on the "
        f"agreement of the planes' charges reaches an average precision of {fixed(agreement)}, one on the smallest "
        f"of the three charges {fixed(smallest)}; the network reaches {fixed(network)}: {network - agreement:+.3f} "
        f"and {network - smallest:+.3f}. All of this belongs to the simulated response that is listed under Settings."
    )


def _add_event(page: Page, demo: "Demo", store: Any) -> None:
    key = demo.median_event()
    cloud = make_cloud(find_image(store, *key), PREDICTION, MAX_POINTS)
    caption = (
        f"File {key[0]}, event {key[1]}, TPC {key[2]}: of the held-out images the one with the median average "
        f"precision. Kept: score ≥ {THRESHOLD}. Drag to turn all pictures, scroll to zoom."
    )
    if cloud.side > 1:
        caption += f" Up to {cloud.side} × {cloud.side} × {cloud.side} voxels are drawn as one point."
    page.figure(comparison_figure(cloud, THRESHOLD), caption, SAME_VIEW)
    event = "events/event.html"
    page.links(
        [
            ("this event in full size, with a slider for the score", event),
            ("coloured by score", f"{event}#colour=score"),
            ("only what is kept", f"{event}#colour=charge&show=kept"),
            ("ghosts that are kept", f"{event}#colour=score&show=kept ghosts"),
        ]
    )


def _add_training(page: Page, demo: "Demo") -> None:
    rows = pd.read_csv(demo.run / "summaries_0.csv", sep="\t")
    figure = go.Figure()
    hover = "epoch %{x}<br>loss %{y:.4f}<extra></extra>"
    figure.add_scatter(x=rows["epoch"], y=rows["train_loss"], mode="lines+markers", hovertemplate=hover)
    figure.update_traces(line={"color": "#1f5fa8", "width": 2}, marker={"size": 6})
    figure.update_layout(**layout("epoch", "training loss", height=300))
    first, last = demo.settings.train_files
    page.figure(
        figure,
        f"Mean loss of each epoch on files {first} to {last}; {len(rows)} epochs, {rows['train_time'].sum():.0f} s.",
    )


def _add_stages(page: Page, demo: "Demo") -> None:
    rows = [(stage.name, stage.what, f"{demo.done[stage.name]['seconds']:.1f}") for stage in demo.stages]
    total = sum(done["seconds"] for done in demo.done.values())
    page.table(("stage", "what", "seconds"), [*rows, ("all", "", f"{total:.1f}")], strong=len(rows))
    page.paragraph(f"On {_machine()}. These are the commands; each can be typed and changed:")
    page.code("\n".join(command for stage in demo.stages for command in demo.done[stage.name]["commands"]))


def _machine() -> str:
    return f"{cores()} cores ({platform.machine()}), {platform.system()} {platform.release()}"


def _add_settings(page: Page, demo: "Demo", store: Any) -> None:
    page.code(demo.simulation.read_text(encoding="utf-8"), "simulation, the response included")
    page.code(demo.config.read_text(encoding="utf-8"), "training")
    provenance = store.attributes["provenance"]
    page.code(yaml.safe_dump(provenance, sort_keys=False, allow_unicode=True), "provenance in the store")
    page.code("\n".join(f"{name} {version}" for name, version in versions().items()), "versions")
