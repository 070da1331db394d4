"""dQ/dx along muon tracks: as tiled, after deghosting, as predicted, and the truth; for a store or a part of it.

Of each straight piece of a track (`train.results.tracks`), segments of whole layers of voxels; a segment's charge is
that of all voxels within a tube around the line, whichever particle it is of, and its length that of the line.

    tiled, tiled_w    all voxels: mean of the planes, and the collection plane alone
    kept, kept_w      voxels that a prediction keeps
    predicted         the kept voxels' charges of another prediction
    truth, collected  true electrons after recombination, and those of them that reach the wires

Segments in which the track itself has no truth in some layer, or a plane was dead, are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import ConfigError, StoreError
from train.results.charge_scale import charge_scale
from train.results.landau import LandauFit, fit_landau
from train.results.tracks import PIECE_CM, STRAIGHT_CM, Piece, Track, muon_tracks, voxel_size_cm

THRESHOLD = 0.5
SEGMENT_CM = 1.0
TUBE_CM = 2.5
MARGIN_CM = 10.0  # between a stopping muon's end and the edges of the face
BRAGG_NEAR_CM = 3.0  # residual range up to which the charge must rise …
BRAGG_FAR_CM = (10.0, 60.0)  # … over what it is here
BRAGG_RISE = 1.4
RANGE_EDGES_CM = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 200.0)
LEAST_LIVE = 0.9  # of the true voxels in the tube, with all planes
METHODS = {
    "truth": "truth",
    "collected": "truth that reaches the wires",
    "tiled": "tiled, mean of the planes",
    "tiled_w": "tiled, collection plane",
    "kept": "after deghosting, mean of the planes",
    "kept_w": "after deghosting, collection plane",
    "predicted": "predicted charge of the kept voxels",
}
TRUE_METHODS = ("truth", "collected")


@dataclass(frozen=True)
class Settings:
    """What is done; lengths in cm.

    Attributes:
        threshold: score from which a voxel is kept.
        charge: name of a prediction of charges, None for none.
        charge_scale: what it is in: electrons × this; None: as its attributes say (`charge_scale`).
        segment_cm, tube_cm, piece_cm, straight_cm: see the modules; the tube's is a radius.
        lifetime: electron lifetime in ms that charges are corrected for, by the drift of charge freed at t = 0;
            "truth": by what the truth says was lost; None: not corrected. Truth is never.
        bootstraps: samples of tracks for the errors of the fits.
        seed: of these samples.
    """

    threshold: float = THRESHOLD
    charge: str | None = None
    charge_scale: float | None = None
    segment_cm: float = SEGMENT_CM
    tube_cm: float = TUBE_CM
    piece_cm: float = PIECE_CM
    straight_cm: float = STRAIGHT_CM
    lifetime: "float | str | None" = None
    bootstraps: int = 100
    seed: int = 0


@dataclass
class Tables:
    """Results: one row a segment, a track, a method, and a method and bin of residual range; the counts of all.

    ``segments``: file, event, tpc, track, piece, length_cm, layers, x_cm, y_cm, z_cm of its middle (t = 0),
    residual_cm (NaN where the track does not stop), and dQ/dx in electrons/cm of each method.
    """

    segments: pd.DataFrame
    tracks: pd.DataFrame
    fits: pd.DataFrame
    residual: pd.DataFrame
    curves: dict[str, LandauFit]
    counts: dict[str, int] = field(default_factory=dict)


def dqdx(selection: Any, prediction: str, settings: Settings | None = None) -> Tables:
    """dQ/dx of the muons in the images of a selection.

    Args:
        selection: images with truth, and its columns pdg and track.
        prediction: name of the prediction that deghosts.
        settings: see ``Settings``.

    Raises:
        StoreError: an unknown prediction, images without such truth, no scores, or not a single segment.
        ConfigError: a setting that makes no sense.
    """
    settings = settings or Settings()
    store = selection.store
    _check(settings, store, prediction)
    size = voxel_size_cm(store)
    collector = _Collector(store, prediction, settings, size)
    for i in range(len(selection)):
        (image,) = selection.read(i, i + 1, prediction)
        collector.add(image)
    return collector.tables()


class _Collector:
    def __init__(self, store: Any, prediction: str, settings: Settings, size: npt.NDArray[np.float64]) -> None:
        self.store, self.prediction, self.settings, self.size = store, prediction, settings, size
        self.scale = settings.charge_scale or self._scale()
        self.counts = dict.fromkeys(
            ("images", "images_without_truth", "images_not_predicted", "tracks", "pieces", "pieces_bent", "stopping",
             "segments_interrupted", "segments_dead"), 0,
        )  # fmt: skip
        self.segments: list[pd.DataFrame] = []
        self.tracks: list[dict[str, Any]] = []

    def add(self, image: Any) -> None:
        """Take in one image; it is counted and left out where truth or scores are missing."""
        score = image.score(self.prediction)
        charge = None if self.settings.charge is None else image.score(self.settings.charge)
        if image.truth_voxels is None or not {"pdg", "track"} <= set(image.truth_columns):
            self.counts["images_without_truth"] += 1
            return
        if np.isnan(score).any() or (charge is not None and np.isnan(charge).any()):
            self.counts["images_not_predicted"] += 1
            return
        self.counts["images"] += 1
        kept = score >= self.settings.threshold
        mean = image.charge.mean(axis=1, dtype=np.float64)
        collection = image.charge[:, -1].astype(np.float64)
        tiled = {"tiled": mean, "tiled_w": collection, "kept": mean * kept, "kept_w": collection * kept}
        if charge is not None:
            tiled["predicted"] = charge / self.scale * kept
        live = image.live == (1 << image.charge.shape[1]) - 1
        for track in muon_tracks(image, self.size, self.settings.piece_cm, self.settings.straight_cm):
            self._add_track(image, track, tiled, live)

    def _add_track(self, image: Any, track: Track, tiled: dict[str, Any], live: npt.NDArray[np.bool_]) -> None:
        self.counts["tracks"] += 1
        self.counts["pieces"] += len(track.pieces)
        self.counts["pieces_bent"] += track.bent
        rows = [self._segments(image, track, i, piece, tiled, live) for i, piece in enumerate(track.pieces)]
        table = pd.concat(rows, ignore_index=True)
        key = dict(zip(("file", "event", "tpc"), image.key, strict=True))
        stops = self._stopping_end(image, track, table)
        table["residual_cm"] = np.nan if stops is None else self._residual(track, table, stops)
        self.counts["stopping"] += stops is not None
        self.tracks.append(
            key
            | {"track": track.number, "pdg": track.pdg, "voxels": track.n_voxels, "pieces": len(track.pieces)}
            | {"length_cm": sum(len(piece) * piece.layer_cm for piece in track.pieces)}
            | {f"direction_{axis}": track.pieces[0].direction[i] for i, axis in enumerate("xyz")}
            | {"stops": stops is not None}
        )
        good = table["whole"] & (table["live"] >= LEAST_LIVE)
        self.counts["segments_interrupted"] += int((~table["whole"]).sum())
        self.counts["segments_dead"] += int((table["whole"] & ~good).sum())
        table = table[good].drop(columns=["whole", "live", "own", "layer"])
        for at, (name, value) in enumerate((key | {"track": track.number}).items()):
            table.insert(at, name, value)
        self.segments.append(table)

    def _segments(
        self, image: Any, track: Track, number: int, piece: Piece, tiled: dict[str, Any], live: npt.NDArray[np.bool_]
    ) -> pd.DataFrame:
        """One row a segment of a piece, also of those that will be left out (``whole``, ``live``)."""
        each = max(1, round(self.settings.segment_cm / piece.layer_cm))
        n = len(piece) // each

        def sums(layers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.asarray(layers[: n * each].reshape(n, each).sum(axis=1))

        coords, (truth_coords, value) = image.coords, image.truth_voxels
        near = piece.near(coords, self.size, self.settings.tube_cm)
        true = piece.near(truth_coords, self.size, self.settings.tube_cm)
        columns = image.truth_columns
        own = true[columns["track"][true] == track.number]
        per_cm: dict[str, npt.NDArray[np.float64]] = {"truth": sums(piece.layers(truth_coords[true], value[true]))}
        if "collected" in columns:
            per_cm["collected"] = sums(piece.layers(truth_coords[true], columns["collected"][true]))
        factor = self._lifetime(image, piece, per_cm, n, each)
        for name, charge in tiled.items():
            per_cm[name] = sums(piece.layers(coords[near], charge[near])) * factor
        truth = image.truth
        filled = near[truth[near] > 0]
        n_true = sums(piece.layers(coords[filled], np.ones(len(filled))))
        n_live = sums(piece.layers(coords[filled], live[filled].astype(np.float64)))
        there = piece.layers(truth_coords[own], value[own]) > 0
        length = each * piece.layer_cm
        middle = (np.arange(n) + 0.5) * each
        place = image.position_of(piece.at(middle) / self.size - 0.5)
        table = pd.DataFrame({"piece": number, "layer": piece.first + middle, "length_cm": length, "layers": each},
                             index=range(n))  # fmt: skip
        for i, axis in enumerate("xyz"):
            table[f"{axis}_cm"] = place[:, i]
        for name in METHODS:
            if name in per_cm:
                table[name] = per_cm[name] / length
        table["own"] = sums(piece.layers(truth_coords[own], value[own])) / length
        table["whole"] = np.asarray(there[: n * each].reshape(n, each).all(axis=1))
        table["live"] = np.divide(n_live, n_true, out=np.ones(n), where=n_true > 0)
        return table

    def _scale(self) -> float:
        name = self.settings.charge
        if name is None:
            return 1.0
        return charge_scale(self.store.predictions[name], f"{self.store.path}: prediction {name!r}: ", "--charge-scale")

    def _lifetime(
        self, image: Any, piece: Piece, per_cm: dict[str, npt.NDArray[np.float64]], n: int, each: int
    ) -> npt.NDArray[np.float64]:
        """(n,) what measured charges are multiplied by."""
        lifetime = self.settings.lifetime
        if lifetime is None:
            return np.ones(n)
        if lifetime == "truth":
            if "collected" not in per_cm:
                raise StoreError(
                    f"{self.store.path}: image {image.key} has no truth column collected, which --lifetime truth "
                    "needs. Fix: give the lifetime in ms"
                )
            arrived = per_cm["collected"]
            return np.divide(per_cm["truth"], arrived, out=np.ones(n), where=arrived > 0)
        frame = self.store.geometry.tpcs[image.key[2]]
        layer = piece.at((np.arange(n) + 0.5) * each)[:, 0] / self.size[0]  # voxels along the drift
        ticks = layer * self.store.attributes["downsample"][0] - frame.tick_zero_drift
        return np.asarray(np.exp(ticks.clip(min=0.0) * frame.tick_us / (1000.0 * float(lifetime))))

    def _stopping_end(self, image: Any, track: Track, table: pd.DataFrame) -> int | None:
        """0 or 1: the end of a track at which it stops; None for one that leaves, or shows no Bragg peak."""
        found = []
        for end in (0, 1):
            if not self._inside(image, track.ends[end]):
                continue
            left = self._residual(track, table, end)
            whole = table["whole"].to_numpy()
            own = table["own"].to_numpy()
            near = own[whole & (left <= BRAGG_NEAR_CM)]
            far = own[whole & (left > BRAGG_FAR_CM[0]) & (left <= BRAGG_FAR_CM[1])]
            if len(near) >= 2 and len(far) >= 5 and np.median(near) >= BRAGG_RISE * np.median(far):
                found.append(end)
        return found[0] if len(found) == 1 else None

    def _inside(self, image: Any, voxel: npt.NDArray[np.int64]) -> bool:
        """Whether a voxel is well inside the face, and inside the read-out window."""
        geometry, steps = self.store.geometry, self.store.attributes["downsample"]
        frame = geometry.tpcs[image.key[2]]
        if geometry.joined:
            return False  # a gap is no end
        most = np.array([frame.n_ticks or np.inf, frame.n_y, frame.n_z]) / steps
        margin = MARGIN_CM / self.size
        return bool((voxel >= margin).all() and (voxel + 1 <= most - margin).all())

    def _residual(self, track: Track, table: pd.DataFrame, end: int) -> npt.NDArray[np.float64]:
        """(segments,) cm along the track from the middle of each to the end that it stops at."""
        axis = track.pieces[0].axis
        edge = float(track.ends[end][axis]) + 0.5
        layer = table["layer"].to_numpy()
        distance = np.zeros(len(table))
        for i, piece in enumerate(track.pieces):
            low = -np.inf if i == 0 else piece.first
            high = np.inf if i + 1 == len(track.pieces) else track.pieces[i + 1].first
            begin, stop = np.minimum(layer, edge).clip(low, high), np.maximum(layer, edge).clip(low, high)
            distance += (stop - begin) * piece.layer_cm
        return distance

    def tables(self) -> Tables:
        """All tables; StoreError where there is nothing to measure."""
        counts = self.counts
        if not self.segments or not any(len(part) for part in self.segments):
            raise StoreError(
                f"{self.store.path}: no muon of 50 true voxels in {counts['images']} images "
                f"({counts['images_without_truth']} more without pdg and track, {counts['images_not_predicted']} "
                "without all scores). Fix: choose images with truth of muons, and predict them"
            )
        segments = pd.concat(self.segments, ignore_index=True)
        tracks = pd.DataFrame(self.tracks)
        group = segments.groupby(["file", "event", "tpc", "track"], sort=False).ngroup().to_numpy()
        names = [name for name in METHODS if name in segments]
        curves, rows = {}, []
        for name in names:
            values = segments[name].to_numpy()
            fit = fit_landau(values, group, self.settings.bootstraps, self.settings.seed)
            rows.append(_fit_row(name, values, fit))
            if fit is not None:
                curves[name] = fit
        fits = pd.DataFrame(rows)
        fits["mpv_over_truth"] = fits["mpv"] / fits["mpv"].iloc[0]
        counts["segments"] = len(segments)
        return Tables(segments, tracks, fits, residual_table(segments, names), curves, counts)


def residual_table(segments: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Median dQ/dx of each method in bins of the residual range: low_cm, high_cm, segments, NAME, NAME_over_truth."""
    edges = np.array(RANGE_EDGES_CM)
    stopping = segments[segments["residual_cm"].notna()]
    place = np.searchsorted(edges, stopping["residual_cm"].to_numpy(), side="right") - 1
    rows = []
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        here = stopping[place == i]
        if not len(here):
            continue
        row: dict[str, Any] = {"low_cm": low, "high_cm": high, "segments": len(here)}
        row |= {name: float(here[name].median()) for name in names}
        row |= {f"{name}_over_truth": row[name] / row["truth"] for name in names if name != "truth"}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["low_cm", "high_cm", "segments", *names])


def _fit_row(name: str, values: npt.NDArray[np.float64], fit: LandauFit | None) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, "label": METHODS[name], "segments": len(values)}
    row |= {"median": float(np.median(values)), "mean": float(values.mean()), "empty": float((values <= 0).mean())}
    for i, key in enumerate(("mpv", "width", "sigma", "peak", "fwhm")):
        row[key] = np.nan if fit is None else getattr(fit, key)
        row[f"{key}_error"] = np.nan if fit is None else fit.errors[i]
    return row | {"fitted": 0 if fit is None else fit.n}


def _check(settings: Settings, store: Any, prediction: str) -> None:
    for name in ("segment_cm", "tube_cm", "piece_cm", "straight_cm", "charge_scale"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < np.inf:
            raise ConfigError(f"{name} = {value}. Fix: give a number above 0")
    lifetime = settings.lifetime
    if lifetime not in (None, "truth") and (isinstance(lifetime, str) or not 0 < lifetime < np.inf):
        raise ConfigError(f"lifetime {lifetime!r}. Fix: a number of ms above 0, or truth")
    if isinstance(lifetime, int | float) and store.geometry.joined:
        raise StoreError(
            f"{store.path}: TPCs {store.geometry.joined} are joined, so one drift time does not hold for all voxels. "
            "Fix: --lifetime truth, or the store that it was joined from"
        )
    if not np.isfinite(settings.threshold):
        raise ConfigError(f"threshold = {settings.threshold}. Fix: a finite number")
    known = store.predictions
    for asked in (prediction, settings.charge):
        if asked is not None and asked not in known:
            raise StoreError(f"{store.path}: no prediction {asked!r}. Fix: one of {', '.join(sorted(known)) or 'none'}")
    charges = [name for name, about in known.items() if about.get("output") == "charge"]
    if prediction in charges or (settings.charge is not None and settings.charge not in charges):
        raise StoreError(
            f"{store.path}: {prediction!r} must hold scores, and {settings.charge!r} charges; charges are in "
            f"{', '.join(sorted(charges)) or 'none'}. Fix: give them the other way, or others"
        )
