"""From tables of wires to a Detector: pitch, wire order, waveform columns and pixel grid of each face."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from larstore.geometry import TpcGeometry
from preprocess.detector.config import DetectorConfig
from preprocess.detector.model import Detector, Plane, Tpc
from preprocess.detector.wires import FaceWires, PlaneWires

PLANE_NAMES = "uvwxyz"
SAME_SPACING = 0.05  # relative
ROUNDING = 0.02  # of the pitch: 0.1 mm of 4.7 mm
MAX_PIXELS = 65_535  # coordinates are uint16 and 65535 is the fill value


def build_detector(config: DetectorConfig, faces: Sequence[FaceWires], source: str | Path) -> Detector:
    """The detector of these wires; InputError or ConfigError that names ``source`` if they make no sense."""
    columns: dict[int, npt.NDArray[np.int32]] = {}
    for anode in {face.anode for face in faces}:
        parts = [plane.channel for face in faces if face.anode == anode for plane in face.planes]
        columns[anode] = np.unique(np.concatenate(parts)).astype(np.int32)
    numbers = _tpc_numbers(config, faces, source)
    tpcs = {}
    for face in faces:
        number = numbers.get((face.anode, face.face))
        if number is None:
            continue
        if number in tpcs:
            raise ConfigError(f"{source}: two faces have the TPC number {number}. Fix: give `tpcs` in a detector YAML.")
        tpcs[number] = _tpc(config, face, number, columns[face.anode], source)
    return Detector(config.name, dict(sorted(tpcs.items())))


def _tpc_numbers(config: DetectorConfig, faces: Sequence[FaceWires], source: str | Path) -> dict[tuple[int, int], int]:
    there = [(face.anode, face.face) for face in faces]
    if config.tpcs is None:
        return {(anode, face): 2 * anode + 1 - face for anode, face in there}
    for number, key in config.tpcs.items():
        if key not in there:
            raise ConfigError(
                f"{source}: tpcs: TPC {number} is [anode, face] {list(key)}, which has no wires. "
                f"Fix: choose from {[list(k) for k in there]}."
            )
    return {key: number for number, key in config.tpcs.items()}


def _tpc(
    config: DetectorConfig, face: FaceWires, number: int, channels: npt.NDArray[np.int32], source: str | Path
) -> Tpc:
    where = f"{source}: anode {face.anode} face {face.face}"
    if not 2 <= len(face.planes) <= len(PLANE_NAMES):
        raise InputError(f"{where}: {len(face.planes)} planes. Fix: tiling needs two or more planes a face.")
    planes = tuple(
        _plane(wires, face.shift_z_mm, name, channels, where)
        for wires, name in zip(face.planes, PLANE_NAMES, strict=False)
    )
    used = np.concatenate([np.unique(plane.channel) for plane in planes])
    if len(np.unique(used)) != len(used):
        values, counts = np.unique(used, return_counts=True)
        raise InputError(f"{where}: channel {values[counts > 1][0]} is in two planes of it. Fix: mend the wires file.")
    first, last = planes[0], planes[-1]
    # Electrons meet the first plane first, so they come from its side.
    sign = 1 if first.x_mm >= last.x_mm else -1
    ahead = [sign * (x - first.x_mm) for x in config.cathode_x_mm if sign * (x - first.x_mm) > 0]
    box = face.box_mm or _span(last)
    cells = [_cells(low, high, config.pixel_mm) for low, high in box]
    if max(cells) > MAX_PIXELS:
        raise ConfigError(
            f"{where}: {max(cells)} pixels of {config.pixel_mm} mm along one axis, more than {MAX_PIXELS}. "
            "Fix: raise pixel_mm."
        )
    zero_drift = None if config.t0_us is None or config.tick_us is None else -config.t0_us / config.tick_us
    frame = TpcGeometry(
        number=number,
        planes=tuple(plane.name for plane in planes),
        anode_x_mm=first.x_mm,
        drift_sign=sign,
        drift_length_mm=min(ahead, default=None),
        drift_speed_mm_us=config.drift_speed_mm_us,
        tick_us=config.tick_us,
        tick_zero_drift=zero_drift,
        n_ticks=config.n_ticks,
        origin_y_mm=box[0][0],
        origin_z_mm=box[1][0],
        n_y=cells[0],
        n_z=cells[1],
        pixel_mm=config.pixel_mm,
        up=config.up,
    )
    live = bool(ahead) or not config.cathode_x_mm
    return Tpc(
        number, face.anode, face.face, channels, planes, frame, face.shift_z_mm, config.name, live
    )  # fmt: skip


def _cells(low: float, high: float, pixel: float) -> int:
    """Pixels that cover [low, high]; a last one that would be covered by less than a tenth is left out."""
    return max(1, math.ceil((high - low) / pixel - 0.1))


def _span(plane: Plane) -> tuple[tuple[float, float], tuple[float, float]]:
    """(y, z) rectangle that a plane's strips cover: its wires' end points, half a pitch further across the wires."""
    points = np.concatenate([plane.tail, plane.head])[:, 1:]
    reach = 0.5 * plane.pitch_mm * np.abs(plane.normal)
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    # Micrometres are beyond any survey; this keeps the origin readable.
    return (round(float(low[0]), 3), round(float(high[0]), 3)), (round(float(low[1]), 3), round(float(high[1]), 3))


def _plane(wires: PlaneWires, shift_z: float, name: str, channels: npt.NDArray[np.int32], where: str) -> Plane:
    if not len(wires.channel):
        raise InputError(f"{where}: plane {name} (ident {wires.ident}) has no wires. Fix: mend the wires file.")
    along = (wires.head - wires.tail)[:, 1:]
    if not (np.hypot(along[:, 0], along[:, 1]) > 0).all():
        channel = wires.channel[np.hypot(along[:, 0], along[:, 1]) == 0][0]
        raise InputError(f"{where}: a wire of channel {channel} has no length across the drift. Fix: mend the file.")
    if wires.normal is not None and wires.offset_mm is not None:
        normal, local = np.array(wires.normal), wires.offset_mm
    else:
        normal = _normal(along)
        local = even_spacing(0.5 * (wires.tail + wires.head)[:, 1:] @ normal - shift_z * normal[1])
    order = np.lexsort((wires.segment, wires.channel, local.round(6)))
    local, channel = local[order], wires.channel[order]
    return Plane(
        name=name,
        x_mm=float(np.median(wires.tail[:, 0])),
        pitch_mm=wires.pitch_mm or _pitch(local, where, name),
        normal=(float(normal[0]), float(normal[1])),
        offset_mm=local + shift_z * normal[1],
        local_offset_mm=local,
        column=np.searchsorted(channels, channel).astype(np.int32),
        channel=channel,
        segment=wires.segment[order],
        tail=wires.tail[order],
        head=wires.head[order],
    )


def _normal(along: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unit normal (y, z) of wires along ``along`` (wire, 2), with z > 0, or y > 0 for wires along z.

    One direction for the plane, weighted by length: short wires with rounded ends have poor ones of their own.
    """
    longest = along[np.argmax((along**2).sum(axis=1))]
    total = np.where((along @ longest < 0)[:, None], -along, along).sum(axis=0)
    normal = np.array([-total[1], total[0]]) / np.hypot(*total)
    if normal[1] < -1e-9 or (abs(normal[1]) <= 1e-9 and normal[0] < 0):
        normal = -normal
    return np.asarray(normal + 0.0)


def even_spacing(offset: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Pitch coordinates (wire,), moved onto a line of equal steps where all lie within 2 % of a pitch of one.

    Coordinates in wires files may be rounded to 0.1 mm: a strip would get its neighbour's charge.
    """
    sorted_offset = np.sort(offset)
    pitch = _mean_step(sorted_offset)
    if pitch is None:
        return offset
    # Step by step: an error of the pitch must not add up over thousands of wires.
    steps = np.rint(np.diff(sorted_offset) / pitch)
    number = np.concatenate([[0.0], np.cumsum(steps)])
    if number[-1] == 0:
        return offset
    slope, start = np.polyfit(number, sorted_offset, 1)
    if np.abs(start + slope * number - sorted_offset).max() > ROUNDING * slope:
        return offset
    even = np.empty_like(offset)
    even[np.argsort(offset, kind="stable")] = start + slope * number
    return even


def _mean_step(sorted_offset: npt.NDArray[np.float64]) -> float | None:
    """Mean distance of neighbours, over those that are near the median one; None for wires on a single line.

    The mean, as coordinates may be rounded; the others are gaps, or the parts of a split wire, which lie on one line.
    """
    steps = np.diff(sorted_offset)
    # A quantile and not the largest one, which may be a gap.
    steps = steps[steps > 0.1 * np.quantile(steps, 0.9)] if len(steps) else steps
    if not len(steps):
        return None
    middle = float(np.sort(steps)[len(steps) // 2])  # one of them, so that it is near itself
    return float(steps[np.abs(steps - middle) <= SAME_SPACING * middle].mean())


def _pitch(offset: npt.NDArray[np.float64], where: str, name: str) -> float:
    pitch = _mean_step(offset)
    if pitch is None:
        raise InputError(f"{where}: plane {name} has a single wire, so no pitch. Fix: mend the wires file.")
    return round(pitch, 6)
