"""The keys of a detector YAML, checked."""

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from larstore.errors import ConfigError
from larstore.settings import check, read_yaml

Range = tuple[float, float]
Vector = tuple[float, float, float]
BUILT_IN = Path(__file__).parent
YAML_SUFFIXES = (".yaml", ".yml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlaneSpec(_Strict):
    """A plane of equally spaced straight wires.

    Attributes:
        x_mm: distance of the plane from the anode's centre along x.
        angle_deg: angle a of the wires' normal (cos a, sin a) in (z, y); 0 = vertical wires.
        pitch_mm, offset_mm: pitch, and pitch coordinate of wire 0's centre line for an anode at z = 0.
        wires: their number.
        channels: pieces [first wire, its channel, step]; a piece lasts until the next one's first wire.
        y_mm, z_mm: the rectangle that the wires are strung in.
    """

    x_mm: float
    angle_deg: float
    pitch_mm: float = Field(gt=0)
    offset_mm: float
    wires: int = Field(gt=0)
    channels: tuple[tuple[int, int, int], ...] = Field(min_length=1)
    y_mm: Range
    z_mm: Range


class FaceSpec(_Strict):
    """A face of every anode: its planes in drift order and the rectangle (y, z) of its pixel grid."""

    ident: int
    planes: tuple[PlaneSpec, ...] = Field(min_length=1)
    y_mm: Range
    z_mm: Range


class AnodeSpec(_Strict):
    """Where an anode stands: x of its centre and its shift along z."""

    x_mm: float
    z_mm: float


class Lattice(_Strict):
    """Equal anodes at several places; anode n's channels start at n times ``channels_per_anode``."""

    channels_per_anode: int = Field(gt=0)
    anodes: tuple[AnodeSpec, ...] = Field(min_length=1)
    faces: tuple[FaceSpec, ...] = Field(min_length=1)


class DetectorConfig(_Strict):
    """A detector = wires (a Wire-Cell wires file, or a lattice of equal anodes) and what a wires file does not tell.

    Attributes:
        name: kept in the store.
        wires: path of a Wire-Cell wires file: absolute, beside the YAML, or a name that is looked up in the folders
            of LARSTORE_WIRES_PATH and WIRECELL_PATH; environment variables are expanded.
        lattice: instead of ``wires``.
        drift_speed_mm_us, tick_us: drift speed and length of a tick.
        t0_us: time of tick 0.
        n_ticks: length of the read-out, 0 = not known.
        cathode_x_mm: surfaces of the cathodes; a face drifts from the nearest one in front of it, and is not live if
            there is none.
        up: vector against gravity, of any length.
        pixel_mm: edge of a pixel.
        tpcs: offline TPC number -> [anode, face]; faces that are not listed are left out. Default: all faces,
            2 · anode + 1 − face, as LArSoft numbers those of ProtoDUNE-SP and -HD.
    """

    name: str = Field(min_length=1)
    wires: str | None = None
    lattice: Lattice | None = None
    drift_speed_mm_us: float | None = Field(default=None, gt=0)
    tick_us: float | None = Field(default=None, gt=0)
    t0_us: float | None = None
    n_ticks: int = Field(default=0, ge=0)
    cathode_x_mm: tuple[float, ...] = ()
    up: Vector = (0.0, 1.0, 0.0)
    pixel_mm: float = Field(default=2.0, gt=0)
    tpcs: dict[int, tuple[int, int]] | None = None

    @field_validator("up")
    @classmethod
    def _has_a_direction(cls, value: Vector) -> Vector:
        length = math.hypot(*value)
        if length == 0:
            raise ValueError("give the direction against gravity, as in [0, 1, 0]")
        return value[0] / length, value[1] / length, value[2] / length

    @model_validator(mode="after")
    def _one_kind_of_wires(self) -> "DetectorConfig":
        if (self.wires is None) == (self.lattice is None):
            raise ValueError("give either `wires` or `lattice`")
        return self


def read_config(path: Path) -> DetectorConfig:
    """A detector YAML; ConfigError that names the file, the key and the value.

    ``extends: NAME`` (a built-in detector, or the path of a YAML beside this one) starts from that one's keys.
    """
    return check(DetectorConfig, _keys(path, ()), str(path))


def _keys(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    values = read_yaml(path, "configs/detectors/example.yaml")
    base = values.pop("extends", None)
    if base is None:
        return values
    below = BUILT_IN / f"{base}.yaml"
    if not below.is_file():
        below = path.parent / str(base)
    if below.suffix not in YAML_SUFFIXES or not below.is_file():
        raise ConfigError(
            f"{path}: extends: {base!r} is neither a built-in detector nor a YAML beside it. "
            "Fix: `larstore detector` lists the names."
        )
    if below.resolve() in seen:
        raise ConfigError(f"{path}: extends: {base!r} extends this one again. Fix: leave one of them out.")
    keys = _keys(below, (*seen, path.resolve()))
    for kind, other in (("wires", "lattice"), ("lattice", "wires")):
        if kind in values:
            keys.pop(other, None)
    return keys | values
