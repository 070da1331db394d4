"""One image as a cloud of points to draw: positions in centimetres where the geometry tells them, and values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import StoreError
from larstore.image import pack
from train.results.charge_scale import charge_scale

Floats = npt.NDArray[np.float32]
MAX_POINTS = 200_000  # that a page still turns fluently


@dataclass(frozen=True)
class Cloud:
    """The n points that are drawn of an image: its voxels, or coarser ones where it has too many.

    Attributes:
        key: (file, event, tpc).
        position: (n, 3) x (drift), y, z of the points' centres in ``unit``.
        unit: "cm", or "voxel" where the geometry does not tell the way back.
        charge: (n, planes) in ``charge_unit``; ``planes`` are their names.
        truth, score: (n,), or None where there is none. ``score`` is what the prediction gives.
        n_voxels: of the whole image; ``n_true`` of them are true (None without truth).
        up: axis of ``position`` that points up.
        side: voxels along each side of a point: 1, or 2, 4 … of coarser ones. Their charges, truth and predicted
            charges are sums, their scores the largest; nothing is left out.
        coords: (n, 3) of the points in the image's voxels, each divided by ``side``.
        collected: (n,) true electrons that reach the wires, None where they are not known.
        predicts_charge: ``score`` is a charge, in ``predicted_unit``: ``charge_unit`` but of imported points.
    """

    key: tuple[int, int, int]
    position: Floats
    unit: str
    charge: Floats
    planes: tuple[str, ...]
    charge_unit: str
    truth: Floats | None
    score: Floats | None
    n_voxels: int
    n_true: int | None
    coords: npt.NDArray[np.int64]
    up: int = 1
    side: int = 1
    collected: Floats | None = None
    predicts_charge: bool = False
    predicted_unit: str = ""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def mean_charge(self) -> Floats:
        """(n,) mean over the planes."""
        return np.asarray(self.charge.mean(axis=1)) if len(self) else np.zeros(0, np.float32)


def make_cloud(image: Any, prediction: str | None, max_points: int = MAX_POINTS) -> Cloud:
    """An image as at most about ``max_points`` points. StoreError for an unknown prediction.

    Of an image with more voxels, 2 × 2 × 2 of them are one point, and so on until these are few enough.
    """
    store = image.store
    values, predicts_charge = predicted(image, prediction)
    collected = image.collected if image.truth is not None else None
    columns: dict[str, Any] = {
        "charge": image.charge,
        "truth": image.truth,
        "collected": None if collected is None or np.isnan(collected).any() else collected,
        "score": values,
    }
    coords, side = image.coords.astype(np.int64), 1
    while len(coords) > max(max_points, 1):
        side *= 2
        coords, columns = _coarser(coords, columns, of_score=np.add if predicts_charge else np.fmax)
    position, unit = positions(image, coords, side)
    truth = image.truth
    return Cloud(
        key=image.key,
        position=position,
        unit=unit,
        planes=tuple(store.attributes["planes"]),
        charge_unit=store.attributes["units"],
        n_voxels=len(image),
        n_true=None if truth is None else int((truth > 0).sum()),
        coords=coords,
        up=_up(image),
        side=side,
        predicts_charge=predicts_charge,
        predicted_unit=store.predictions[prediction].get("units", store.attributes["units"]) if predicts_charge else "",
        **columns,
    )


def predicted(image: Any, prediction: str | None) -> tuple[Floats | None, bool]:
    """What a prediction gives for an image's voxels (n,), and whether it is charges, in electrons or its own ``units``.

    A network gives charges times the ``data.scale`` of its training. StoreError where that is not one number, or for an
    unknown prediction.
    """
    if prediction is None:
        return None, False
    values = image.score(prediction)
    about = image.store.predictions[prediction]
    if about.get("output") != "charge":
        return values, False
    return (values / np.float32(charge_scale(about))).astype(np.float32), True


def not_tiled(image: Any, side: int) -> Floats:
    """(k, 3) centres of the points with true voxels that tiling did not find, in the unit of `positions`."""
    if image.summary("truth_start") < 0:
        return np.empty((0, 3), np.float32)
    coords = image.truth_voxels[0]
    lost = coords[~np.isin(pack(coords), pack(image.coords), assume_unique=True)]
    return positions(image, np.unique(lost.astype(np.int64) // side, axis=0), side)[0]


def _coarser(coords: npt.NDArray[np.int64], columns: dict[str, Any], of_score: Any) -> tuple[Any, dict[str, Any]]:
    """2 × 2 × 2 points as one."""
    keys, number = np.unique(pack((coords // 2).astype(np.uint16)), return_inverse=True)
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], np.arange(len(keys)))
    found = {name: None if each is None else np.add.reduceat(each[order], first) for name, each in columns.items()}
    if columns["score"] is not None:
        found["score"] = of_score.reduceat(columns["score"][order], first)
    return coords[order[first]] // 2, found


def _up(image: Any) -> int:
    frame = image.store.geometry.tpcs.get(image.key[2])
    return 1 if frame is None else int(np.argmax(np.abs(frame.up)))


def positions(image: Any, coords: npt.NDArray[np.int64], side: int) -> tuple[Floats, str]:
    """(n, 3) centres of points (voxels divided by ``side``) in cm, or in voxels where the frame lacks drift or tick."""
    frame = image.store.geometry.tpcs.get(image.key[2])
    known = frame is not None and None not in (frame.drift_speed_mm_us, frame.tick_us, frame.tick_zero_drift)
    centres = coords * side + (side - 1) / 2
    if known:
        return image.position_of(centres).astype(np.float32), "cm"
    return centres.astype(np.float32), "voxel"


def find_image(store: Any, file: int, event: int, tpc: int) -> Any:
    """An image by its key. Raises StoreError with the nearest keys there are."""
    if store.index_columns.find(file, event, tpc) is not None:
        return store.image(file=file, event=event, tpc=tpc)
    selection = store.select()
    keys = np.stack([selection.column(name) for name in ("file", "event", "tpc")], axis=1).astype(np.int64)
    distance = np.abs(keys - (file, event, tpc))
    nearest = keys[np.lexsort((distance[:, 1], distance[:, 0], distance[:, 2]))[:3]]
    near = ", ".join(" ".join(map(str, key)) for key in nearest.tolist()) or "none, the store is empty"
    raise StoreError(
        f"{store.path}: no image with file {file} event {event} TPC {tpc}. Fix: take one that there is, e.g. {near} "
        f"('larstore index {store.path}' lists all)"
    )
