"""The geometry that a store carries: the wires its images were tiled with and the way back to centimetres."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from larstore.errors import StoreError

MM_PER_CM = 10.0
WIRE_COLUMNS: dict[str, np.dtype[Any]] = {
    "tpc": np.dtype("int32"),
    "plane": np.dtype("uint8"),
    "channel": np.dtype("int32"),
    "segment": np.dtype("int32"),
    "tail": np.dtype("float64"),
    "head": np.dtype("float64"),
}


class TpcGeometry(BaseModel):
    """One TPC's frame. Lengths in mm, times in µs, drift in ticks; ``x`` is the drift axis of the detector.

    A charge at (x, y, z) that was freed at time t is seen at tick
    ``tick_zero_drift + (|x - anode_x_mm| / drift_speed_mm_us + t) / tick_us`` and in pixel
    ``((y - origin_y_mm) / pixel_mm, (z - origin_z_mm) / pixel_mm)``, rounded down.

    Where TPCs are joined, an image has the number of the lowest one, and ``joined_origin`` is where a TPC's voxel
    (0, 0, 0) lies in it: y and z count up from there, and so does x, but down if it drifts against the lowest one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    planes: tuple[str, ...]  # in the order the drifting electrons meet them
    anode_x_mm: float  # x that zero drift refers to
    drift_sign: int  # +1: the drift volume lies at x > anode_x_mm
    drift_length_mm: float | None  # None in these four: a bare wires file does not tell
    drift_speed_mm_us: float | None
    tick_us: float | None
    tick_zero_drift: float | None  # tick of a charge at zero drift freed at t = 0
    n_ticks: int
    origin_y_mm: float
    origin_z_mm: float
    n_y: int  # pixels
    n_z: int
    pixel_mm: float
    joined_origin: tuple[int, int, int] | None = None  # in voxels, set by `larstore join`
    up: tuple[float, float, float] = (0.0, 1.0, 0.0)  # (x, y, z), unit vector against gravity; for displays

    def voxels(
        self, position: npt.NDArray[np.floating[Any]], downsample: Sequence[int], t0: float = 0.0
    ) -> npt.NDArray[np.int64]:
        """(n, 3) voxels x, y, z of this TPC that hold points, given in cm, of charge freed at ``t0`` (µs).

        The way back of ``Image.position``, rounded down; what lies outside of the TPC has numbers below 0 or beyond its
        size. Raises StoreError where drift speed, tick or tick of zero drift are not known.
        """
        speed, tick_us, zero = self.drift_speed_mm_us, self.tick_us, self.tick_zero_drift
        if speed is None or tick_us is None or zero is None:
            raise StoreError(
                f"TPC {self.number} has no drift speed, tick length or tick of zero drift, which points need. "
                "Fix: preprocess with a detector that defines them"
            )
        mm = np.asarray(position, np.float64) * MM_PER_CM
        drift_us = self.drift_sign * (mm[:, 0] - self.anode_x_mm) / speed
        ticks = zero + (drift_us + t0) / tick_us
        y, z = (mm[:, 1] - self.origin_y_mm) / self.pixel_mm, (mm[:, 2] - self.origin_z_mm) / self.pixel_mm
        return np.asarray(np.floor(np.stack([ticks, y, z], axis=1) / np.asarray(downsample)), np.int64)


@dataclass(frozen=True)
class Geometry:
    """A detector as a store keeps it: a table of wire segments (mm) and each TPC's frame.

    ``wires`` holds the columns of ``WIRE_COLUMNS``; tail and head are (wires, 3), the others (wires,).
    """

    detector: str
    wires: dict[str, npt.NDArray[np.generic]]
    tpcs: dict[int, TpcGeometry]

    @property
    def joined(self) -> list[int]:
        """The TPCs that were joined to one image, ascending; none in most stores."""
        return [n for n in sorted(self.tpcs) if self.tpcs[n].joined_origin is not None]

    def difference(self, other: "Geometry") -> str | None:
        """The first difference that tiling depends on, as "what: this one's, the other one's"; None: there is none."""
        if sorted(self.tpcs) != sorted(other.tpcs):
            return f"TPCs: {sorted(self.tpcs)}, {sorted(other.tpcs)}"
        for number in sorted(self.tpcs):
            mine, theirs = (each.tpcs[number].model_dump(exclude={"up"}) for each in (self, other))
            for name in mine:
                if mine[name] != theirs[name]:
                    return f"{name} of TPC {number}: {mine[name]}, {theirs[name]}"
        lengths = [len(each.wires["tpc"]) for each in (self, other)]
        if lengths[0] != lengths[1]:
            return f"number of wire segments: {lengths[0]}, {lengths[1]}"
        for name in WIRE_COLUMNS:
            a, b = self.wires[name], other.wires[name]
            rows = np.flatnonzero((a != b).reshape(len(a), -1).any(axis=1))
            if len(rows):
                return f"{name} of wire segment {rows[0]}: {a[rows[0]].tolist()}, {b[rows[0]].tolist()}"
        return None

    @property
    def hash(self) -> str:
        """sha256 over the wires' bytes and the TPCs' numbers: equal hashes mean equal tiling geometry."""
        digest = hashlib.sha256()
        for name, dtype in WIRE_COLUMNS.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.wires[name], dtype=dtype).tobytes())
        frames = {str(n): self.tpcs[n].model_dump(mode="json", exclude={"up"}) for n in sorted(self.tpcs)}
        digest.update(json.dumps(frames, sort_keys=True).encode())
        return digest.hexdigest()
