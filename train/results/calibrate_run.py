"""A charge prediction of a store, calibrated against truth, as a prediction of its own."""

import hashlib
import json
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
from larstore.store import Store
from train.results.calibration import Calibration, fit_calibration
from train.results.charge_scale import charge_scale
from train.results.parts import read_images
from train.streaming.choosing import expect_images, expect_tpcs

FIT_VOXELS = 20_000_000  # true voxels that are looked at, at most: some 500 MB
READ_VOXELS = 4_000_000  # at a time

Truth = Literal["collected", "truth"]


@dataclass(frozen=True)
class CalibrateResult:
    """What a call did: voxels and knots of the fit, images written now and before."""

    store: str
    name: str
    truth: str
    fit_images: int
    fit_voxels: int
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
    """Write ``predictions/NAME``: ``prediction``'s charge after `train.results.calibration`, in electrons.

    Shards that an earlier, interrupted call with the same settings has written are kept.

    Args:
        store, prediction: charges of a network or of the solver.
        name: of the new prediction; one name belongs to one calibration and one choice of images.
        fit_store, fit_prediction, fit_files: images with truth and with the same network's charges, to fit with: of
            this store, this prediction and all its files by default. Best those that the network was not trained on.
        truth: "collected", what attachment lets reach the wires, or "truth", all electrons freed.
        files, tpcs: which images are written, as in `Store.select`.

    Raises:
        StoreError: no such prediction, none of charges, of another network than the one to fit with, no truth, or an
            image that it does not cover.
    """
    target = larstore.open(local_path(store))
    source = target if fit_store is None else larstore.open(fit_store)
    about = _charges(target, prediction)
    fitted = _charges(source, fit_prediction or prediction)
    if fitted["checkpoint_sha256"] != about["checkpoint_sha256"]:
        raise StoreError(
            f"{source.path}: prediction {fit_prediction or prediction!r} is of another network or solver than "
            f"{prediction!r} of {target.path}. Fix: larstore infer with the same checkpoint on both"
        )
    scale = charge_scale(about)
    chosen = source.select(files=fit_files)
    expect_images(chosen)
    calibration, n_images, n_voxels = _fit(chosen, fit_prediction or prediction, scale, truth)
    knots = {"estimate": calibration.estimate.tolist(), "charge": calibration.charge.tolist()}
    text = json.dumps({"calibrated": about["checkpoint_sha256"], "truth": truth, **knots}, sort_keys=True)
    attributes = {
        "checkpoint_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "output": "charge",
        "units": source.attributes["units"],
        "calibrated": prediction,
        "calibrated_sha256": about["checkpoint_sha256"],
        "calibration": {"truth": truth, "store": str(source.path), "files": list(fit_files) if fit_files else None,
                        "prediction": fit_prediction or prediction, "images": n_images, "voxels": n_voxels, **knots},
        "versions": {package: version(package) for package in ("larstore", "numpy", "scipy")},
    }  # fmt: skip
    expect_tpcs(target, tpcs, "--tpcs")
    images, total = _write(target, prediction, name, attributes, calibration, scale, files, tpcs)
    return CalibrateResult(
        str(target.path), name, truth, n_images, n_voxels, len(calibration.charge), images, total - images
    )


def _charges(store: Store, name: str) -> dict[str, Any]:
    """The attributes of a prediction of charges; StoreError for any other."""
    about: dict[str, Any] | None = store.predictions.get(name)
    charges = sorted(key for key, each in store.predictions.items() if each.get("output") == "charge")
    if about is None or about.get("output") != "charge":
        what = "no prediction" if about is None else "scores, not charges, in prediction"
        raise StoreError(
            f"{store.path}: {what} {name!r}. Fix: one of {', '.join(charges) or 'none yet'}, larstore infer with a "
            "charge network, or larstore solve"
        )
    return about


def _fit(selection: Any, prediction: str, scale: float, truth: Truth) -> tuple[Calibration, int, int]:
    store, n_images, n_voxels = selection.store, 0, 0
    estimates: list[npt.NDArray[Any]] = []
    charges: list[npt.NDArray[Any]] = []
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
        estimates.append(score[known] / scale)
        charges.append(charge[known])
        n_images, n_voxels = n_images + 1, n_voxels + int(known.sum())
        if n_voxels > FIT_VOXELS:
            break
    name = f"{store.path}: prediction {prediction!r}"
    if not n_images:
        raise StoreError(f"{name} covers none of the {len(selection)} images to fit with. Fix: larstore infer on them")
    return fit_calibration(np.concatenate(estimates), np.concatenate(charges), name), n_images, n_voxels


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
    store: Store,
    prediction: str,
    name: str,
    attributes: dict[str, Any],
    calibration: Calibration,
    scale: float,
    files: tuple[int, int] | None,
    tpcs: Sequence[int] | None,
) -> tuple[int, int]:
    """Images written now, and chosen."""
    selection = store.select(files=files, tpcs=tpcs)
    expect_images(selection)
    images = 0
    with larstore.PredictionWriter(store.path, name, attributes) as writer:
        groups = writer.groups(selection)
        for shard, group in groups:
            writer.write(shard, [(image, _calibrated(image, prediction, calibration, scale)) for image in group])
            writer.commit()
            images += len(group)
        if not groups:
            writer.commit()
    return images, len(selection)
