"""The research code's `xy` and `yinf` files: names, the order of their charge columns, units, and reading them."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, InputError
from larstore.geometry import Geometry
from preprocess.exchange.objects import Array, is_object_npy, read_objects
from preprocess.sources.members import BROKEN
from preprocess.sources.names import parse_name
from preprocess.sources.npy import parse_npy

ELECTRONS_PER_UNIT = 1000.0  # its charges are electrons × 0.001
LARGEST_BYTES = 1 << 30  # of one member; 100 dense events are a third of it
BATCH = re.compile(r"batch(\d{1,6})-(.+)")
Truth = npt.NDArray[np.float64]


@dataclass(frozen=True)
class XyName:
    """``batch<batch>-<head>_<product>-TPC<tpc>.npz``."""

    batch: int
    head: str
    tpc: int

    def file(self, product: str) -> str:
        """The file name of a product."""
        return f"batch{self.batch}-{self.head}_{product}-TPC{self.tpc}.npz"


def parse_xy_name(path: Path) -> tuple[XyName, str]:
    """Batch, head and TPC of a file name, and its product; InputError for another name."""
    name = parse_name(path)
    match = None if name is None else BATCH.fullmatch(name.head)
    if name is None or match is None or name.product not in ("xy", "yinf"):
        raise InputError(
            f"{path}: is not named as the research code does. "
            "Fix: name it batch<n>-<anything>_<file number>_xy-TPC<n>.npz (or _yinf-)."
        )
    return XyName(int(match[1]), match[2], name.tpc), name.product


def angle_order(geometry: Geometry, tpc: int) -> list[int]:
    """Its charge columns as our plane numbers: planes of the TPC by increasing wire angle.

    The angle is that of the pitch direction (cos a, sin a) in (z, y), in (-90°, 90°]; so U, X, V on odd ProtoDUNE-SP
    TPCs and V, X, U on even ones. ConfigError for a TPC that the geometry lacks.
    """
    wires = geometry.wires
    here = np.asarray(wires["tpc"]) == tpc
    if tpc not in geometry.tpcs or not here.any():
        known = ", ".join(str(n) for n in sorted(geometry.tpcs))
        raise ConfigError(f"TPC {tpc} is not one of {geometry.detector}'s: {known}. Fix: choose its detector")
    angles = []
    for plane in range(len(geometry.tpcs[tpc].planes)):
        row = np.flatnonzero(here & (np.asarray(wires["plane"]) == plane))[0]
        _, dy, dz = (np.asarray(wires["head"])[row] - np.asarray(wires["tail"])[row]).tolist()
        angle = float(np.degrees(np.arctan2(-dz, dy)))
        angles.append(90.0 - (90.0 - angle) % 180.0)
    return [int(i) for i in np.argsort(angles, kind="stable")]


def charge_order(geometry: Geometry, tpc: int) -> list[int]:
    """``angle_order`` of an image's planes; ConfigError where TPCs of different orders were joined to one."""
    orders = {n: angle_order(geometry, n) for n in geometry.joined or [tpc]}
    first, *others = orders
    for other in others:
        if orders[other] != orders[first]:
            raise ConfigError(
                f"the planes of TPCs {first} and {other} of {geometry.detector} have different orders by angle, so xy "
                "files cannot hold them joined. Fix: join those of one side"
            )
    return orders[first]


@dataclass
class XyEvent:
    """One event of an `xy` file, its voxels sorted by (x, y, z); values as they are in the file.

    Attributes:
        order: (n,) rows of the file in the order of ``coords``; `yinf` files have the file's order.
        coords: (n, 3) uint16.
        charge: (n, planes) float32, planes by increasing wire angle, electrons × 0.001.
        truth: (n,) float32 at these voxels, or None where the file has none.
        truth_coords, truth_value: (m, 3) uint16 and (m,) float32: all truth voxels, or None.
    """

    order: npt.NDArray[np.int64]
    coords: npt.NDArray[np.uint16]
    charge: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float32] | None
    truth_coords: npt.NDArray[np.uint16] | None
    truth_value: npt.NDArray[np.float32] | None


def read_xy(path: Path, n_planes: int) -> list[XyEvent]:
    """All events of an `xy` file. InputError for a damaged file, or one that is none; nothing in it is executed."""
    data = _read_members(path)
    for name in ("X", "starts"):
        if name not in data:
            raise InputError(f"{path}: has no array {name}. Fix: give xy files of the research code.")
    rows = _numeric(path, "X", data["X"], (-1, 4 + n_planes))
    starts = _starts(path, data["starts"], rows)
    values = _numeric(path, "Y", data["Y"], (len(rows), 1)) if "Y" in data else None
    truths = _truths(path, data["Y_truth"], len(starts)) if "Y_truth" in data and values is not None else None
    events = []
    for event, (low, high) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        where = f"{path}: event {event}"
        order, coords = _sorted_coords(f"{where} of X", rows[low:high, :3])
        truth_coords = truth_value = None
        if truths is not None:
            truth_order, truth_coords = _sorted_coords(f"{where} of Y_truth", truths[event][:, :3])
            truth_value = truths[event][truth_order, 3].astype(np.float32)
        events.append(
            XyEvent(
                order=order + low,
                coords=coords,
                charge=rows[low:high, 4:][order].astype(np.float32),
                truth=None if values is None else values[low:high, 0][order].astype(np.float32),
                truth_coords=truth_coords,
                truth_value=truth_value,
            )
        )
    return events


def read_yinf(path: Path, n_rows: int) -> npt.NDArray[np.float32]:
    """(n,) float32 scores, one for each row of the `xy` file: of the one array of that length in the file."""
    arrays = _read_members(path)
    numeric = {name: a for name, a in arrays.items() if isinstance(a, np.ndarray)}
    fitting = [name for name, a in numeric.items() if a.shape in ((n_rows,), (n_rows, 1))]
    if len(fitting) != 1:
        shapes = ", ".join(f"{name} {getattr(a, 'shape', 'objects')}" for name, a in arrays.items())
        raise InputError(
            f"{path}: holds {shapes[:200] or 'nothing'}, not one array of its xy file's {n_rows} rows. "
            "Fix: give the yinf file that belongs to it."
        )
    scores = _numeric(path, fitting[0], numeric[fitting[0]], numeric[fitting[0]].shape)
    return scores.reshape(-1).astype(np.float32)


def _read_members(path: Path) -> dict[str, Array | list[Array]]:
    """The file's arrays by name, object arrays as lists of arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, Array | list[Array]] = {}
            for info in archive.infolist():
                where = f"{path}: {info.filename}"
                if info.file_size > LARGEST_BYTES:
                    raise InputError(f"{where}: {info.file_size} bytes are too many. Fix: split it into batches.")
                data = archive.read(info)
                name = info.filename.removesuffix(".npy")
                found[name] = read_objects(data, where) if is_object_npy(data) else parse_npy(data, where)
            return found
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Fix: check the path.") from error
    except BROKEN as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: truncated or damaged ({reason}). Fix: copy or write the file again.") from error


def _numeric(path: Path, name: str, values: Array | list[Array], shape: tuple[int, ...]) -> Array:
    """A finite array of numbers of that shape; -1 stands for any length."""
    found = values.shape if isinstance(values, np.ndarray) else ("objects",)
    fits = len(found) == len(shape) and all(s in (-1, f) for f, s in zip(found, shape, strict=True))
    if not isinstance(values, np.ndarray) or not fits:
        raise InputError(f"{path}: {name} has shape {found}, expected {shape}. Fix: give xy files of this detector.")
    # Beyond float32 would become infinite: refused like what is infinite already.
    good = np.abs(values.astype(np.float64)) <= np.finfo(np.float32).max / ELECTRONS_PER_UNIT
    if not good.all():
        place = tuple(int(i) for i in np.argwhere(~good)[0])
        raise InputError(f"{path}: {name}{list(place)} is {values[place]}. Fix: write finite numbers.")
    return values


def _starts(path: Path, values: Array | list[Array], rows: Array) -> list[int]:
    """First row of each event, checked against the rows' event column."""
    starts = _numeric(path, "starts", values, (-1,))
    ends = np.append(starts[1:], len(rows))
    right = starts.dtype.kind in "iu" and (len(rows) == 0 if len(starts) == 0 else starts[0] == 0)
    if not right or (ends < starts).any():
        raise InputError(f"{path}: starts do not ascend from 0 to {len(rows)} rows. Fix: write the file again.")
    if not np.array_equal(rows[:, 3], np.repeat(np.arange(len(starts)), ends - starts)):
        raise InputError(f"{path}: the event column of X differs from starts. Fix: write the file again.")
    return [int(start) for start in starts]


def _truths(path: Path, values: Array | list[Array], n_events: int) -> list[Array]:
    """Each event's truth (m, 4 or more); NumPy makes one (events, m, 4) array where all m are equal."""
    truths = list(values)
    if len(truths) != n_events:
        raise InputError(f"{path}: Y_truth has {len(truths)} events, X has {n_events}. Fix: write the file again.")
    for event, truth in enumerate(truths):
        if truth.ndim != 2 or truth.shape[1] < 4:
            raise InputError(f"{path}: Y_truth of event {event} has shape {truth.shape}. Fix: write (m, 4).")
    return [_numeric(path, f"Y_truth of event {event}", truth, truth.shape) for event, truth in enumerate(truths)]


def _sorted_coords(where: str, values: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """The order that sorts rows by (x, y, z), and the coordinates so."""
    whole = (values >= 0) & (values < 65535) & (values == np.floor(values))
    if not whole.all():
        row = int(np.argwhere(~whole)[0, 0])
        raise InputError(f"{where}: row {row} has the voxel {values[row].tolist()}. Fix: whole numbers below 65535.")
    order = np.lexsort(values[:, ::-1].T)
    coords = values[order].astype(np.uint16)
    double = np.flatnonzero((coords[1:] == coords[:-1]).all(axis=1))
    if len(double):
        raise InputError(f"{where}: holds voxel {coords[double[0]].tolist()} twice. Fix: write the file again.")
    return order, coords
