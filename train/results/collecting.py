"""Everything that an evaluation counts, image by image, in memory that does not grow with the images' voxels."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import ConfigError
from larstore.image import Image, Values
from train.results.baselines import BASELINES, mean_of_planes
from train.results.charge_tally import ChargeTally
from train.results.curves import GHOST, TRUE, UNKNOWN, ScoreCounts
from train.results.lit_charge import LitCharge
from train.results.method_tally import MethodTally
from train.results.prediction_kinds import SCORE_CUT, Kind
from train.results.score_bins import AGREEMENT, CHARGE, CHARGE_FEW, ONE, SCORE, SCORE_FEW
from train.results.score_tally import ScoreTally
from train.results.tallies import EventKey, EventWeights, Tally
from train.results.voxel_classes import Level, VoxelClasses
from train.results.voxels import Voxels, voxels_of

NETWORK = "network"  # what tables call the prediction, where there is one only
MEAN_OF_PLANES = "mean_of_planes"
BASELINE_BINS = {"no_cut": ONE, "plane_agreement": AGREEMENT, "smallest_charge": CHARGE}
FULL = (1, 1, 1)


class Strata(Protocol):
    """Says in which strata voxels are: ``labels`` of each kind, and ``codes`` (n,) of an image, -1 for none."""

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Kind -> names of its strata."""

    def codes(self, image: Image) -> Mapping[str, npt.NDArray[Any]]:
        """Kind -> (n,) numbers of labels."""

    def true_codes(self, image: Image) -> Mapping[str, npt.NDArray[Any]]:
        """Kind -> (m,) numbers of labels, of all truth voxels, tiled or not."""


@dataclass(frozen=True)
class Method:
    """A prediction or a baseline: what it is called in tables and on pages."""

    name: str
    label: str
    definition: str
    kind: Kind | None = None  # None: a baseline


def methods_of(kinds: Sequence[Kind]) -> dict[str, Method]:
    """By name: the predictions (one alone is called ``network``), then the baselines."""
    found = {}
    taken = {cut.name for cut in BASELINES} | {MEAN_OF_PLANES}
    for kind in kinds:
        name = NETWORK if len(kinds) == 1 else f"{kind.name} (prediction)" if kind.name in taken else kind.name
        label = NETWORK if len(kinds) == 1 and not kind.is_charge else kind.name
        found[name] = Method(name, label, kind.definition, kind)
    return found | {cut.name: Method(cut.name, cut.label, cut.definition) for cut in BASELINES}


class Grain:
    """All sums at one voxel size; ``factors`` are the voxels in x, y, z that are taken as one."""

    def __init__(
        self,
        factors: tuple[int, int, int],
        methods: Mapping[str, Method],
        classes: VoxelClasses,
        weights: EventWeights,
        strata: Strata | None,
    ) -> None:
        self.factors, self.classes, self._all = factors, classes, methods
        self.methods: dict[str, MethodTally] = {}
        self.charges: dict[str, ChargeTally] = {}
        # All truth voxels of each stratum (the first is everything) and level: number and charge.
        self._strata = {} if strata is None else strata.labels
        self.truth = Tally((1 + sum(map(len, self._strata.values())), len(classes.levels), 2), weights)
        for name, method in methods.items():
            kind = method.kind
            if kind is None:
                unit = {"no_cut": _half, "plane_agreement": _from_zero}.get(name)
                self.methods[name] = MethodTally(BASELINE_BINS[name], classes, weights, unit)
                continue
            few = CHARGE_FEW if kind.is_charge else SCORE_FEW
            fine = None if strata is None else ScoreTally(few, classes.n, weights, strata.labels)
            bins, unit = (CHARGE, None) if kind.is_charge else (SCORE, _itself)
            self.methods[name] = MethodTally(bins, classes, weights, unit, fine)
            if kind.is_charge:
                self.charges[name] = ChargeTally(classes.levels, weights)
        if self.charges:
            self.charges[MEAN_OF_PLANES] = ChargeTally(classes.levels, weights)

    def add(
        self,
        key: EventKey,
        voxels: Voxels,
        scores: Mapping[str, Values],
        codes: Mapping[str, npt.NDArray[Any]] | None = None,
        true_codes: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Take in an image; ``scores`` of each method, and the strata of its voxels and of its truth voxels."""
        of_class = self.classes.of(voxels.coords, voxels.truth, voxels.truth_coords, voxels.truth_columns.get("truth"))
        mean = mean_of_planes(voxels.charge, voxels.live)
        for name, tally in self.methods.items():
            tally.add(key, scores[name], of_class, voxels, mean, codes)
        value = voxels.truth_columns.get("truth")
        if value is not None:
            self.truth.add(key, self._of_truth(value, true_codes or {}))
        elif voxels.truth is not None:
            # Joined TPCs of which some have truth: what was not tiled is not known, and NaN stays NaN in all sums.
            self.truth.add(key, np.full(self.truth.shape, np.nan))
        kinds = {name: self._all[name].kind for name in self.charges if name != MEAN_OF_PLANES}
        for name, kind in kinds.items():
            assert kind is not None
            charge = voxels.predictions[kind.name] / kind.scale
            held = voxels.predictions[_held(kind)] / kind.scale if kind.kept_by else charge
            self._add_charge(name, key, voxels, charge, held, kind.reference)
        if kinds:
            reference = next(kind.reference for kind in kinds.values() if kind is not None)
            self._add_charge(MEAN_OF_PLANES, key, voxels, mean, mean, reference)

    def _of_truth(self, value: Values, codes: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        """(strata, levels, 2) number and charge of truth voxels."""
        found = np.zeros(self.truth.shape)
        for number, level in enumerate(self.classes.levels):
            true = value >= np.float32(level.least)
            charge = value[true].astype(np.float64)
            found[0, number] = len(charge), charge.sum()
            first = 1
            for kind, labels in self._strata.items():
                code, n = codes[kind][true].astype(np.int64), len(labels)
                some = code >= 0
                found[first : first + n, number, 0] = np.bincount(code[some], minlength=n)
                found[first : first + n, number, 1] = np.bincount(code[some], charge[some], n)
                first += n
        return found

    def _add_charge(
        self,
        name: str,
        key: EventKey,
        voxels: Voxels,
        estimate: npt.NDArray[Any],
        held: npt.NDArray[Any],
        column: str,
    ) -> None:
        reference = voxels.reference(column)
        if reference is None or voxels.truth is None:
            return
        whole = voxels.truth_columns.get(column)
        everything = float("nan") if whole is None else float(whole.sum(dtype=np.float64))
        known = np.nan_to_num(reference)
        charges = estimate.astype(np.float64), held.astype(np.float64)
        self.charges[name].add(key, *charges, voxels.truth, known, everything)

    def end_event(self, key: EventKey) -> None:
        """All images of the event have been taken in."""
        for tally in self.methods.values():
            tally.end_event(key)
        for charges in self.charges.values():
            charges.end_event(key)

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        self.truth.merge(other.truth)
        for name, tally in self.methods.items():
            tally.merge(other.methods[name])
        for name, charges in self.charges.items():
            charges.merge(other.charges[name])


def _held(kind: Kind) -> str:
    """Under which name the voxels have its charge where that is kept, else 0; it is summed in coarser voxels."""
    return f"{kind.name}/held"


def _itself(score: Values) -> Values:
    return score


def _half(score: Values) -> Values:
    return np.full(len(score), 0.5, np.float32)


def _from_zero(score: Values) -> Values:
    return score + np.float32(1)


class Collector:
    """``add`` the images in the order of their events, then ``finish``.

    Attributes:
        methods: by name, in the order of tables.
        grains: sums at full voxels, then at the coarser ones.
        lit: of images without truth, the charge that kept voxels explain.
        counts: distinct scores at the first level, exact (`train.results.curves.ScoreCounts`), by method.
        n_events, n_not_predicted, n_without_truth, n_truth_voxels: of what was taken in, or left out.
        n_untiled_unknown: images with truth of tiled voxels alone, as of joined TPCs of which one has none.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        levels: tuple[Level, ...],
        weights: EventWeights,
        coarsen: Sequence[tuple[int, int, int]] = (),
        strata: Strata | None = None,
    ) -> None:
        self.kinds, self.levels, self.weights, self.strata = kinds, levels, weights, strata
        self.methods = methods_of(kinds)
        classes = VoxelClasses(levels)
        self.grains = [Grain(FULL, self.methods, classes, weights, strata)]
        self.grains += [Grain(factors, self.methods, classes, weights, None) for factors in coarsen]
        self.counts = {name: ScoreCounts() for name in self.methods}
        self.lit = LitCharge(
            {name: tally.score.bins for name, tally in self.grains[0].methods.items() if name != "no_cut"}, weights
        )
        self.n_events = self.n_not_predicted = self.n_without_truth = self.n_truth_voxels = 0
        self.n_untiled_unknown = 0
        self._names = dict.fromkeys([*(k.name for k in kinds), *(k.kept_by for k in kinds if k.kept_by)])
        self._charges = {kind.name for kind in kinds if kind.is_charge} | {_held(k) for k in kinds if k.kept_by}
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
        return float(CHARGE.edges[0]) if kind is not None and kind.is_charge else SCORE_CUT

    def add(self, image: Image) -> None:
        """Take in one image; it is left out and counted if any of its predictions is missing."""
        voxels = voxels_of(image, self._names)
        if any(np.isnan(values).any() for values in voxels.predictions.values()):
            self.n_not_predicted += 1
            return
        for kind in self.kinds:
            if kind.kept_by:
                kept = voxels.predictions[kind.kept_by] >= np.float32(SCORE_CUT)
                voxels.predictions[_held(kind)] = np.where(kept, voxels.predictions[kind.name], np.float32(0))
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
                grain.add(key, coarse, self._scores(coarse))

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
        for name in numbers:
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
