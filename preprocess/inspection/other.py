"""Files that are no read-outs: deposits, truth beside a read-out, and HDF5 that no reader knows."""

import shlex
from collections import Counter
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from preprocess.inspection.model import Deposits, Inspection
from preprocess.sources import TRUTH_PRODUCTS, DepoSource, Source
from preprocess.sources.hdf5 import open_hdf5
from preprocess.sources.names import parse_name
from preprocess.sources.registry import Reader

MOST_TRUTH_ROWS = 10
TABLES = {
    "mcpart": "simulated particles (pids by track_ids, momenta, start and end points)",
    "simchnl": "particles behind the simulated channels (pids by track_ids)",
}


def depos(reader: Reader, source: DepoSource, n_events: int) -> Inspection:
    """Points, box, times and charge of the first events, as `larstore simulate --depos` would get them."""
    from preprocess.simulation import SimulationConfig

    result = Inspection(source.path, "depos", reader.what, source.n_events)
    notes: Counter[str] = Counter()
    for event in islice(source.events(SimulationConfig()), n_events):
        notes.update(event.notes)
        points = event.deposits
        low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(5), np.zeros(5))
        result.deposits.append(
            Deposits(
                event.event, len(points), (float(low[0]), float(low[1]), float(low[2])),
                (float(high[0]), float(high[1]), float(high[2])), (float(low[3]), float(high[3])),
                float(points[:, 4].sum()), int((event.pdg != 0).sum()), int((event.track != -1).sum()),
            )
        )  # fmt: skip
    result.n_looked_at = len(result.deposits)
    result.remarks = [f"{text}: {n}" for text, n in notes.items()]
    if not any(each.n_points for each in result.deposits):
        result.warnings.append("no deposits in the events that were looked at")
    path = shlex.quote(str(source.path))
    result.command = f"larstore simulate -o sim --detector DETECTOR --depos {path}"
    return result


def is_truth(source: Source) -> bool:
    """Whether the file's name says that it holds truth points, to lie beside a read-out."""
    name = parse_name(source.path)
    return name is not None and name.product in TRUTH_PRODUCTS


def truth_points(source: Source) -> Inspection:
    """Points and sums of a truth file of the research code's kind."""
    result = Inspection(
        source.path, "unknown", "truth points of a read-out: tick, y pixel, z pixel, value …", source.n_events
    )
    for peek in source.peek():
        result.n_looked_at += 1
        if peek.values is None or peek.values.ndim != 2 or len(peek.values) < 4:
            result.warnings.append(f"event {peek.ident} is not (points, 4 or more columns)")
        elif result.n_looked_at <= MOST_TRUTH_ROWS:
            result.remarks.append(
                f"event {peek.ident}: {peek.values.shape[1]:,} points, sum {peek.values[3].sum():.6g}"
            )
    result.warnings.append("give the read-out that it lies beside: `larstore preprocess` finds it by its name")
    return result


def research_image(path: Path) -> Inspection:
    """An ``xy`` file of the research code: images that were tiled already."""
    result = Inspection(path, "unknown", "images of the 2021 research code (X, Y, starts)")
    result.command = f"larstore import-xy {shlex.quote(str(path))} -o run.zarr --detector protodune-sp-2021"
    return result


def unknown_hdf5(path: Path) -> Inspection:
    """Names and shapes of what is inside: no reader knows it."""
    result = Inspection(path, "unknown", "HDF5 that no reader knows")
    with open_hdf5(path) as file:
        names = list(file)
        own = [name for name in names if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        groups = [name for name in own if isinstance(file[name], h5py.Group)]
        inner = list(file[groups[0]]) if groups else []
        result.remarks.append(
            f"{len(names)} entries at the top: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
        )
        if inner:
            result.remarks.append(f"in {groups[0]}: {', '.join(inner[:12])}")
    result.remarks += [f"{name}: {what}" for name, what in TABLES.items() if name in inner]
    if set(TABLES) & set(inner):
        result.warnings.append(
            "this is truth by track id, without read-outs or deposits: inspect the file of frames beside it"
        )
    return result
