"""Predictions of joined images, from those of their TPCs."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import StoreError
from larstore.image import Image
from larstore.predictions import OWN_ATTRIBUTES
from preprocess.joining.images import joined_voxels
from preprocess.joining.output import Plan
from preprocess.joining.task import loaded

Rows = npt.NDArray[np.int64]


def join_predictions(plan: Plan, target: Path, name: str, break_lock: bool = False) -> tuple[int, int]:
    """Write a prediction of the source for the joined images of a plan; those that have it already are kept.

    A voxel that several TPCs have gets the largest of their scores, or the sum of their charges; one that bridges a
    gap what lies between those of the voxels at both edges. The prediction has the source's attributes.

    Returns:
        Images that it was written for now, and images that lack it because one of their TPCs does.

    Raises:
        StoreError: the target has such a prediction of another checkpoint, or its images are not of this plan.
    """
    about = plan.store.predictions[name]
    attributes = {key: value for key, value in about.items() if key not in OWN_ATTRIBUTES}
    output = larstore.open(target)
    sources = dict(zip(plan.events.keys.tolist(), plan.events.rows, strict=True))
    part = output.select()
    keys = part.column("file").astype(np.int64) << 32 | part.column("event").astype(np.int64)
    planned = np.flatnonzero(np.isin(keys, plan.events.keys))
    complete = [i for i in planned.tolist() if _is_predicted(plan.store, sources[int(keys[i])], name)]
    written = 0
    with larstore.PredictionWriter(target, name, attributes, break_lock=break_lock) as writer:
        for shard, images in writer.groups(part.take(np.array(complete, np.int64))):
            scored = []
            for image in images:
                rows = sources[image.key[0] << 32 | image.key[1]]
                scored.append((image, _scores(plan, image, rows, name, about.get("output") == "charge")))
            writer.write(shard, scored)
            writer.commit()
            written += len(images)
        if not written:
            writer.commit()
    return written, len(planned) - len(complete)


def _is_predicted(store: larstore.Store, rows: Rows, name: str) -> bool:
    return not any(np.isnan(Image(store, int(row)).score(name)).any() for row in rows[rows >= 0])


def _scores(plan: Plan, image: Image, rows: Rows, name: str, is_charge: bool) -> npt.NDArray[np.float32]:
    """(n,) of a joined image, from its images in the source (rows (tpcs,) of the index)."""
    prediction = name if plan.bridge is None else plan.bridge.prediction
    (images,) = loaded(plan.store, rows[None], prediction)
    voxels, between = joined_voxels(images, plan.frame, plan.bridge)
    if not np.array_equal(voxels.coords, image.coords):
        raise StoreError(
            f"{image.store.path}: image {image.key} has other voxels than its TPCs in {plan.store.path}, which were "
            "made again since. Fix: join into another store"
        )
    parts = [each.score(name) for each in images]
    if between is not None:
        parts.append(between.values(parts))
    return voxels.sums(parts) if is_charge else voxels.largest(parts)
