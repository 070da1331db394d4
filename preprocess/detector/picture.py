"""A picture of the wires of one face, as a page that opens without a network."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from larstore.report import Page
from preprocess.detector.model import Detector, Plane, Tpc
from preprocess.detector.tables import angle_deg, header_lines

COLOURS = ("#1f5fa8", "#d1701f", "#2b8a5a", "#7a4fa3", "#a33f4f", "#5d6b7a")
HEIGHT = 760
SHOWN = 40  # wires of a plane, about; all of them would be one coloured area


def draw_face(detector: Detector, number: int, path: str | Path) -> Path:
    """Write the page of a TPC's wires, drawn as they are (z to the right, y upwards); every wire shows its channel.

    Raises:
        ConfigError: a TPC that the detector lacks.
        StoreError: a path that cannot be written.
    """
    tpc = detector.tpc(number)
    frame = tpc.frame
    page = Page(f"{detector.name}, TPC {number}", f"anode {tpc.anode}, face {tpc.face}")
    for line in header_lines(detector):
        page.paragraph(line, note=True)
    page.figure(
        _figure(tpc),
        f"Some wires of each plane; a click on a name in the legend shows all of them, or hides them. The frame is the "
        f"pixel grid, {frame.n_y} × {frame.n_z} pixels of {frame.pixel_mm:g} mm. A wrapped channel has several wires.",
    )
    return page.write(path)


def _figure(tpc: Tpc) -> go.Figure:
    frame = tpc.frame
    figure = go.Figure()
    for index, plane in enumerate(tpc.planes):
        colour, step = COLOURS[index % len(COLOURS)], max(1, round(len(plane.column) / SHOWN))
        about = f"{plane.name}: {len(plane.column)} wires, {plane.pitch_mm:.4g} mm, {angle_deg(plane):+.1f}°"
        figure.add_trace(_lines(plane, colour, step, about if step == 1 else f"{about}, every {step}th"))
        if step > 1:
            figure.add_trace(_lines(plane, colour, 1, f"all of {plane.name}", visible="legendonly"))
    y = frame.origin_y_mm + frame.pixel_mm * np.array([0, frame.n_y])
    z = frame.origin_z_mm + frame.pixel_mm * np.array([0, frame.n_z])
    figure.add_shape(type="rect", x0=z[0], x1=z[1], y0=y[0], y1=y[1], line={"color": "#1c2733", "width": 1.5})
    figure.update_layout(
        template="plotly_white",
        height=HEIGHT,
        xaxis_title="z [mm]",
        yaxis={"title": "y [mm]", "scaleanchor": "x"},
        legend={"orientation": "h", "y": 1.06},
        margin={"t": 40},
    )
    return figure


def _lines(plane: Plane, colour: str, step: int, name: str, visible: bool | str = True) -> go.Scattergl:
    """Every ``step``-th wire in one trace, with a gap behind each."""
    tail, head = plane.tail[::step], plane.head[::step]
    points = np.stack([tail, 0.5 * (tail + head), head, np.full_like(tail, np.nan)], axis=1).reshape(-1, 3).round(2)
    texts = [
        f"{plane.name}: channel {channel}, segment {segment}, wire {step * i}"
        for i, (channel, segment) in enumerate(zip(plane.channel[::step], plane.segment[::step], strict=True))
    ]
    return go.Scattergl(
        x=points[:, 2],
        y=points[:, 1],
        mode="lines",
        name=name,
        visible=visible,
        line={"color": colour, "width": 1},
        text=np.repeat(texts, 4),
        hoverinfo="text",
    )
