"""Pictures of single tracks as they were tiled: true voxels, ghosts, and true voxels that were not found."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from preprocess.closure.rows import ReadOut

GHOST, TRUE, LOST = "#c2c9d1", "#1f5fa8", "#c0392b"


def tracks_figure(read_outs: Sequence[ReadOut], titles: Sequence[str], size_cm: Sequence[float]) -> go.Figure:
    """Drift against z (above) and y against z (below) of some tiled tracks, in cm from the first voxel.

    Args:
        read_outs: tiled events.
        titles: one each.
        size_cm: x, y and z edge of a voxel.
    """
    figure = make_subplots(2, len(read_outs), subplot_titles=titles, vertical_spacing=0.12, horizontal_spacing=0.05)
    for column, read_out in enumerate(read_outs, start=1):
        for row, axis, name in ((1, 0, "drift [cm]"), (2, 1, "y [cm]")):
            for label, colour, places in _layers(read_out, axis):
                across, along = places[:, 1] * size_cm[2], places[:, 0] * size_cm[axis]
                figure.add_scattergl(
                    x=across, y=along, mode="markers", name=label, legendgroup=label,
                    marker={"size": 3, "color": colour}, showlegend=row == column == 1, row=row, col=column,
                )  # fmt: skip
            figure.update_yaxes(title_text=name if column == 1 else "", row=row, col=column)
        figure.update_xaxes(title_text="z [cm]", row=2, col=column)
    figure.update_layout(
        template="plotly_white", height=620, legend={"orientation": "h", "y": -0.12, "itemsizing": "constant"},
        margin={"l": 60, "r": 20, "t": 40, "b": 40},
    )  # fmt: skip
    return figure


def _layers(read_out: ReadOut, axis: int) -> list[tuple[str, str, npt.NDArray[np.int64]]]:
    """Label, colour and distinct (axis, z) places, each only in the last layer that has it."""
    tiled, true = (_flat(coords, axis) for coords in (read_out.voxels.coords, read_out.truth.coords))
    first = np.concatenate([tiled, true]).min(axis=0) if len(tiled) + len(true) else np.zeros(2, np.int64)
    in_tiled = {tuple(place) for place in tiled.tolist()}
    in_true = {tuple(place) for place in true.tolist()}
    ghosts, found, lost = in_tiled - in_true, in_true & in_tiled, in_true - in_tiled
    return [
        (label, colour, np.array(sorted(places), np.int64).reshape(-1, 2) - first)
        for label, colour, places in (("ghosts", GHOST, ghosts), ("true", TRUE, found), ("not found", LOST, lost))
    ]


def _flat(coords: npt.NDArray[np.uint16], axis: int) -> npt.NDArray[np.int64]:
    return np.unique(coords[:, [axis, 2]].astype(np.int64), axis=0)
