"""A store as one HDF5 file in the manner of NuML: flat tables whose rows are tied to events by ``event_id``.

    /event_table      event_id (e, 3) run, subrun, event; file, event (e, 1): the keys in the store
    /voxel_table      event_id, tpc (n, 1), voxel (n, 3) x, y, z; position (n, 3) cm where the geometry tells it;
                      charge (n, planes) electrons, live (n, 1), truth (n, 1), collected (n, 1), score (n, 1)
    /truth_table      event_id, tpc, voxel, position, value (m, 1), and collected, pdg, track (m, 1)
    /<table>/event_id.seq_cnt   (k, 2) row of event_table, number of rows: of the events that have any

Truth, collected and score are NaN where they are not known, pdg and track -2^31. ``score`` is there with a prediction.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from larstore.archive import new_file
from larstore.errors import StoreError
from larstore.format import TRUTH_COLUMNS, UNKNOWN_NUMBER
from larstore.image import Image
from larstore.selection import Selection
from preprocess.exchange.events import by_event

Table = dict[str, npt.NDArray[Any]]
ROWS = 16_384  # of a chunk


def export_numl(selection: Selection, path: Path, prediction: str | None = None) -> Path:
    """Write the images of a selection; returns the path. One image is in memory at a time.

    Raises StoreError for an empty selection or an unknown prediction, ConfigError if the file exists.
    """
    store = selection.store
    if not len(selection):
        raise StoreError(f"{store.path}: no images to export. Fix: choose others with --files, --events, --tpcs")
    counts: dict[str, list[tuple[int, int]]] = {"voxel_table": [], "truth_table": []}
    with new_file(path) as part, h5py.File(part, "w") as file:
        for name in ("detector", "units", "voxel_mm", "downsample", "planes"):
            file.attrs[name] = store.attributes[name] if name != "voxel_mm" else str(store.attributes[name])
        for number, event in enumerate(by_event(selection)):
            numbers = np.array(event.numbers, np.int64)
            keys: Table = {"file": np.array([[event.file]]), "event": np.array([[event.event]])}
            _append(file, "event_table", {"event_id": numbers[None, :], **keys})
            rows = dict.fromkeys(counts, 0)
            for image in event.images:
                for table, columns in _tables(image, prediction):
                    n = len(columns["voxel"])
                    columns["event_id"] = np.tile(numbers, (n, 1))
                    columns["tpc"] = np.full((n, 1), image.key[2], np.int32)
                    _append(file, table, columns)
                    rows[table] += n
            for table, n in rows.items():
                counts[table] += [(number, n)] if n else []
        for table, pairs in counts.items():
            if table in file:
                file[table].create_dataset("event_id.seq_cnt", data=np.array(pairs, np.int64).reshape(-1, 2))
    return path


def _tables(image: Image, prediction: str | None) -> Iterator[tuple[str, Table]]:
    """The rows of one image for each table."""
    n = len(image)
    truth = np.full(n, np.nan, np.float32) if image.truth is None else image.truth
    columns: Table = {
        "voxel": image.coords.astype(np.int32),
        **_position(image, image.coords),
        "charge": image.charge,
        "live": image.live[:, None],
        "truth": truth[:, None],
        "collected": image.collected[:, None],
    }
    if prediction is not None:
        columns["score"] = image.score(prediction)[:, None]
    yield "voxel_table", columns
    if image.truth_voxels is not None:
        coords, value = image.truth_voxels
        known = image.truth_columns
        more = {
            name: known.get(name, np.full(len(coords), np.nan if spec.fill == "NaN" else UNKNOWN_NUMBER, spec.dtype))
            for name, spec in TRUTH_COLUMNS.items()
        }
        columns = {"voxel": coords.astype(np.int32), **_position(image, coords), "value": value[:, None]}
        yield "truth_table", columns | {name: values[:, None] for name, values in more.items()}


def _position(image: Image, coords: npt.NDArray[np.uint16]) -> Table:
    """Centres in cm; none where the geometry lacks the drift speed, the tick or its zero."""
    frame = image.store.geometry.tpcs[image.key[2]]
    if None in (frame.drift_speed_mm_us, frame.tick_us, frame.tick_zero_drift):
        return {}
    return {"position": image.position_of(coords).astype(np.float32)}


def _append(file: Any, table: str, columns: Table) -> None:
    """Lengthen a table's datasets, made at the first call."""
    for name, values in columns.items():
        path = f"{table}/{name}"
        if path not in file:
            file.create_dataset(
                path,
                shape=(0, values.shape[1]),
                maxshape=(None, values.shape[1]),
                chunks=(ROWS, values.shape[1]),
                dtype=values.dtype,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
        dataset = file[path]
        start = len(dataset)
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values
