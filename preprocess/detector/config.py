"""The keys of a detector YAML, checked."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from larstore.errors import ConfigError

Range = tuple[float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
        cathode_x_mm: positions of the cathodes; a face drifts from the nearest one in front of it.
        pixel_mm: edge of a pixel.
        tpcs: offline TPC number -> [anode, face]; faces that are not listed are left out.
            Default: 2 · anode + 1 − face, all faces.
    """

    name: str = Field(min_length=1)
    wires: str | None = None
    lattice: Lattice | None = None
    drift_speed_mm_us: float | None = Field(default=None, gt=0)
    tick_us: float | None = Field(default=None, gt=0)
    t0_us: float | None = None
    n_ticks: int = Field(default=0, ge=0)
    cathode_x_mm: tuple[float, ...] = ()
    pixel_mm: float = Field(default=2.0, gt=0)
    tpcs: dict[int, tuple[int, int]] | None = None

    @model_validator(mode="after")
    def _one_kind_of_wires(self) -> "DetectorConfig":
        if (self.wires is None) == (self.lattice is None):
            raise ValueError("give either `wires` or `lattice`")
        return self


def read_config(path: Path) -> DetectorConfig:
    """A detector YAML; ConfigError that names the file, the key and the value."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such detector YAML. Fix: check the path.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML ({reason}). Fix: mend the file.") from error
    try:
        return DetectorConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the document"
        valid = ", ".join(DetectorConfig.model_fields)
        raise ConfigError(
            f"{path}: {key}: {first['msg']} (got {first['input']!r:.80}). Fix: the keys of a detector are {valid}."
        ) from error
