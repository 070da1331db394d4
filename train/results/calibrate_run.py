"""A charge prediction of a store, calibrated against truth, as a prediction of its own."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import larstore
from larstore.errors import StoreError
from larstore.format import truth_names
from larstore.image import Image
from larstore.locations import local_path
from larstore.selection import Selection, expect_tpcs
from larstore.store import Store
from train.results.calibration import Calibration, FitVoxels
from train.results.charge_scale import charge_scale
from train.results.parts import read_images
from train.results.prediction_kinds import prediction_of
from train.streaming.choosing import expect_images

READ_VOXELS = 4_000_000  # at a time

log = logging.getLogger("larstore.train")

Truth = Literal["collected", "truth"]


@dataclass(frozen=True)
class CalibrateResult:
    """What a call did: images, true voxels, their share and knots of the fit; images written now and before."""

    store: str
    name: str
    truth: str
    fit_images: int
    fit_voxels: int
    fit_share: float
    knots: int
    images: int
    done_before: int


def calibrate(
    store: str | os.PathLike[str],
    prediction: str,
    name: str,
    *,
    fit_store: str | os.PathLike[str] | None = None,
    fit_prediction: str | None = None,
    fit_files: tuple[int, int] | None = None,
    truth: Truth = "collected",
    files: tuple[int, int] | None = None,
    tpcs: Sequence[int] | None = None,
) -> CalibrateResult:
    """Write ``predictions/NAME``: ``prediction``'s charge after `train.results.calibration`, in the store's units.

    Shards that an earlier, interrupted call with the same settings has written are kept.

    Args:
        store, prediction: charges of a network or of the solver.
        name: of the new prediction; one name belongs to one calibration and one choice of images.
        fit_store, fit_prediction, fit_files: images with truth and with the same network's charges, to fit with: of
            this store, this prediction and all its files by default. Best those that the network was not trained on.
        truth: "collected", what attachment lets reach the wires, or "truth", all electrons freed.
        files, tpcs: which images are written, as in `Store.select`.

    Raises:
        StoreError: no such prediction, none of charges, of another network or in other units than the one to fit with,
            a name that is taken, no truth, or an image that it does not cover.
        ConfigError: nothing is selected.
    """
    target = larstore.open(local_path(store))
    source = target if fit_store is None else larstore.open(fit_store)
    fit_prediction = fit_prediction or prediction
    about = prediction_of(target, prediction, "charge")
    _expect_alike(target, source, prediction, fit_prediction)
    _expect_free(target, name, prediction)
    scale = charge_scale(about, f"{target.path}: ")
    expect_tpcs(target, tpcs, "--tpcs")
    chosen, selection = source.select(files=fit_files), target.select(files=files, tpcs=tpcs)
    expect_images(chosen)
    expect_images(selection)
    calibration, n_images, voxels = _fit(chosen, fit_prediction, scale, truth)
    knots = {"estimate": calibration.estimate.tolist(), "charge": calibration.charge.tolist()}
    text = json.dumps({"calibrated": about["checkpoint_sha256"], "truth": truth, **knots}, sort_keys=True)
    attributes = {
        "checkpoint_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "output": "charge",
        "units": source.attributes["units"],
        "calibrated": prediction,
        "calibrated_sha256": about["checkpoint_sha256"],
        "calibration": {"truth": truth, "store": str(source.path), "files": list(fit_files) if fit_files else None,
                        "prediction": fit_prediction, "images": n_images, "voxels": voxels.kept,
                        "share": voxels.share, **knots},
        "versions": {package: version(package) for package in ("larstore", "numpy", "scipy")},
    }  # fmt: skip
    images = _write(selection, prediction, name, attributes, calibration, scale)
    return CalibrateResult(
        str(target.path), name, truth, n_images, voxels.kept, voxels.share, len(calibration.charge),
        images, len(selection) - images,
    )  # fmt: skip


def _expect_alike(target: Store, source: Store, prediction: str, fit_prediction: str) -> None:
    """StoreError if the two predictions' charges are of different networks, or in different units."""
    fitted, about = prediction_of(source, fit_prediction, "charge"), prediction_of(target, prediction, "charge")
    if fitted["checkpoint_sha256"] != about["checkpoint_sha256"]:
        raise StoreError(
            f"{source.path}: prediction {fit_prediction!r} is of another network or solver than {prediction!r} of "
            f"{target.path}. Fix: larstore infer with the same checkpoint on both"
        )
    units = [store.attributes["units"] for store in (source, target)]
    if units[0] != units[1]:
        raise StoreError(
            f"{source.path}: charges are in {units[0]}, those of {target.path} in {units[1]}. "
            "Fix: --fit-store with charges in the same unit"
        )


def _expect_free(store: Store, name: str, prediction: str) -> None:
    """StoreError if ``name`` belongs to something else: told before the fit, which may take long."""
    there = store.predictions.get(name)
    if there is not None and there.get("calibrated") != prediction:
        raise StoreError(
            f"{store.path}: prediction {name!r} is there, and is no calibration of {prediction!r}. "
            "Fix: choose another name"
        )


def _fit(selection: Selection, prediction: str, scale: float, truth: Truth) -> tuple[Calibration, int, FitVoxels]:
    store, n_images, voxels = selection.store, 0, FitVoxels()
    for image in read_images(selection, READ_VOXELS, prediction):
        score = image.score(prediction)
        if np.isnan(score).any():
            continue
        if image.truth is None or (truth == "collected" and "collected" not in _columns(image)):
            raise StoreError(
                f"{store.path}: image {image.key} has no {truth} charge to calibrate with. Fix: --fit-files with truth"
                + (", or --truth truth" if truth == "collected" and image.truth is not None else "")
            )
        charge = image.collected if truth == "collected" else image.truth
        known = charge > 0
        voxels.add(image.key, score[known] / scale, charge[known])
        n_images += 1
    name = f"{store.path}: prediction {prediction!r}"
    if not n_images:
        raise StoreError(f"{name} covers none of the {len(selection)} images to fit with. Fix: larstore infer on them")
    return voxels.fit(name), n_images, voxels


def _calibrated(image: Image, prediction: str, calibration: Calibration, scale: float) -> npt.NDArray[np.float32]:
    score = image.score(prediction)
    if np.isnan(score).any():
        raise StoreError(
            f"{image.store.path}: prediction {prediction!r} has no charges of image {image.key}. "
            "Fix: --files that it has, or larstore infer on the others"
        )
    return np.asarray(calibration(score / scale), np.float32)


def _columns(image: Image) -> tuple[str, ...]:
    return truth_names(image.summary("truth_columns")) if image.store.root.truth_columns else ()


def _write(
    selection: Selection,
    prediction: str,
    name: str,
    attributes: dict[str, Any],
    calibration: Calibration,
    scale: float,
) -> int:
    """How many images were written now."""
    images, path = 0, selection.store.path
    with larstore.PredictionWriter(path, name, attributes) as writer:
        groups = writer.groups(selection)
        try:
            for shard, group in groups:
                writer.write(shard, [(image, _calibrated(image, prediction, calibration, scale)) for image in group])
                writer.commit()
                images += len(group)
        except KeyboardInterrupt:
            log.warning("%s: stopped. What is done is kept, the same command does the rest", path)
            raise
        if not groups:
            writer.commit()
    return images
