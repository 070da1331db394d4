"""Everything that an evaluation counts, image by image, in memory that does not grow with the images' voxels."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import ConfigError
from larstore.image import Image, Values
from train.results.baselines import BASELINES, mean_of_planes
from train.results.charge_units import Units
from train.results.coarse_strata import coarse_codes
from train.results.curves import GHOST, TRUE, UNKNOWN, ScoreCounts
from train.results.grain import FULL, Codes, Grain, Strata, held_name, methods_of
from train.results.lit_charge import LitCharge
from train.results.prediction_kinds import SCORE_CUT, Kind
from train.results.score_bins import TINY
from train.results.tallies import EventKey, EventWeights
from train.results.voxel_classes import Level, VoxelClasses
from train.results.voxels import Voxels, voxels_of


class Collector:
    """``add`` the images in the order of their events, then ``finish``.

    Attributes:
        methods: by name, in the order of tables.
        grains: sums at full voxels, then at the coarser ones.
        lit: of images without truth, the charge that kept voxels explain.
        counts: distinct scores at the first level, exact (`train.results.curves.ScoreCounts`), by method.
        n_events, n_not_predicted, n_without_truth, n_truth_voxels: of what was taken in, or left out.
        n_untiled_unknown: images with truth of tiled voxels alone, as of joined TPCs of which one has none.
        n_without_collected: images with truth that lack the column ``collected``, though charges are compared with it.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        levels: tuple[Level, ...],
        weights: EventWeights,
        coarsen: Sequence[tuple[int, int, int]] = (),
        strata: Strata | None = None,
        units: Units | None = None,
    ) -> None:
        """``units``: of charges and truth, electrons by default."""
        self.kinds, self.levels, self.weights, self.strata = kinds, levels, weights, strata
        self.units = units or Units()
        self.methods = methods_of(kinds)
        classes = VoxelClasses(levels)
        self.grains = [
            Grain(factors, self.methods, classes, weights, strata, self.units) for factors in (FULL, *coarsen)
        ]
        self.counts = {name: ScoreCounts() for name in self.methods}
        self.lit = LitCharge(
            {name: tally.score.bins for name, tally in self.grains[0].methods.items() if name != "no_cut"}, weights
        )
        self.n_events = self.n_not_predicted = self.n_without_truth = self.n_truth_voxels = 0
        self.n_untiled_unknown = self.n_without_collected = 0
        self._names = dict.fromkeys([*(k.name for k in kinds), *(k.kept_by for k in kinds if k.kept_by)])
        self._charges = {kind.name for kind in kinds if kind.is_charge} | {held_name(k) for k in kinds if k.kept_by}
        self._event: EventKey | None = None
        whole = ["file", "event", "tpc", "voxels", "true_tiled", "true_all"]
        whole += [f"kept_{name}" if len(kinds) > 1 else "kept" for name in self._predictions()]
        self._columns: dict[str, array[Any]] = {name: array("q") for name in whole}
        self._columns |= {f"ap_{name}": array("d") for name in self.methods}

    def _predictions(self) -> list[str]:
        return [name for name, method in self.methods.items() if method.kind is not None]

    def cut(self, name: str) -> float:
        """The score from which a prediction keeps a voxel in counts: 0.5; the least charge for charges."""
        kind = self.methods[name].kind
        return TINY if kind is not None and kind.is_charge else SCORE_CUT

    def add(self, image: Image) -> None:
        """Take in one image; it is left out and counted if any of its predictions is missing."""
        voxels = voxels_of(image, self._names)
        if any(np.isnan(values).any() for values in voxels.predictions.values()):
            self.n_not_predicted += 1
            return
        for kind in self.kinds:
            if kind.kept_by:
                kept = voxels.predictions[kind.kept_by] >= np.float32(SCORE_CUT)
                voxels.predictions[held_name(kind)] = np.where(kept, voxels.predictions[kind.name], np.float32(0))
        key = (image.key[0], image.key[1])
        if key != self._event:
            self.finish()
            self._event = key
            self.n_events += 1
        scores = self._scores(voxels)
        self._add_row(image, voxels, scores)
        codes = None if self.strata is None else self.strata.codes(image)
        true_codes = None if self.strata is None else self.strata.true_codes(image)
        if voxels.truth is None:
            self.lit.add(key, image, scores)
        for grain in self.grains:
            if grain.factors == FULL:
                grain.add(key, voxels, scores, codes, true_codes)
            else:
                coarse = voxels.coarser(grain.factors, self._charges)
                of_strata: tuple[Codes | None, Codes | None] = (None, None)
                if codes is not None and true_codes is not None:
                    mean = mean_of_planes(voxels.charge, voxels.live)
                    of_strata = coarse_codes(voxels, grain.factors, mean, codes, true_codes)
                grain.add(key, coarse, self._scores(coarse), *of_strata)

    def finish(self) -> None:
        """Close the event at hand."""
        if self._event is not None:
            for grain in self.grains:
                grain.end_event(self._event)
            self._event = None

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events, made for the same predictions and settings.

        It may come from another process. ConfigError where the settings differ.
        """
        mine, theirs = ((list(c.methods), c.levels, [grain.factors for grain in c.grains]) for c in (self, other))
        if mine != theirs:
            raise ConfigError(f"collected {theirs} cannot be added to {mine}. Fix: the same predictions and settings")
        self.finish()
        other.finish()
        for grain, more in zip(self.grains, other.grains, strict=True):
            grain.merge(more)
        self.lit.merge(other.lit)
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])
        for name, column in self._columns.items():
            column.extend(other._columns[name])
        numbers = ("n_events", "n_not_predicted", "n_without_truth", "n_truth_voxels", "n_untiled_unknown")
        for name in (*numbers, "n_without_collected"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _scores(self, voxels: Voxels) -> dict[str, Values]:
        cuts = {cut.name: cut.score(voxels.charge, voxels.live) for cut in BASELINES}
        found = {}
        for name, method in self.methods.items():
            kind = method.kind
            if kind is None:
                found[name] = cuts[name]
            else:
                values = voxels.predictions[kind.name]
                found[name] = values if kind.scale == 1 else values / np.float32(kind.scale)
        return found

    def _add_row(self, image: Image, voxels: Voxels, scores: Mapping[str, Values]) -> None:
        least = self.levels[0].least
        kind = voxel_kinds(voxels.truth, len(voxels), least)
        everything = voxels.truth_columns.get("truth")
        all_true = 0 if everything is None else int((everything >= np.float32(least)).sum())
        self.n_truth_voxels += all_true
        self.n_without_truth += int(voxels.truth is None)
        self.n_untiled_unknown += int(voxels.truth is not None and everything is None)
        if any(kind.is_charge and kind.reference == "collected" for kind in self.kinds):
            self.n_without_collected += int(voxels.truth is not None and "collected" not in voxels.truth_columns)
        row: dict[str, float] = dict(zip(("file", "event", "tpc"), image.key, strict=True))
        row |= {"voxels": len(voxels), "true_tiled": int((kind == TRUE).sum()), "true_all": all_true}
        for name in self._predictions():
            column = f"kept_{name}" if len(self.kinds) > 1 else "kept"
            row[column] = int((scores[name] >= np.float32(self.cut(name))).sum())
        for name, values in scores.items():
            self.counts[name].add(values, kind)
            alone = ScoreCounts()
            alone.add(values, kind)
            row[f"ap_{name}"] = alone.curve().average_precision
        for name, value in row.items():
            self._columns[name].append(value)

    @property
    def all_true(self) -> float:
        """All true voxels, tiled or not, of the images with truth; NaN where some do not tell."""
        return float("nan") if self.n_untiled_unknown else float(self.n_truth_voxels)

    @property
    def n_images(self) -> int:
        """Images taken in."""
        return len(self._columns["file"])

    def images(self) -> pd.DataFrame:
        """One row per image taken in."""
        return pd.DataFrame({name: np.array(values) for name, values in self._columns.items()})


def voxel_kinds(truth: Values | None, n: int, least: float) -> npt.NDArray[np.uint8]:
    """(n,) GHOST, TRUE (truth >= ``least``) or UNKNOWN (NaN, or no truth at all)."""
    if truth is None:
        return np.full(n, UNKNOWN, np.uint8)
    return np.where(np.isnan(truth), UNKNOWN, np.where(truth >= np.float32(least), TRUE, GHOST)).astype(np.uint8)
