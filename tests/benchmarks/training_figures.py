"""Figures of the training benchmark: curves of the scores, of frames without truth, and of the charge."""

from pathlib import Path
from typing import Any

from tests.benchmarks.training_charge import ESTIMATES, charges_of

COLOURS = {"network": "#1f5fa8", "plane_agreement": "#c77d0a", "no_cut": "#8a939c", "chance": "#8a939c"}
CALIBRATED = "#2b8a5a"
LABELS = {"network": "network", "plane_agreement": "agreement of the planes", "no_cut": "no cut", "chance": "chance"}
LINES = ("-", "--", ":")
CHARGES = (5, 10, 20, 40, 80)  # ticks


def draw(results: dict[str, Any], paths: list[Path]) -> None:
    """Write the figures of scores, frames and charge to ``paths``; one without its steps is left out."""
    import matplotlib as mpl  # a development tool, not needed to print the page

    mpl.rcParams["svg.hashsalt"] = "larstore"  # equal figures give equal files
    done = {name: step["result"] for name, step in results["done"].items()}
    names = {sample["name"]: sample["title"] for sample in results["settings"]["samples"]}
    scores = {title: done[f"score {name}"] for name, title in names.items()}
    frames = [result for name, result in done.items() if name.startswith("frame ")]
    charge = {title: figures for name, title in names.items() if (figures := charges_of(done, name)) is not None}
    for path, part, make in zip(paths, (scores, frames, charge), (_scores, _frames, _charge), strict=True):
        if part:
            make(part).savefig(path, metadata={"Date": None})


def _panels(n: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.3 * n, 3.9), layout="tight")
    return figure, figure.subplots(1, n, squeeze=False)[0]


def _scores(scores: dict[str, Any]) -> Any:
    figure, panels = _panels(len(scores))
    for axes, (title, found) in zip(panels, scores.items(), strict=True):
        for name in ("network", "plane_agreement", "no_cut"):
            m = found["methods"][name]
            label = f"{LABELS[name]}: {m['sp_area']:.3f}"
            kept = [(e, p) for e, p in zip(m["efficiency"], m["purity"], strict=True) if e > 0]
            axes.plot(*zip(*kept, strict=True), ".-", color=COLOURS[name], label=label, markersize=4)
        axes.set(xlabel="efficiency (of true and tiled)", ylabel="purity", title=title, xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(title="sp_area", loc="lower left", fontsize="small")
    return figure


def _frames(frames: list[dict[str, Any]]) -> Any:
    figure, panels = _panels(len(frames))
    for axes, frame in zip(panels, frames, strict=True):
        for name in ("network", "plane_agreement", "chance"):
            for plane, line, values in zip(frame["planes"], LINES, frame[name], strict=False):
                axes.plot(frame["fraction"], values, line, color=COLOURS[name], label=f"{LABELS[name]}, {plane}")
        axes.set(
            xscale="log", xlabel="voxels kept", ylabel="lit charge explained", title=frame["title"], ylim=(0, 1.02)
        )
        axes.title.set_fontsize("small")
        axes.legend(fontsize="x-small")
    return figure


def _charge(charge: dict[str, Any]) -> Any:
    figure, panels = _panels(len(charge))
    for axes, (title, found) in zip(panels, charge.items(), strict=True):
        colours = COLOURS["network"], CALIBRATED, COLOURS["plane_agreement"]
        for name, colour in zip(ESTIMATES, colours, strict=True):
            rows = found["methods"][name]["deciles"]
            x = [(row["low"] * row["high"]) ** 0.5 / 1000 for row in rows]
            for key, line in (("bias", ".-"), ("resolution", ".:")):
                axes.plot(x, [row[key] for row in rows], line, color=colour, label=f"{key}, {name}")
        axes.axhspan(-0.05, 0.05, color="#dfe5ec", zorder=0)
        axes.set(xscale="log", xlabel="collected charge, 1000 electrons", title=title)
        axes.set_xticks(CHARGES, map(str, CHARGES))
        axes.minorticks_off()
        axes.legend(fontsize="small")
    return figure
