"""One event side by side: what was tiled, what the network keeps, what is true."""

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from train.results.cloud import Cloud
from train.results.scene import SCALES, axes_of, scene

# Turning one picture turns the others.
SAME_VIEW = """
const plot = document.getElementById("{plot_id}");
let turning = false;
plot.on("plotly_relayout", change => {
  const key = Object.keys(change).find(k => k.endsWith(".camera"));
  if (!key || turning) return;
  turning = true;
  const camera = change[key], update = {};
  for (const scene of Object.keys(plot.layout).filter(k => k.startsWith("scene"))) update[scene + ".camera"] = camera;
  Plotly.relayout(plot, update).then(() => { turning = false; });
});
"""


def comparison_figure(cloud: Cloud, threshold: float) -> go.Figure:
    """Two or three scenes: all tiled voxels and those with score ≥ ``threshold``, and where there is truth the true.

    ``cloud`` has scores. Colour is the charge (mean of the planes), in the last scene the true charge, on one scale.
    """
    assert cloud.score is not None
    charge = cloud.mean_charge
    kept = cloud.score >= threshold
    points = "voxels" if cloud.side == 1 else f"points of {cloud.side}³ voxels"
    parts = [
        (f"tiled: {len(cloud):,} {points}", np.ones(len(cloud), bool), charge),
        (f"kept by the network: {int(kept.sum()):,}", kept, charge),
    ]
    if cloud.truth is not None:
        parts.append((f"true: {int((cloud.truth > 0).sum()):,}", cloud.truth > 0, cloud.truth))
    specs = [[{"type": "scene"}] * len(parts)]
    titles = [title for title, _, _ in parts]
    figure = make_subplots(rows=1, cols=len(parts), specs=specs, subplot_titles=titles, horizontal_spacing=0.01)
    logs = [np.log10(values[chosen][values[chosen] > 0]) for _, chosen, values in parts]
    filled = [part for part in logs if len(part)] or [np.array([0.0, 1.0])]
    low, high = np.percentile(filled[0], 1), max(np.percentile(part, 99) for part in filled)
    for column, (_, chosen, values) in enumerate(parts, 1):
        figure.add_trace(_points(cloud, chosen, values, low, high, bar=column == len(parts)), 1, column)
    figure.update_scenes(scene(cloud, width=0.85))
    figure.update_layout(
        height=430,
        margin={"l": 0, "r": 0, "t": 30, "b": 0},
        showlegend=False,
        font={"family": "system-ui, Segoe UI, Roboto, Arial, sans-serif", "size": 12, "color": "#1c2733"},
    )
    return figure


def _points(
    cloud: Cloud,
    chosen: npt.NDArray[np.bool_],
    values: npt.NDArray[np.float32],
    low: float,
    high: float,
    bar: bool,
) -> go.Scatter3d:
    columns = [column for _, column, _ in axes_of(cloud.up)]
    x, y, z = np.round(cloud.position[chosen][:, columns], 1).T
    charges = [m * 10**d for d in range(7) for m in (1, 2, 5)]
    ticks = [charge for charge in charges if low <= np.log10(charge) <= high]
    if len(ticks) > 8:  # too near to each other
        ticks = [charge for charge in ticks if not str(charge).startswith("2")]
    colorbar = {
        "title": {"text": cloud.charge_unit},
        "len": 0.7,
        "thickness": 12,
        "outlinewidth": 0,
        "tickvals": np.log10(ticks),
        "ticktext": [f"{charge / 1000:g} k" for charge in ticks],
    }
    marker = {
        "size": 2.2 if len(x) < 8000 else 1.6,
        "color": np.round(np.log10(np.maximum(values[chosen], 1.0)), 2),
        "colorscale": SCALES["charge"],
        "cmin": low,
        "cmax": high,
        "showscale": bar,
        "colorbar": colorbar,
        "line": {"width": 0},
    }
    names = ["xyz"[column] for column in columns]
    hover = f"{names[0]} %{{x}}  {names[1]} %{{y}}  {names[2]} %{{z}} {cloud.unit}<extra></extra>"
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, hovertemplate=hover)
