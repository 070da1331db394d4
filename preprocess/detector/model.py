"""TPC faces, their wire planes, and the way from (x, y, z, t) to (tick, pixel)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from larstore.geometry import WIRE_COLUMNS, Geometry, TpcGeometry

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """One wire plane of a TPC face. Its wires are sorted by pitch coordinate.

    The pitch coordinate of a point is ``y * normal[0] + z * normal[1]``: its perpendicular distance from the line
    through (y, z) = (0, 0) along the wires.

    Attributes:
        name: u, v, w, … in the order the drifting electrons meet the planes.
        x_mm: position along the drift axis.
        pitch_mm: distance of neighbouring wires.
        normal: (dy, dz), unit vector of increasing pitch coordinate; dz > 0, or dy > 0 for wires along z.
        offset_mm: (wire,) pitch coordinate of each wire's centre line.
        local_offset_mm: (wire,) the same, relative to the TPC's ``shift_z_mm``.
        column: (wire,) int32 column of the TPC's waveform that the wire is read out on.
        channel: (wire,) int32 global channel number.
        segment: (wire,) int32 number of the segment of a wrapped channel.
        tail, head: (wire, 3) end points x, y, z in mm.
    """

    name: str
    x_mm: float
    pitch_mm: float
    normal: tuple[float, float]
    offset_mm: Floats
    local_offset_mm: Floats
    column: npt.NDArray[np.int32]
    channel: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32]
    tail: Floats
    head: Floats


@dataclass(frozen=True)
class Tpc:
    """One face of an anode with the volume that drifts towards it.

    Attributes:
        number: offline TPC number.
        anode, face: the numbers of the wires file.
        channels: (column,) int32 ascending global channel numbers of the whole anode: the columns of a waveform.
        planes: the wire planes in drift order.
        frame: drift, ticks and pixel grid.
        shift_z_mm: where the anode stands; equal anodes have equal planes relative to it. 0 for wires files.
        detector: name of the detector, for messages.
        live: whether charge drifts to it, as far as the detector tells; the wall side of an APA is not live.
    """

    number: int
    anode: int
    face: int
    channels: npt.NDArray[np.int32]
    planes: tuple[Plane, ...]
    frame: TpcGeometry
    shift_z_mm: float
    detector: str
    live: bool = True

    @property
    def up(self) -> tuple[float, float, float]:
        """(x, y, z) unit vector against gravity."""
        return self.frame.up

    def to_ticks(self, x_mm: npt.ArrayLike, t_us: npt.ArrayLike = 0.0) -> Floats:
        """Ticks (floats) at which electrons freed at ``x_mm`` and time ``t_us`` arrive; also behind the anode."""
        frame = self.frame
        speed, tick, zero = frame.drift_speed_mm_us, frame.tick_us, frame.tick_zero_drift
        if speed is None or tick is None or zero is None:
            missing = ", ".join(
                key
                for key, value in (("drift_speed_mm_us", speed), ("tick_us", tick), ("t0_us", zero))
                if value is None
            )
            raise ConfigError(
                f"Detector {self.detector!r} does not say {missing}. "
                f"Fix: write a detector YAML with these keys (see configs/detectors)."
            )
        distance = frame.drift_sign * (np.asarray(x_mm, np.float64) - frame.anode_x_mm)
        return np.asarray(zero + (distance / speed + np.asarray(t_us, np.float64)) / tick)

    def to_pixels(self, y_mm: npt.ArrayLike, z_mm: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Pixel coordinates (y, z) as floats: round down; inside the grid for 0 ≤ y < n_y and 0 ≤ z < n_z."""
        frame = self.frame
        return (
            np.asarray((np.asarray(y_mm, np.float64) - frame.origin_y_mm) / frame.pixel_mm),
            np.asarray((np.asarray(z_mm, np.float64) - frame.origin_z_mm) / frame.pixel_mm),
        )


@dataclass(frozen=True)
class Detector:
    """A detector: its TPCs by offline number."""

    name: str
    tpcs: dict[int, Tpc]

    def tpc(self, number: int) -> Tpc:
        """The TPC of that offline number; ConfigError with the valid ones otherwise."""
        if number not in self.tpcs:
            valid = ", ".join(str(n) for n in sorted(self.tpcs))
            raise ConfigError(f"Detector {self.name!r} has no TPC {number}. Fix: choose one of {valid}.")
        return self.tpcs[number]

    def partners(self, tpc: Tpc) -> list[Tpc]:
        """The other live faces of a TPC's anode whose wires are read out on channels of this one (wrapped wires)."""
        own = np.concatenate([plane.column for plane in tpc.planes])
        found = []
        for other in self.tpcs.values():
            if other.anode == tpc.anode and other.number != tpc.number and other.live:
                columns = np.concatenate([plane.column for plane in other.planes])
                if np.isin(columns, own).any():
                    found.append(other)
        return found

    def geometry(self) -> Geometry:
        """The wires and frames as a store keeps them, TPCs ascending, wires in the order of the planes."""
        columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in WIRE_COLUMNS}
        for number in sorted(self.tpcs):
            for index, plane in enumerate(self.tpcs[number].planes):
                n = len(plane.offset_mm)
                columns["tpc"].append(np.full(n, number))
                columns["plane"].append(np.full(n, index))
                columns["channel"].append(plane.channel)
                columns["segment"].append(plane.segment)
                columns["tail"].append(plane.tail)
                columns["head"].append(plane.head)
        wires: dict[str, npt.NDArray[np.generic]] = {
            name: np.concatenate(columns[name]).astype(dtype) for name, dtype in WIRE_COLUMNS.items()
        }
        return Geometry(detector=self.name, wires=wires, tpcs={n: self.tpcs[n].frame for n in sorted(self.tpcs)})
