"""Reader of Wire-Cell wires files (JSON, also .bz2 and .gz) into plain tables of wires."""

import bz2
import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError


@dataclass(frozen=True)
class PlaneWires:
    """The wires of one plane in any order: channel, segment (wire,), tail and head (wire, 3) in mm.

    Where they come from parameters, ``normal`` (y, z), ``pitch_mm`` and ``offset_mm`` (wire,) are known to the last
    digit (see detector.model.Plane; offsets relative to the anode's shift); else None: computed from the end points.
    """

    ident: int
    channel: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32]
    tail: npt.NDArray[np.float64]
    head: npt.NDArray[np.float64]
    normal: tuple[float, float] | None = None
    pitch_mm: float | None = None
    offset_mm: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class FaceWires:
    """The planes of one face of an anode, by ascending ident = in drift order.

    ``box_mm`` = ((y low, y high), (z low, z high)) of the pixel grid, None = what the last plane's wires span.
    ``shift_z_mm`` is where the anode stands, as far as its planes' offsets are relative to that.
    """

    anode: int
    face: int
    planes: tuple[PlaneWires, ...]
    box_mm: tuple[tuple[float, float], tuple[float, float]] | None = None
    shift_z_mm: float = 0.0


def read_wires(path: Path) -> list[FaceWires]:
    """All faces of a wires file; InputError with one line if it is missing, cut short or has another layout."""
    store = _load(path)
    try:
        return _faces(store)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{path}: is not a Wire-Cell wires file (Store with anodes, faces, planes, wires, points): {error!r}. "
            "Fix: give a wires JSON as in wire-cell-data."
        ) from error


def _load(path: Path) -> dict[str, Any]:
    opener: Any = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            document = json.loads(file.read())
        return dict(document["Store"])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such wires file. Fix: check the path.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Fix: copy or download the file again.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: is not a Wire-Cell wires JSON ({type(error).__name__}: {error}). Fix: copy or download it."
        ) from error


def _faces(store: dict[str, Any]) -> list[FaceWires]:
    points = np.array([[p["Point"]["x"], p["Point"]["y"], p["Point"]["z"]] for p in store["points"]], np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError("points must be finite x, y, z")
    # Columns: channel, segment, tail, head.
    wires = np.array(
        [[w["Wire"][key] for key in ("channel", "segment", "tail", "head")] for w in store["wires"]], np.int64
    )
    if wires[:, :2].max() >= 2**31 or wires.min() < 0:
        raise ValueError("a wire has a negative or too large number")
    faces = []
    for entry in store["anodes"]:
        anode = entry["Anode"]
        for number in anode["faces"]:
            face = store["faces"][number]["Face"]
            planes = []
            for index in face["planes"]:
                plane = store["planes"][index]["Plane"]
                rows = wires[np.asarray(plane["wires"], np.int64)]
                planes.append(
                    PlaneWires(
                        ident=int(plane["ident"]),
                        channel=rows[:, 0].astype(np.int32),
                        segment=rows[:, 1].astype(np.int32),
                        tail=points[rows[:, 2]],
                        head=points[rows[:, 3]],
                    )
                )
            # A face without wires is the wall side of a one-sided anode.
            if any(len(plane.channel) for plane in planes):
                planes.sort(key=lambda plane: plane.ident)
                faces.append(FaceWires(int(anode["ident"]), int(face["ident"]), tuple(planes)))
    if not faces:
        raise ValueError("no face has wires")
    return faces
