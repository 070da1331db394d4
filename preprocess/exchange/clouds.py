"""Point clouds of other programs' reconstructions, event by event: Bee JSON, the research code's npz, plain arrays."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import InputError
from larstore.geometry import MM_PER_CM, Geometry, TpcGeometry
from preprocess.sources.depos import check_count, check_values
from preprocess.sources.members import is_zip, magic, read_zip, read_zip_bytes, zip_names
from preprocess.sources.names import parse_name
from preprocess.sources.readers.bee import LARGEST_JSON, MEMBER, bee_columns, bee_document, bee_sets

EVENT = re.compile(r"arr_(\d{1,9})")
NUMBERS = ("runNo", "subRunNo", "eventNo")
READ_OUT_PRODUCTS = ("wirecell", "calo")  # beginnings of products whose points are (tick, y pixel, z pixel)
CORNER_PRODUCT = "spacepoint"  # (x, y, z) counted from the low corner of the first TPC's drift volume


@dataclass(frozen=True)
class Cloud:
    """The points of one event.

    Attributes:
        position: (n, 3) float64 x, y, z in cm of the detector's frame.
        charge: (n,) float64 in the file's unit, None where it has none.
        numbers: run, subrun and event as the file tells, None where it does not.
    """

    position: npt.NDArray[np.float64]
    charge: npt.NDArray[np.float64] | None
    numbers: tuple[int, int, int] | None = None


class CloudFile(ABC):
    """A file of point clouds; nothing in it is executed, and pickles are refused.

    Attributes:
        path: the file.
        at_read_out: whether its points lie where a TPC's read-out shows them, and not at their own place.
    """

    at_read_out = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def n_events(self) -> int:
        """Number of events; InputError if the file is damaged."""

    @abstractmethod
    def read(self, event: int) -> Cloud:
        """The event-th cloud; InputError for a damaged file, and for numbers that are not finite."""

    def _cloud(self, event: int, columns: npt.NDArray[Any], numbers: tuple[int, int, int] | None = None) -> Cloud:
        """From (3 or 4, n) x, y, z and charge, checked."""
        check_count(self.path, event, columns.shape[1])
        for name, values in zip("xyzq", columns, strict=False):
            check_values(self.path, event, name, values)
        rows = np.asarray(columns, np.float64)
        return Cloud(np.ascontiguousarray(rows[:3].T), rows[3] if len(rows) > 3 else None, numbers)


def open_cloud(path: Path, geometry: Geometry, chosen: str | None = None) -> CloudFile:
    """The reader that fits a file.

    Args:
        path: Bee's .json or .zip, or an npz file.
        geometry: of the store, which the research code's files need: they hold numbers of voxels.
        chosen: the set to read of a Bee zip that has several.

    Raises:
        InputError: no such file, none of these formats, or no set of that name.
    """
    if path.is_fifo():  # it is read several times
        raise InputError(f"{path}: is a pipe. Fix: write it to a file first.")
    if is_zip(path):
        names = zip_names(path)
        if any(MEMBER.fullmatch(name) for name in names):
            return _BeeZip(path, chosen)
        if chosen is not None:
            raise InputError(f"{path}: has no sets, {chosen!r} was asked for. Fix: leave --set out, or give Bee's zip.")
        return _research_or_arrays(path, names, geometry)
    if magic(path).lstrip()[:1] == b"{":
        if chosen is not None:
            raise InputError(f"{path}: is one set, {chosen!r} was asked for. Fix: leave --set out, or give Bee's zip.")
        return _BeeFile(path)
    raise InputError(f"{path}: holds no point cloud. Fix: give Bee's .json or .zip, or an .npz of numbers.")


class _Bee(CloudFile):
    def _of_document(self, event: int, name: str, data: bytes) -> Cloud:
        document = bee_document(self.path, name, data)
        keys = "xyzq" if "q" in document else "xyz"
        numbers = [str(document.get(key, "")) for key in NUMBERS]
        known = all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers)
        told = (int(numbers[0]), int(numbers[1]), int(numbers[2])) if known else None
        return self._cloud(event, bee_columns(self.path, event, name, document, keys), told)


class _BeeFile(_Bee):
    """A single JSON of Bee: one event."""

    n_events = 1

    def read(self, event: int) -> Cloud:
        """See ``CloudFile.read``."""
        size = self.path.stat().st_size
        if size > LARGEST_JSON:
            raise InputError(f"{self.path}: has {size} bytes, more than {LARGEST_JSON}. Fix: write smaller events.")
        return self._of_document(event, self.path.name, self.path.read_bytes())


class _BeeZip(_Bee):
    """Bee's zip: events in the order of their numbers n."""

    def __init__(self, path: Path, chosen: str | None) -> None:
        super().__init__(path)
        self._sets = bee_sets(path)
        names = sorted(set().union(*self._sets.values()))
        if chosen is None and len(names) == 1:
            chosen = names[0]
        if chosen not in names:
            asked = "which one is not said" if chosen is None else f"{chosen!r} is none of them"
            raise InputError(f"{path}: holds the sets {', '.join(names[:8])}, {asked}. Fix: --set with one of them.")
        self._chosen = chosen
        self._events = [n for n, sets in self._sets.items() if chosen in sets]

    @property
    def n_events(self) -> int:
        """See ``CloudFile``; events without the set are not counted."""
        return len(self._events)

    def read(self, event: int) -> Cloud:
        """See ``CloudFile.read``."""
        name = f"{self._events[event]}-{self._chosen}.json"
        return self._of_document(event, name, read_zip_bytes(self.path, name, LARGEST_JSON))


class _Arrays(CloudFile):
    """npz of points in cm: ``x``, ``y``, ``z`` and perhaps ``q`` (n,) of one event, or ``arr_i`` (n, 3 or more)."""

    def __init__(self, path: Path, names: list[str]) -> None:
        super().__init__(path)
        numbers = sorted(int(match[1]) for match in map(EVENT.fullmatch, names) if match)
        self._columns = [name for name in "xyzq" if name in names] if {"x", "y", "z"} <= set(names) else []
        if not self._columns and (not numbers or numbers != list(range(len(numbers)))):
            raise InputError(
                f"{path}: holds the arrays {', '.join(names[:5]) or '(none)'}. "
                "Fix: write x, y, z and q, or arr_0, arr_1 … without gaps, (n, 4) each."
            )
        self._n_events = 1 if self._columns else len(numbers)

    @property
    def n_events(self) -> int:
        """See ``CloudFile``."""
        return self._n_events

    def read(self, event: int) -> Cloud:
        """See ``CloudFile.read``."""
        return self._cloud(event, self._points(event))

    def _points(self, event: int) -> npt.NDArray[Any]:
        """(3 or 4, n) numbers as they are in the file."""
        if self._columns:
            columns = [read_zip(self.path, name) for name in self._columns]
            if {column.shape for column in columns} != {(columns[0].size,)}:
                shapes = ", ".join(
                    f"{name} {column.shape}" for name, column in zip(self._columns, columns, strict=True)
                )
                raise InputError(f"{self.path}: has {shapes}. Fix: write columns of one length.")
            return np.array(columns, np.float64)
        points = read_zip(self.path, f"arr_{event}")
        if points.size == 0:
            return np.empty((3, 0))
        if points.ndim != 2 or points.shape[1] < 3:
            raise InputError(f"{self.path}: arr_{event} has shape {points.shape}. Fix: write (n, 3) or (n, 4) numbers.")
        return points[:, :4].T


class _Research(_Arrays):
    """The research code's ``<head>_<product>-TPC<n>.npz``: ``arr_i`` (n, 3 or more) numbers of voxels of one tick and
    one pixel, and the charge where there is a fourth column.

    ``wirecell`` and ``calo…`` count them as the TPC's read-out does, ``spacepoint`` from the low corner of its drift
    volume (of the first TPC's, where the name has two: ``TPC12``).
    """

    def __init__(self, path: Path, names: list[str], frame: TpcGeometry, from_corner: bool) -> None:
        super().__init__(path, names)
        self._frame, self._from_corner = frame, from_corner
        self.at_read_out = not from_corner

    def read(self, event: int) -> Cloud:
        """See ``CloudFile.read``."""
        raw = self._cloud(event, self._points(event))
        return Cloud(raw.position @ np.diag(self._step) / MM_PER_CM + self._origin / MM_PER_CM, raw.charge)

    @cached_property
    def _step(self) -> npt.NDArray[np.float64]:
        """(3,) mm from one voxel to the next, along x, y, z of the detector."""
        frame, sign = self._frame, 1 if self._from_corner else self._frame.drift_sign
        if frame.drift_speed_mm_us is None or frame.tick_us is None or frame.tick_zero_drift is None:
            raise InputError(
                f"{self.path}: TPC {frame.number} of the store has no drift speed, tick or tick of zero drift, which "
                "its points need. Fix: preprocess with a detector that has them."
            )
        return np.array([sign * frame.drift_speed_mm_us * frame.tick_us, frame.pixel_mm, frame.pixel_mm])

    @cached_property
    def _origin(self) -> npt.NDArray[np.float64]:
        """(3,) mm: the middle of voxel (0, 0, 0)."""
        frame, step = self._frame, self._step
        if self._from_corner:
            if frame.drift_length_mm is None:
                raise InputError(
                    f"{self.path}: TPC {frame.number} of the store has no drift length. Fix: write points in cm."
                )
            low = min(frame.anode_x_mm, frame.anode_x_mm + frame.drift_sign * frame.drift_length_mm)
        else:
            low = frame.anode_x_mm - step[0] * (frame.tick_zero_drift or 0.0)
        return np.array([low, frame.origin_y_mm, frame.origin_z_mm]) + step / 2


def _research_or_arrays(path: Path, names: list[str], geometry: Geometry) -> CloudFile:
    name = parse_name(path)
    if name is None:
        return _Arrays(path, names)
    from_corner = name.product == CORNER_PRODUCT
    if not from_corner and not name.product.startswith(READ_OUT_PRODUCTS):
        known = ", ".join((CORNER_PRODUCT, *READ_OUT_PRODUCTS))
        raise InputError(f"{path}: {name.product!r} is no point cloud. Fix: one of {known}, or another name for cm.")
    tpc = name.tpc if name.tpc in geometry.tpcs else _first_of_two(name.tpc, geometry) if from_corner else None
    if tpc is None:
        raise InputError(
            f"{path}: {geometry.detector} has no TPC {name.tpc}. "
            f"Fix: name it after one of {', '.join(map(str, sorted(geometry.tpcs)))}."
        )
    return _Research(path, names, geometry.tpcs[tpc], from_corner)


def _first_of_two(number: int, geometry: Geometry) -> int | None:
    """1 of 12, where TPC 12 is none and 1 and 2 are; None where that leads to none, or is ambiguous."""
    text = str(number)
    cuts = [(int(text[:i]), int(text[i:])) for i in range(1, len(text)) if text[i] != "0"]
    found = [first for first, last in cuts if first in geometry.tpcs and last in geometry.tpcs]
    return found[0] if len(found) == 1 else None
