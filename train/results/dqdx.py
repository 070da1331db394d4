"""dQ/dx along the muon tracks of a store, or of a part of it, in memory that does not grow with the images.

The segments themselves (`train.results.dqdx_segments`) go to whoever asks for them, image by image; what remains of
them is in bins (`train.results.dqdx_tally`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import ConfigError, StoreError
from train.results.dqdx_segments import METHODS, Muons, Settings
from train.results.dqdx_tally import RateTally
from train.results.landau import LandauFit

LENGTHS_CM = (1e-3, 1e6)
SCALES = (1e-15, 1e15)
MOST_SAMPLES = 1000  # 0.3 MB each
SHORTEST_MS = 0.01  # a lifetime: with shorter ones factors leave what numbers can hold


@dataclass(frozen=True)
class Tables:
    """Results, in electrons/cm.

    Attributes:
        fits: one row a method, with the figures of its distribution and of the fit.
        residual: one row a bin of residual range, with the medians of stopping muons.
        curves: the fits, by method.
        histograms: method -> (bins,) segments in the bins of `train.results.rate_bins`.
        counts: of images, tracks, pieces and segments.
    """

    fits: pd.DataFrame
    residual: pd.DataFrame
    curves: dict[str, LandauFit]
    histograms: dict[str, npt.NDArray[np.float64]]
    counts: dict[str, int]


TakeRows = Callable[[pd.DataFrame, pd.DataFrame], None]


def dqdx(
    selection: Any, prediction: str, settings: Settings | None = None, take_rows: TakeRows | None = None
) -> Tables:
    """dQ/dx of the muons in the images of a selection.

    Args:
        selection: images with truth, and its columns pdg and track.
        prediction: name of the prediction that deghosts.
        settings: see ``Settings``.
        take_rows: called with (segments, tracks) of each image that has any, a row each: file, event, tpc, track; of a
            segment its piece, length_cm, layers, x_cm, y_cm, z_cm of its middle (t = 0), residual_cm (NaN where the
            track does not stop), and dQ/dx of each method.

    Raises:
        StoreError: an unknown prediction, images without such truth, no scores, or not a single segment.
        ConfigError: a setting that makes no sense.
    """
    settings = settings or Settings()
    store = selection.store
    _check(settings, store, prediction)
    muons = Muons(store, prediction, settings)
    tally = RateTally(METHODS, settings.bootstraps, settings.seed)
    for i in range(len(selection)):
        (image,) = selection.read(i, i + 1, prediction)
        found = list(muons.of(image))
        for about, segments in found:
            tally.add(image.key, about["track"], segments)
        if found and take_rows is not None:
            segments = pd.concat([part for _, part in found], ignore_index=True)
            take_rows(segments.reindex(columns=muons.segment_columns), pd.DataFrame([about for about, _ in found]))
    counts = muons.counts
    if not counts["segments"]:
        raise StoreError(
            f"{store.path}: no segment of a muon in {counts['images']} images with {counts['tracks']} muons of 50 true "
            f"voxels ({counts['images_without_truth']} more images without pdg and track, "
            f"{counts['images_not_predicted']} without all scores). Fix: choose images with truth of muons, predict "
            "them, and leave lengths as they are"
        )
    fits, curves = tally.fits()
    return Tables(fits, tally.residual(), curves, tally.methods, counts)


def _check(settings: Settings, store: Any, prediction: str) -> None:
    for name in ("segment_cm", "tube_cm", "piece_cm", "straight_cm", "charge_scale"):
        value, (low, high) = getattr(settings, name), SCALES if name == "charge_scale" else LENGTHS_CM
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} = {value}. Fix: give a number from {low:g} to {high:g}")
    if settings.charge_scale is not None and settings.charge is None:
        raise ConfigError(
            f"charge_scale = {settings.charge_scale} without charges. Fix: --charge NAME, or leave it out"
        )
    lifetime = settings.lifetime
    if lifetime not in (None, "truth") and (isinstance(lifetime, str) or not SHORTEST_MS <= lifetime < np.inf):
        raise ConfigError(f"lifetime {lifetime!r}. Fix: a number of ms from {SHORTEST_MS} on, or truth")
    if isinstance(lifetime, int | float) and store.geometry.joined:
        raise StoreError(
            f"{store.path}: TPCs {store.geometry.joined} are joined, so one drift time does not hold for all voxels. "
            "Fix: --lifetime truth, or the store that it was joined from"
        )
    if not 0 <= settings.bootstraps <= MOST_SAMPLES:
        raise ConfigError(f"bootstraps = {settings.bootstraps}. Fix: 0 to {MOST_SAMPLES}")
    if not np.isfinite(settings.threshold):
        raise ConfigError(f"threshold = {settings.threshold}. Fix: a finite number")
    known = store.predictions
    for asked in (prediction, settings.charge):
        if asked is not None and asked not in known:
            raise StoreError(f"{store.path}: no prediction {asked!r}. Fix: one of {', '.join(sorted(known)) or 'none'}")
    charges = {name for name, about in known.items() if about.get("output") == "charge"}
    scores = known.keys() - charges
    asked_for = (prediction, "scores", scores, "--prediction"), (settings.charge, "charges", charges, "--charge")
    for asked, of, others, option in asked_for:
        if asked is not None and asked not in others:
            raise StoreError(
                f"{store.path}: prediction {asked!r} holds no {of}. Fix: {option} with one that does "
                f"({', '.join(sorted(others)) or 'none here'})"
            )
