"""A store as a zip of JSON files for Bee, the web event display of Wire-Cell."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from larstore.archive import write_zip
from larstore.errors import StoreError
from larstore.image import Image
from larstore.selection import Selection
from preprocess.exchange.events import ExportedEvent, by_event

# Detector name's beginning -> Bee's name of the geometry that it draws.
GEOMETRIES = {
    "protodune-sp": "protodune",
    "protodune-hd": "protodunehd",
    "protodune-vd": "protodunevd",
    "microboone": "uboone",
    "dune10kt": "dune10kt_workspace",
}
Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # x, y, z [cm] and charge [electrons]


def export_bee(selection: Selection, path: Path, prediction: str | None = None, cut: float = 0.5) -> Path:
    """Write ``data/<n>/<n>-<set>.json`` for each event, all its TPCs together; returns the path.

    Sets: ``tiled`` (all voxels), ``truth`` (all truth voxels, where known), and the prediction's name (voxels with a
    score above ``cut``). q is the mean of the planes' charges, not below 0; for ``truth`` its value.

    Raises:
        StoreError: no images, an unknown prediction, or a geometry that does not tell positions.
        ConfigError: the file exists.
    """
    if not len(selection):
        raise StoreError(f"{selection.store.path}: no images to export. Fix: choose others with --files, --events")
    if prediction in ("tiled", "truth"):
        raise StoreError(f"prediction {prediction!r}: is the name of another set here. Fix: infer under another name")
    write_zip(path, _members(selection, prediction, cut))
    return path


def _members(selection: Selection, prediction: str | None, cut: float) -> Iterator[tuple[str, bytes]]:
    detector = str(selection.store.attributes["detector"])
    geometry = next((bee for start, bee in GEOMETRIES.items() if detector.startswith(start)), detector)
    for number, event in enumerate(by_event(selection)):
        sets: dict[str, list[Points]] = {}
        for image in event.images:
            for name, points in _sets(image, prediction, cut):
                sets.setdefault(name, []).append(points)
        for name, parts in sets.items():
            yield f"data/{number}/{number}-{name}.json", _document(event, geometry, name, parts)


def _sets(image: Image, prediction: str | None, cut: float) -> Iterator[tuple[str, Points]]:
    position = image.position()
    charge = np.maximum(image.charge.mean(axis=1, dtype=np.float64), 0.0)
    yield "tiled", (position, charge)
    if image.truth_voxels is not None:
        coords, value = image.truth_voxels
        yield "truth", (image.position_of(coords), value.astype(np.float64))
    if prediction is not None:
        keep = image.score(prediction) > cut  # not predicted is NaN, and not kept
        yield prediction, (position[keep], charge[keep])


def _document(event: ExportedEvent, geometry: str, name: str, parts: list[Points]) -> bytes:
    position = np.concatenate([part[0] for part in parts]).round(2)
    charge = np.concatenate([part[1] for part in parts]).round()
    run, subrun, number = event.numbers
    columns = {axis: position[:, i].tolist() for i, axis in enumerate("xyz")}
    document = {
        "runNo": str(run),
        "subRunNo": str(subrun),
        "eventNo": str(number),
        "geom": geometry,
        "type": name,
        **columns,
        "q": charge.astype(np.int64).tolist(),
        "nq": [1] * len(charge),
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
