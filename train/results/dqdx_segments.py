"""dQ/dx in segments along the muon tracks of an image: as tiled, after deghosting, as predicted, and the truth.

Of each straight piece of a track (`train.results.tracks`), segments of whole layers of voxels; a segment's charge is
that of all voxels within a tube around the line, whichever particle it is of, and its length that of the line.

    tiled, tiled_w    all voxels: mean of the planes, and the collection plane alone
    kept, kept_w      voxels that a prediction keeps
    predicted         the kept voxels' charges of another prediction
    truth, collected  true electrons after recombination, and those of them that reach the wires

Segments in which the track itself has no truth in some layer, or a plane was dead, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import StoreError
from train.results.charge_scale import charge_scale
from train.results.tracks import PIECE_CM, STRAIGHT_CM, Piece, Track, muon_tracks, voxel_size_cm

THRESHOLD = 0.5
SEGMENT_CM = 1.0
TUBE_CM = 2.5
MARGIN_CM = 10.0  # between a stopping muon's end and the edges of the face
BRAGG_NEAR_CM = 3.0  # residual range up to which the charge must rise …
BRAGG_FAR_CM = (10.0, 60.0)  # … over what it is here
BRAGG_RISE = 1.4
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
KEYS = ("file", "event", "tpc", "track")


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


class Muons:
    """Measures the muons of images; ``counts`` of all that were given.

    Attributes:
        methods: names of those that the images of the store can have.
    """

    def __init__(self, store: Any, prediction: str, settings: Settings) -> None:
        self.store, self.prediction, self.settings, self.size = store, prediction, settings, voxel_size_cm(store)
        self.scale = settings.charge_scale or self._scale()
        self.counts = dict.fromkeys(
            ("images", "images_without_truth", "images_not_predicted", "tracks", "pieces", "pieces_bent", "stopping",
             "segments", "segments_interrupted", "segments_dead"), 0,
        )  # fmt: skip
        without = {"predicted"} if settings.charge is None else set()
        self.methods = [
            name for name in METHODS if name not in without | ({"collected"} - set(store.root.truth_columns))
        ]

    def of(self, image: Any) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        """Each muon of an image: what it is, and its segments, a row each with ``segment_columns`` that there are.

        An image is counted and left out where truth or scores are missing.
        """
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
            yield self._track(image, track, tiled, live)

    @property
    def segment_columns(self) -> list[str]:
        """Place in cm for t = 0, residual range (NaN of a muon that does not stop), dQ/dx in electrons/cm by method."""
        where = ["piece", "length_cm", "layers", "x_cm", "y_cm", "z_cm"]
        return [*KEYS, *where, *self.methods, "residual_cm"]

    def _track(
        self, image: Any, track: Track, tiled: dict[str, Any], live: npt.NDArray[np.bool_]
    ) -> tuple[dict[str, Any], pd.DataFrame]:
        rows = [self._segments(image, track, i, piece, tiled, live) for i, piece in enumerate(track.pieces)]
        table = pd.concat(rows, ignore_index=True)
        stops = self._stopping_end(image, track, table)
        table["residual_cm"] = np.nan if stops is None else self._residual(track, table, stops)
        key = dict(zip(KEYS, (*image.key, track.number), strict=True))
        good = table["whole"] & (table["live"] >= LEAST_LIVE)
        self.counts["tracks"] += 1
        self.counts["pieces"] += len(track.pieces)
        self.counts["pieces_bent"] += track.bent
        self.counts["stopping"] += stops is not None
        self.counts["segments"] += int(good.sum())
        self.counts["segments_interrupted"] += int((~table["whole"]).sum())
        self.counts["segments_dead"] += int((table["whole"] & ~good).sum())
        about = (
            key
            | {"pdg": track.pdg, "voxels": track.n_voxels, "pieces": len(track.pieces)}
            | {"length_cm": sum(len(piece) * piece.layer_cm for piece in track.pieces)}
            | {f"direction_{axis}": track.pieces[0].direction[i] for i, axis in enumerate("xyz")}
            | {"stops": stops is not None}
        )
        columns = [name for name in self.segment_columns if name in KEYS or name in table]
        return about, table[good].assign(**key)[columns]

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
