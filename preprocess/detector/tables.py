"""A detector in numbers: a table of its faces, grouped where they are alike, and one of the built-in detectors."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from rich.table import Table

from larstore.errors import ConfigError
from preprocess.detector import detector_names, load_detector
from preprocess.detector.model import Detector, Plane, Tpc


def names_table() -> Table:
    """The built-in detectors, with their size or why they cannot be loaded (a wires file that is not found)."""
    table = Table("detector", "TPCs (live)", "channels", "wires")
    for name in detector_names():
        try:
            detector = load_detector(name)
        except ConfigError as error:
            table.add_row(name, "", "", str(error).partition(": ")[2])
            continue
        tpcs = detector.tpcs.values()
        channels = {tpc.anode: len(tpc.channels) for tpc in tpcs}
        wires = sum(len(plane.column) for tpc in tpcs for plane in tpc.planes)
        live = sum(tpc.live for tpc in tpcs)
        table.add_row(name, f"{len(tpcs)} ({live})", f"{sum(channels.values()):,}", f"{wires:,}")
    return table


def header_lines(detector: Detector) -> list[str]:
    """The numbers that all faces share; a question mark where a bare wires file does not tell."""
    frame = next(iter(detector.tpcs.values())).frame
    start = None
    if frame.tick_zero_drift is not None and frame.tick_us is not None:
        start = 0.0 - frame.tick_zero_drift * frame.tick_us
    up = next(iter(detector.tpcs.values())).up
    return [
        f"drift {_known(frame.drift_speed_mm_us)} mm/µs, tick {_known(frame.tick_us)} µs, tick 0 at {_known(start)} µs,"
        f" {frame.n_ticks or '?'} ticks, pixels of {frame.pixel_mm:g} mm, up ({', '.join(f'{v:g}' for v in up)})",
        f"geometry {detector.geometry().hash[:16]}",
    ]


def faces_table(detector: Detector, only: int | None = None) -> Table:
    """A row for each plane of each kind of face; ``only`` one TPC."""
    table = Table(
        "TPC", "drift", "pixels y × z", "face y, z [mm]", "plane", "wires", "channels", "pitch [mm]", "angle", "x [mm]"
    )
    tpcs = detector.tpcs.values() if only is None else [detector.tpc(only)]
    every = [plane.channel for tpc in detector.tpcs.values() for plane in tpc.planes]
    numbers, wires = np.unique(np.concatenate(every), return_counts=True)
    wrapped = numbers[wires > 1]
    for group in _alike(tpcs, wrapped):
        tpc, frame = group[0], group[0].frame
        group_numbers = ", ".join(str(other.number) for other in group)
        length = "?" if frame.drift_length_mm is None else f"{frame.drift_length_mm:.1f} mm"
        drift = f"from {'+' if frame.drift_sign > 0 else '−'}x, {length}" if tpc.live else "not live"
        size = f"{frame.n_y * frame.pixel_mm:.0f} × {frame.n_z * frame.pixel_mm:.0f}"
        first = [group_numbers, drift, f"{frame.n_y} × {frame.n_z}", size]
        for index, plane in enumerate(tpc.planes):
            place = first if index == 0 else [""] * 4
            table.add_row(*place, *_plane_cells(plane, wrapped), end_section=plane is tpc.planes[-1])
    return table


def angle_deg(plane: Plane) -> float:
    """Angle of the wires to the vertical y in the (z, y) plane, degrees: that of their normal to z."""
    return round(math.degrees(math.atan2(plane.normal[0], plane.normal[1])), 4) + 0.0  # no −0


def _plane_cells(plane: Plane, wrapped: npt.NDArray[np.int32]) -> list[str]:
    channels = np.unique(plane.channel)
    n_wrapped = int(np.isin(channels, wrapped).sum())
    return [
        plane.name,
        str(len(plane.column)),
        f"{len(channels)}, {n_wrapped} wrapped" if n_wrapped else f"{len(channels)}",
        f"{plane.pitch_mm:.4g}",
        f"{angle_deg(plane):+.2f}°",
        f"{round(plane.x_mm, 2) + 0.0:.2f}",
    ]


def _alike(tpcs: Iterable[Tpc], wrapped: npt.NDArray[np.int32]) -> list[list[Tpc]]:
    """TPCs whose rows would read the same, but for their place."""
    groups: dict[tuple[object, ...], list[Tpc]] = {}
    for tpc in tpcs:
        frame = tpc.frame
        planes = [tuple(_plane_cells(plane, wrapped)) for plane in tpc.planes]
        key = (tpc.live, frame.drift_sign, frame.drift_length_mm, frame.n_y, frame.n_z, tuple(planes))
        groups.setdefault(key, []).append(tpc)
    return list(groups.values())


def _known(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
