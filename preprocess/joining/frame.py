"""The common frame of joined TPCs: where each one's voxels lie in it, and the geometry that says so in a store."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.coordinates import LARGEST, check_downsample
from larstore.errors import ConfigError
from larstore.geometry import Geometry, TpcGeometry

ALIKE = ("planes", "pixel_mm", "tick_us", "drift_speed_mm_us")  # what joined TPCs must share
DIGITS = 6  # of a voxel, of a distance: the last bits of a division must not decide how it is rounded


@dataclass(frozen=True)
class JoinedFrame:
    """Where the voxels of some TPCs lie in one frame: that of the first TPC, moved so that none is negative.

    Attributes:
        tpcs: the TPCs, ascending; the first one's voxels are those of the frame, its drift is the direction of x.
        origins: for each TPC the place of its voxel (0, 0, 0).
        mirrored: for each TPC whether it drifts the other way: its x counts down from there.
        shape: voxels of the frame in x, y, z; x is 0 where the length of the read-out is not known.
    """

    tpcs: tuple[int, ...]
    origins: tuple[tuple[int, int, int], ...]
    mirrored: tuple[bool, ...]
    shape: tuple[int, int, int]

    def places(self, tpc: int, coords: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        """(n, 3) voxels of a TPC in the frame; they may lie outside of it where the read-out was longer than told."""
        at = self.tpcs.index(tpc)
        places = coords.astype(np.int64)
        if self.mirrored[at]:
            places[:, 0] *= -1
        places += np.array(self.origins[at])
        return places


def joined_frame(
    geometry: Geometry, tpcs: Sequence[int], downsample: Sequence[int], ticks: int | None = None
) -> JoinedFrame:
    """The frame of some TPCs with their true distances, each rounded to whole voxels.

    Args:
        geometry: of the store whose images are joined.
        tpcs: two or more of its TPCs, in any order.
        downsample: ticks, y and z pixels of a voxel.
        ticks: length of the read-out; None = as the geometry tells. Matters where TPCs drift to both sides.

    Raises:
        ConfigError: TPCs that are not there or cannot be joined, a frame of more voxels than coordinates can count.
    """
    steps = check_downsample(downsample)
    numbers = _checked(geometry, tpcs)
    frames = [geometry.tpcs[number] for number in numbers]
    mirrored = tuple(frame.drift_sign != frames[0].drift_sign for frame in frames)
    lengths = [_window(geometry, frame, ticks, any(mirrored)) for frame in frames]
    low, high, zero = [], [], []  # of each TPC in voxels of the first one's frame: its box, and its voxel (0, 0, 0)
    for frame, back, n_ticks in zip(frames, mirrored, lengths, strict=True):
        place = (
            _along_drift(geometry, frames[0], frame, steps[0]),
            _rounded((frame.origin_y_mm - frames[0].origin_y_mm) / (frame.pixel_mm * steps[1])),
            _rounded((frame.origin_z_mm - frames[0].origin_z_mm) / (frame.pixel_mm * steps[2])),
        )
        size = [-(-n // step) for n, step in zip((n_ticks, frame.n_y, frame.n_z), steps, strict=True)]
        first = place[0] - max(size[0] - 1, 0) if back else place[0]
        zero.append(place)
        low.append((first, *place[1:]))
        high.append((first + size[0], place[1] + size[1], place[2] + size[2]))
    origin = np.min(low, axis=0)
    nx, ny, nz = (np.max(high, axis=0) - origin).tolist()
    shape = (nx if all(lengths) else 0, ny, nz)
    if max(shape) > LARGEST + 1:
        raise ConfigError(
            f"joined, TPCs {_text(numbers)} of {geometry.detector} reach voxel "
            f"{', '.join(str(max(n - 1, 0)) for n in shape)} in x, y, z, more than {LARGEST}. "
            "Fix: join fewer or nearer ones, or downsample more"
        )
    origins = tuple((x, y, z) for x, y, z in (np.array(zero) - origin).tolist())
    return JoinedFrame(numbers, origins, mirrored, shape)


def joined_geometry(geometry: Geometry, frame: JoinedFrame) -> Geometry:
    """The same geometry, whose joined TPCs know where they lie in the frame."""
    placed = {
        number: geometry.tpcs[number].model_copy(update={"joined_origin": origin})
        for number, origin in zip(frame.tpcs, frame.origins, strict=True)
    }
    return Geometry(geometry.detector, geometry.wires, geometry.tpcs | placed)


def _checked(geometry: Geometry, tpcs: Sequence[int]) -> tuple[int, ...]:
    """The TPCs, ascending, if they can be joined."""
    numbers = tuple(sorted(tpcs))
    if len(set(numbers)) < max(len(numbers), 2):
        raise ConfigError(f"--tpcs {_text(tpcs)}: cannot be joined. Fix: two or more TPCs, each once")
    unknown = [number for number in numbers if number not in geometry.tpcs]
    if unknown:
        raise ConfigError(
            f"--tpcs {_text(tpcs)}: {geometry.detector} has no TPC {unknown[0]}. "
            f"Fix: choose among {_text(sorted(geometry.tpcs))}"
        )
    first = geometry.tpcs[numbers[0]]
    if any(frame.joined_origin is not None for frame in geometry.tpcs.values()):
        raise ConfigError("the TPCs of this store are joined already. Fix: join those of the store it was made from")
    for number in numbers[1:]:
        for name in ALIKE:
            ours, theirs = getattr(first, name), getattr(geometry.tpcs[number], name)
            if ours != theirs:
                raise ConfigError(
                    f"--tpcs {_text(tpcs)}: {name} of TPC {first.number} is {ours}, of TPC {number} {theirs}. "
                    "Fix: join TPCs that are alike"
                )
    return numbers


def _window(geometry: Geometry, frame: TpcGeometry, ticks: int | None, needed: bool) -> int:
    """Ticks of a TPC's read-out, 0 = not known; ConfigError if they must be."""
    length = frame.n_ticks if ticks is None else ticks
    if needed and length < 1:
        raise ConfigError(
            f"{geometry.detector} does not say how many ticks TPC {frame.number} has, and joined TPCs drift to both "
            "sides. Fix: --ticks N"
        )
    return length


def _along_drift(geometry: Geometry, first: TpcGeometry, frame: TpcGeometry, step: int) -> int:
    """Where a TPC's voxel x = 0 lies along the drift of the first one."""
    same = frame.drift_sign == first.drift_sign
    if same and (frame.anode_x_mm, frame.tick_zero_drift) == (first.anode_x_mm, first.tick_zero_drift):
        return 0  # also where the detector tells no drift speed
    known = (first.drift_speed_mm_us, first.tick_us, first.tick_zero_drift, frame.tick_zero_drift)
    speed, tick_us, zero, other_zero = known
    if speed is None or tick_us is None or zero is None or other_zero is None:
        raise ConfigError(
            f"{geometry.detector} has no drift speed, tick or tick of zero drift, which the distance of TPCs "
            f"{first.number} and {frame.number} along the drift needs. Fix: preprocess with a detector that has them"
        )
    apart = first.drift_sign * (frame.anode_x_mm - first.anode_x_mm) / (speed * tick_us)  # ticks
    if same:
        return _rounded((zero + apart - other_zero) / step)
    return _rounded((zero + apart + other_zero) / step - 1.0)  # a voxel's far side becomes its near one


def _rounded(voxels: float) -> int:
    return math.floor(round(voxels, DIGITS) + 0.5)


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
