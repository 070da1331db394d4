"""The page of the training benchmark: what was promised and reached, beside the settings it holds for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.side_by_side import markdown
from tests.benchmarks.training_charge import ESTIMATES, charges_of
from tests.benchmarks.training_figures import draw
from tests.benchmarks.training_settings import TRUE_ELECTRONS, VARIATIONS

BARS = {"beam": 0.945, "electrons": 0.831}  # sp_area of the research code
METHODS = {"network": "network", "plane_agreement": "agreement of the planes", "no_cut": "no cut"}
FIGURES = {
    "quality-curves.svg": "Efficiency and purity, averaged over events at 50 thresholds",
    "quality-frames.svg": "Lit charge that the kept voxels explain, against the fraction of voxels kept",
    "quality-charge.svg": "Bias and resolution of the charge by decile",
}


def write_page(results: dict[str, Any], docs: Path) -> None:
    """Write network-quality.md and its figures into ``docs``."""
    draw(results, [docs / name for name in FIGURES])
    (docs / "network-quality.md").write_text(page(results), encoding="utf-8")


def page(results: dict[str, Any]) -> str:
    """The page, in markdown."""
    done = {name: step["result"] for name, step in results["done"].items()}
    settings = results["settings"]
    names = {sample["name"]: sample["title"] for sample in settings["samples"]}
    parts = [
        "# How well the network learns",
        f"Written by `make bench-training` on {results['date']}: {results['machine']}. {_about(settings, done)}",
        bar_table(bars(done, names)),
        response_line(settings),
        "## Deghosting",
        f"""**sp_area** is the 2021 measure, defined in `train/results/sp_area.py`: efficiency and purity are averaged
over events at 50 thresholds, a voxel is true from {TRUE_ELECTRONS:,.0f} electrons on, efficiency is relative to true
and tiled voxels. **AP** is the average precision of an event, its mean over events. In brackets 95 % bootstrap
intervals over events.""",
        markdown(
            ["held-out events", "method", "sp_area", "mean AP", "AP, pooled"],
            [row for name, title in names.items() for row in _method_rows(title, done[f"score {name}"])],
        ),
        markdown(
            ["held-out events", "images", "voxels an image", "true", "purity after tiling", "tiling efficiency",
             "purity, efficiency at score 0.5"],
            [_sample_row(title, done[f"score {name}"]) for name, title in names.items()],
        ),
        _picture("quality-curves.svg"),
        response_line(settings),
    ]  # fmt: skip
    if "score bee" in done:
        parts += [
            "## Events of others",
            """Six π⁺ of 7 GeV/c as Wire-Cell's authors simulated them (deposits), read out with our response.""",
            markdown(["events", "method", "sp_area", "mean AP", "AP, pooled"],
                     _method_rows("six Bee events", done["score bee"])),
        ]  # fmt: skip
    parts += _frames(done)
    parts += _variations(done, settings, names)
    parts += _charge(done, settings, names)
    parts += _how(results, done)
    return "\n\n".join(parts) + "\n"


def response_line(settings: dict[str, Any]) -> str:
    """The response in a line, to stand beside figures."""
    r = settings["response"]
    ticks, pitches, noise, regions = (
        " / ".join(f"{value:g}" for value in r[key])
        for key in ("smear_ticks", "smear_pitches", "noise", "roi_threshold")
    )
    return (
        f"*Response: diffusion {r['diffusion_l_cm2_s']:g} / {r['diffusion_t_cm2_s']:g} cm²/s; smear u/v/w {ticks} "
        f"ticks, {pitches} pitches; noise {noise} e a tick; regions from {regions} rms; gaps {r['gaps']:g}; "
        f"lifetime {r['lifetime_us'] / 1000:g} ms; lit above {settings['threshold']:g} e a tick; downsample 8, 4, 4. "
        "The same for all samples.*"
    )


def bars(done: dict[str, Any], names: dict[str, str]) -> Iterator[Bar]:
    """What was promised."""
    for name, title in names.items():
        yield Bar("sp_area", title, BARS[name], done[f"score {name}"]["methods"]["network"]["sp_area"])
    purity = done["score beam"]["purity_after_tiling"]
    yield Bar("purity after tiling", names["beam"], 0.03, purity)
    yield Bar("purity after tiling", names["beam"], 0.07, purity, most=True)
    for name, title in names.items():
        found = charges_of(done, name)
        if found is not None:
            network, calibrated, planes = (found["methods"][key] for key in ESTIMATES)
            for of, worst in (
                ("collected charge, calibrated", _worst(calibrated["deciles"])),
                ("collected charge", _worst(network["deciles"])),
                ("estimate", _worst(network["estimated"])),
            ):
                yield Bar(f"largest median bias of the charge in a decile of the {of}", title, 0.05, worst, most=True)
            for of, ratio in (("", network["resolution"]), (", calibrated,", calibrated["resolution"])):
                what = f"resolution of the charge{of} / that of the mean of the planes"
                yield Bar(what, title, 0.8, ratio / planes["resolution"], most=True)


def _worst(rows: list[dict[str, float]]) -> float:
    return max(abs(row["bias"]) for row in rows)


def _about(settings: dict[str, Any], done: dict[str, Any]) -> str:
    samples = ", ".join(f"{s['train']} + {s['held_out']} {s['title']}" for s in settings["samples"])
    counted = done["simulate beam"]["counted"]
    minutes = settings["ghost"]["train"]["max_minutes"]
    return (
        f"Simulated images of ProtoDUNE-SP TPC 1 (trained on + held out): {samples}; {min(counted)} to {max(counted)} "
        f"muons an image of beam + cosmics. The network trains {minutes:g} minutes on both, "
        f"{done['train ghost']['epochs']} epochs."
    )


def _ranged(value: float, interval: list[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} – {interval[1]:.3f})"


def _method_rows(title: str, found: dict[str, Any]) -> list[list[str]]:
    return [
        [title, label, _ranged(m["sp_area"], m["sp_area_interval"]), _ranged(m["ap"], m["ap_interval"]),
         f"{m['ap_pooled']:.3f}"]
        for name, label in METHODS.items()
        for m in [found["methods"][name]]
    ]  # fmt: skip


def _sample_row(title: str, found: dict[str, Any]) -> list[str]:
    at = found["at"]["0.5"]
    return [
        title, f"{found['images']}", f"{found['voxels_per_image']:,.0f}", f"{found['true_per_image']:,.0f}",
        f"{found['purity_after_tiling']:.1%}", f"{found['tiling_efficiency']:.1%}",
        f"{at['purity']:.3f}, {at['efficiency']:.3f}",
    ]  # fmt: skip


def _frames(done: dict[str, Any]) -> Iterator[str]:
    frames = [result for name, result in done.items() if name.startswith("frame ")]
    if not frames:
        return
    yield "## Frames without truth"
    yield """The share of each plane's lit charge (samples above the threshold) that lies where at least one kept voxel
crosses the channel in the voxel's ticks. Voxels are kept by the network's score, and beside it by the agreement of the
planes and by chance, at the same fraction. Channels that another face shares hold its charge too, which no voxel here
can explain. The network has seen nothing but the simulation above: ProtoDUNE-HD has nearly its geometry, ProtoDUNE-VD
has another one."""
    rows = []
    for frame in frames:
        for plane, name in enumerate(frame["planes"]):
            at = frame["fraction"].index(0.05)
            rows.append(
                [frame["title"], name, f"{frame['lit_charge'][plane] / 1e6:.1f}", f"{frame['voxels']:,}",
                 f"{frame['network_at']['kept']:.1%}", f"{frame['network_at']['explained'][plane]:.3f}"]
                + [f"{frame[method][plane][at]:.3f}" for method in ("network", "plane_agreement", "chance")]
            )  # fmt: skip
    yield markdown(
        ["frame", "plane", "lit charge, 10⁶ e", "voxels", "kept at score 0.5", "explained", "network, 5 % kept",
         "agreement, 5 % kept", "chance, 5 % kept"],
        rows,
    )  # fmt: skip
    yield _picture("quality-frames.svg")


def _variations(done: dict[str, Any], settings: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    if "score same" not in done:
        return
    yield "## Another response than was trained on"
    yield f"""The same network on the first {settings["varied"]} held-out events of each sample, simulated again."""
    rows = []
    for label, results in [
        ("as trained", done["score same"]),
        *(
            (title, {n: done[f"vary {key} {n}"] for n in names})
            for key, title, _, _ in VARIATIONS
            if key in settings["variations"]
        ),
    ]:
        for name, title in names.items():
            found = results[name]
            network, planes = found["methods"]["network"], found["methods"]["plane_agreement"]
            rows.append(
                [label, title, f"{found['purity_after_tiling']:.1%}", f"{found['tiling_efficiency']:.1%}",
                 _ranged(network["sp_area"], network["sp_area_interval"]),
                 _ranged(network["ap"], network["ap_interval"]), f"{planes['ap']:.3f}"]
            )  # fmt: skip
    yield markdown(
        ["response", "events", "purity after tiling", "tiling efficiency", "sp_area", "mean AP", "AP, planes agree"],
        rows,
    )


def _charge(done: dict[str, Any], settings: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    found = {title: figures for name, title in names.items() if (figures := charges_of(done, name)) is not None}
    if not found:
        return
    yield "## Charge"
    yield f"""Against the electrons that reach the wires (`collected`), on true voxels from 5,000 electrons on, whatever
their score. Bias: median of estimate / collected, less 1; resolution: half the width of its central 68 % over its
median, what is left when the bias is taken off (the planes' charges are shared among all voxels, ghosts too). The net
starts from the weights of the ghost net and trains
{settings["charge"]["train"]["max_minutes"]:g} minutes ({done["train charge"]["epochs"]} epochs). *Calibrated*: by
`larstore calibrate`, fitted with the images that were trained on, sample by sample."""
    rows, estimated = [], []
    for title, figures in found.items():
        methods = [figures["methods"][name] for name in ESTIMATES]
        for number, row in enumerate(methods[0]["deciles"]):
            label = f"{row['low'] / 1000:.1f} – {row['high'] / 1000:.1f} ke"
            rows.append([title, label, *_columns([method["deciles"][number] for method in methods])])
        rows.append([title, "all", *_columns(methods)])
        estimated += [
            [title, f"{row['low'] / 1000:.1f} – {row['high'] / 1000:.1f} ke", f"{row['bias']:+.3f}",
             f"{row['resolution']:.3f}"]
            for row in methods[0]["estimated"]
        ]  # fmt: skip
    columns = [word for name in ESTIMATES for word in (f"bias, {name}", "resolution")]
    yield "By decile of the collected charge: what voxels of that much are taken for."
    yield markdown(["held-out events", "collected", *columns], rows)
    yield """By decile of the network's estimate: how far voxels that read so much are off. Of all estimates from the
same inputs one with the least absolute error has no bias here, and is drawn to the middle in the table above; the
calibrated one is the other way round. None of finite resolution can be without bias in both."""
    yield markdown(["held-out events", "estimate", "bias", "resolution"], estimated)
    yield "Σ estimate over the voxels kept at score 0.5, over Σ collected of all true voxels, image by image, less 1:"
    yield markdown(
        ["held-out events", *columns],
        [[title, *_columns([figures["sums"][name] for name in ESTIMATES])] for title, figures in found.items()],
    )
    yield _picture("quality-charge.svg")
    yield response_line(settings)


def _columns(found: list[dict[str, float]]) -> list[str]:
    return [text for each in found for text in (f"{each['bias']:+.3f}", f"{each['resolution']:.3f}")]


def _how(results: dict[str, Any], done: dict[str, Any]) -> Iterator[str]:
    yield "## How it was made"
    yield markdown(
        ["step", "seconds", "load at its begin and end"],
        [[name, f"{step['seconds']:.0f}", ", ".join(f"{x:.1f}" for x in step["load"])]
         for name, step in results["done"].items()],
    )  # fmt: skip
    yield "Settings, as committed before the training (`tests/benchmarks/training_settings.py`):"
    yield f"```json\n{json.dumps(results['settings'], indent=1, ensure_ascii=False)}\n```"


def _picture(name: str) -> str:
    return f"![{FIGURES[name]}]({name})"
