"""One image as a cloud of points to draw: positions in centimetres where the geometry tells them, and values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import StoreError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cloud:
    """The n voxels of an image that are drawn, all others counted.

    Attributes:
        key: (file, event, tpc).
        position: (n, 3) x (drift), y, z in ``unit``.
        unit: "cm", or "voxel" where the geometry does not tell the way back.
        charge: (n, planes) in ``charge_unit``; ``planes`` are their names.
        truth, score: (n,), or None where there is none.
        n_voxels: of the whole image; ``n_true`` of them are true (None without truth).
        up: axis of ``position`` that points up.
        faintest: charge (mean of the planes) below which voxels were left out, None if all are drawn.
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
    faintest: float | None
    up: int = 1

    def __len__(self) -> int:
        return len(self.position)

    @property
    def mean_charge(self) -> Floats:
        """(n,) mean over the planes."""
        return np.asarray(self.charge.mean(axis=1)) if len(self) else np.zeros(0, np.float32)


def make_cloud(image: Any, prediction: str | None, max_points: int) -> Cloud:
    """The ``max_points`` voxels of an image with the largest charge. Raises StoreError for an unknown prediction."""
    store, charge, truth = image.store, image.charge, image.truth
    score = None if prediction is None else image.score(prediction)
    n = len(charge)
    shown = np.arange(n)
    faintest = None
    if n > max_points:
        mean = charge.mean(axis=1)
        shown = np.sort(np.argpartition(mean, n - max_points)[n - max_points :])
        faintest = float(mean[shown].min())
    position, unit = _positions(image)
    return Cloud(
        key=image.key,
        position=position[shown],
        unit=unit,
        charge=charge[shown],
        planes=tuple(store.attributes["planes"]),
        charge_unit=store.attributes["units"],
        truth=None if truth is None else truth[shown],
        score=None if score is None else score[shown],
        n_voxels=n,
        n_true=None if truth is None else int((truth > 0).sum()),
        faintest=faintest,
        up=_up(image),
    )


def _up(image: Any) -> int:
    frame = image.store.geometry.tpcs.get(image.key[2])
    return 1 if frame is None else int(np.argmax(np.abs(frame.up)))


def _positions(image: Any) -> tuple[Floats, str]:
    """Centimetres, or voxel numbers where the TPC's frame lacks drift speed, tick or zero."""
    frame = image.store.geometry.tpcs.get(image.key[2])
    known = frame is not None and None not in (frame.drift_speed_mm_us, frame.tick_us, frame.tick_zero_drift)
    if known:
        return image.position().astype(np.float32), "cm"
    return image.coords.astype(np.float32), "voxel"


def find_image(store: Any, file: int, event: int, tpc: int) -> Any:
    """An image by its key. Raises StoreError with the nearest keys there are."""
    selection = store.select()
    keys = np.stack([selection.column(name) for name in ("file", "event", "tpc")], axis=1).astype(np.int64)
    if len(keys) and (keys == (file, event, tpc)).all(axis=1).any():
        return store.image(file=file, event=event, tpc=tpc)
    distance = np.abs(keys - (file, event, tpc))
    nearest = keys[np.lexsort((distance[:, 1], distance[:, 0], distance[:, 2]))[:3]]
    near = ", ".join(" ".join(map(str, key)) for key in nearest.tolist()) or "none, the store is empty"
    raise StoreError(
        f"{store.path}: no image with file {file} event {event} TPC {tpc}. Fix: take one that there is, e.g. {near} "
        f"('larstore index {store.path}' lists all)"
    )
