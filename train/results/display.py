"""`larstore view`: one event in 3D as a page that opens without a network."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import larstore
from larstore.report import document, plotly_script, write_page
from train.results.cloud import Cloud, find_image, make_cloud
from train.results.display_script import BODY, SCRIPT, STYLE
from train.results.scene import SCALES, axes_of, scene

NOTHING = "#d9dee4"  # a voxel without truth or score
THRESHOLD = 0.5


def view(
    store_path: str | os.PathLike[str],
    file: int,
    event: int,
    tpc: int,
    out: str | os.PathLike[str],
    prediction: str | None = None,
    threshold: float | None = None,
    max_points: int = 60_000,
) -> Path:
    """Write the page of one image to ``out``; returns its path.

    Buttons colour the voxels by charge (mean of the planes, or one plane), truth or score and show all, those kept
    (score ≥ threshold, with a slider) or the true ones.

    Args:
        prediction: its scores are shown; None takes the store's only prediction, if there is exactly one.
        threshold: where the slider starts, 0.5 by default.
        max_points: of more voxels, those with the largest charge are drawn; the page says how many are not.

    Raises:
        StoreError: no such image (with the nearest keys) or prediction, or ``out`` cannot be written.
    """
    store = larstore.open(store_path)
    image = find_image(store, file, event, tpc)
    names = sorted(store.predictions)
    if prediction is None and len(names) == 1:
        prediction = names[0]
    cloud = make_cloud(image, prediction, max_points)
    samples = store.inputs["sample"]
    number = image.summary("input")
    sample = str(samples.iloc[number]) if 0 <= number < len(samples) else ""
    title = f"file {file} · event {event} · TPC {tpc}"
    facts = [store.attributes["detector"], *([f"sample {sample}"] if sample else []), *_facts(cloud, prediction)]
    if prediction is None and names:
        facts.append(f"predictions not shown: {', '.join(names)}")
    data = payload(cloud, THRESHOLD if threshold is None else threshold)
    body = BODY.format(title=title, facts=" · ".join(_escaped(fact) for fact in facts), note=_escaped(_note(cloud)))
    body += f"<script>const EVENT = {_script_json(data)};\n{SCRIPT}</script>"
    return write_page(out, document(title, STYLE, f"<script>{plotly_script()}</script>", body))


def payload(cloud: Cloud, threshold: float) -> dict[str, Any]:
    """What the page's script draws: columns of float32 as base64, and how each is coloured."""
    columns = {"x": cloud.position[:, 0], "y": cloud.position[:, 1], "z": cloud.position[:, 2]}
    colours = []
    unit = cloud.charge_unit
    fields = [("charge", "charge", cloud.mean_charge)]
    fields += [(f"charge_{p}", f"charge {p}", cloud.charge[:, i]) for i, p in enumerate(cloud.planes)]
    for name, label, values in fields:
        columns[name] = values
        colours.append({"name": name, "label": label, "unit": unit, "log": True, "scale": SCALES["charge"]})
    if cloud.truth is not None:
        columns["truth"] = cloud.truth
        colours.append({"name": "truth", "label": "truth", "unit": unit, "log": True, "scale": SCALES["truth"]})
    if cloud.score is not None:
        columns["score"] = cloud.score
        colours.append({"name": "score", "label": "score", "unit": "", "log": False, "scale": SCALES["score"]})
    for colour in colours:
        colour["low"], colour["high"] = _limits(columns[str(colour["name"])], bool(colour["log"]))
    return {
        "columns": {name: _base64(values) for name, values in columns.items()},
        "colours": colours,
        "scene": scene(cloud, width=1.7),
        "axes": ["xyz"[column] for _, column, _ in axes_of(cloud.up)],
        "nothing": NOTHING,
        "unit": cloud.unit,
        "planes": list(cloud.planes),
        "threshold": threshold,
        "scores": _limits(cloud.score, log=False) if cloud.score is not None else None,
    }


def _limits(values: Any, log: bool) -> tuple[float, float]:
    """Ends of a colour scale: 0 to 1 for scores within, else between the 1st and 99.5th percentile."""
    values = values[np.isfinite(values)]
    if log:
        values = np.log10(values[values > 0])
    elif not len(values) or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, [1, 99.5])
    return float(low), float(max(high, low + 0.1))


def _facts(cloud: Cloud, prediction: str | None) -> list[str]:
    facts = [f"{cloud.n_voxels:,} voxels"]
    if cloud.n_true is not None:
        facts.append(f"{cloud.n_true:,} true ({cloud.n_true / max(cloud.n_voxels, 1):.1%})")
    else:
        facts.append("no truth")
    facts.append("no prediction" if prediction is None else f"prediction {prediction}")
    return facts


def _note(cloud: Cloud) -> str:
    if cloud.faintest is None:
        return ""
    return (
        f"{cloud.n_voxels - len(cloud):,} of {cloud.n_voxels:,} voxels, those with a charge below "
        f"{cloud.faintest:,.0f} {cloud.charge_unit}, are not drawn."
    )


def _base64(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _script_json(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
