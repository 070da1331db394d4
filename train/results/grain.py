"""Everything that an evaluation adds up at one voxel size: scores, charges and truth, of the whole and of strata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from larstore.image import Image, Values
from train.results.baselines import BASELINES, mean_of_planes
from train.results.charge_tally import ChargeTally
from train.results.charge_units import Units
from train.results.method_tally import MethodTally
from train.results.prediction_kinds import Kind
from train.results.score_bins import AGREEMENT, ONE, SCORE, SCORE_FEW, Bins, charge_bins
from train.results.score_tally import ScoreTally
from train.results.stratum_charges import StratumCharges
from train.results.tallies import EventKey, EventWeights, Tally
from train.results.voxel_classes import VoxelClasses
from train.results.voxels import Voxels

FULL = (1, 1, 1)
NETWORK = "network"  # what tables call the prediction, where there is one only
MEAN_OF_PLANES = "mean_of_planes"

Codes = Mapping[str, npt.NDArray[Any]]


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
        units: Units,
    ) -> None:
        self.factors, self.classes, self.units, self._all = factors, classes, units, methods
        self.methods: dict[str, MethodTally] = {}
        self.charges: dict[str, ChargeTally] = {}
        self.stratum_charges: dict[str, StratumCharges] = {}
        # All truth voxels of each stratum (the first is everything) and level: number and charge.
        self._strata = {} if strata is None else strata.labels
        self.truth = Tally((1 + sum(map(len, self._strata.values())), len(classes.levels), 2), weights)
        charges, few_charges = charge_bins(units.truth)
        baselines = {"no_cut": ONE, "plane_agreement": AGREEMENT, "smallest_charge": charge_bins(units.charge)[0]}
        for name, method in methods.items():
            kind = method.kind
            if kind is None:
                unit = {"no_cut": _half, "plane_agreement": _from_zero}.get(name)
                self.methods[name] = MethodTally(baselines[name], classes, weights, unit)
                continue
            few = few_charges if kind.is_charge else SCORE_FEW
            fine = None if strata is None else ScoreTally(few, classes.n, weights, strata.labels, with_scores=False)
            score: tuple[Bins, Any] = (charges, None) if kind.is_charge else (SCORE, _itself)
            self.methods[name] = MethodTally(score[0], classes, weights, score[1], fine)
        of_charges = [name for name, method in methods.items() if method.kind is not None and method.kind.is_charge]
        if of_charges and units.to_truth is not None:
            of_charges.append(MEAN_OF_PLANES)
        for name in of_charges:
            self.charges[name] = ChargeTally(classes.levels, weights, units.truth)
            if strata is not None:
                self.stratum_charges[name] = StratumCharges(classes.levels, weights, strata.labels)

    def add(
        self,
        key: EventKey,
        voxels: Voxels,
        scores: Mapping[str, Values],
        codes: Codes | None = None,
        true_codes: Codes | None = None,
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
            held = voxels.predictions[held_name(kind)] / kind.scale if kind.kept_by else charge
            if self.factors != FULL:
                charge = held  # what ghosts were given, that are not kept, is no part of a true coarse voxel's charge
            self._add_charge(name, key, voxels, (charge, held), kind.reference, codes, true_codes)
        if MEAN_OF_PLANES in self.charges:
            assert self.units.to_truth is not None
            mean = mean * self.units.to_truth
            reference = next(kind.reference for kind in kinds.values() if kind is not None)
            self._add_charge(MEAN_OF_PLANES, key, voxels, (mean, mean), reference, codes, true_codes)

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
        charges: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        column: str,
        codes: Codes | None,
        true_codes: Codes | None,
    ) -> None:
        """``charges``: (n,) each, the estimate and what is kept of it, to be compared with a column of the truth."""
        reference = voxels.reference(column)
        if reference is None or voxels.truth is None:
            return
        whole = voxels.truth_columns.get(column)
        everything = float("nan") if whole is None else float(whole.sum(dtype=np.float64))
        compared = np.nan_to_num(reference).astype(np.float64)
        estimate, held = (charge.astype(np.float64) for charge in charges)
        self.charges[name].add(key, estimate, held, voxels.truth, compared, everything)
        if name in self.stratum_charges:
            of_strata = self.stratum_charges[name]
            of_strata.add(key, estimate, held, voxels.truth, compared, codes or {}, whole, true_codes or {})

    def end_event(self, key: EventKey) -> None:
        """All images of the event have been taken in."""
        for tally in self.methods.values():
            tally.end_event(key)
        for charges in self.charges.values():
            charges.end_event(key)
        for of_strata in self.stratum_charges.values():
            of_strata.end_event(key)

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        self.truth.merge(other.truth)
        for name, tally in self.methods.items():
            tally.merge(other.methods[name])
        for name, charges in self.charges.items():
            charges.merge(other.charges[name])
        for name, of_strata in self.stratum_charges.items():
            of_strata.merge(other.stratum_charges[name])


def held_name(kind: Kind) -> str:
    """Under which name the voxels have its charge where that is kept, else 0; it is summed in coarser voxels."""
    return f"{kind.name}/held"


def _itself(score: Values) -> Values:
    return score


def _half(score: Values) -> Values:
    return np.full(len(score), 0.5, np.float32)


def _from_zero(score: Values) -> Values:
    return score + np.float32(1)
