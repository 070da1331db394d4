"""What a prediction holds: a score from 0 to 1, or a charge and in which unit, as its attributes in the store say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from larstore.errors import StoreError
from larstore.store import Store
from train.results.charge_units import ELECTRONS, Units, units_of

SCORE_CUT = 0.5  # a charge of a network of both is kept where its score reaches it


@dataclass(frozen=True)
class Kind:
    """A prediction to evaluate.

    Attributes:
        name: in the store.
        is_charge: it holds charges, not scores.
        scale: charges are in the truth's unit (electrons) × this.
        unit: of the truth.
        reference: column that charges are compared with, ``collected`` or ``truth``.
        kept_by: the score, of the same network, that says which voxels hold the charge; "" where the charge says it.
    """

    name: str
    is_charge: bool = False
    scale: float = 1.0
    reference: str = "truth"
    kept_by: str = ""
    unit: str = ELECTRONS

    @property
    def definition(self) -> str:
        """One sentence for the page."""
        if not self.is_charge:
            return "the prediction's score"
        where = f", where the score {self.kept_by} is at least {SCORE_CUT}," if self.kept_by else ""
        return f"the predicted charge{where} against the {self.unit} of the column {self.reference}; as a score, itself"


def prediction_kinds(store: Store, names: Sequence[str]) -> list[Kind]:
    """What each of these predictions of a store holds.

    A charge (attribute ``output``) of a network is in electrons (the truth's unit) × ``data.scale`` of its training,
    for the target ``data.truth``; one of `larstore solve` is in electrons, for those that reach the wires
    (``collected``), or the truth where the store does not know these; in the truth's unit, if that is another.
    One of `larstore calibrate` is in electrons, for what it was calibrated to, and kept by what keeps the charges that
    it was made from.

    Raises:
        StoreError: no such prediction, one given twice, or a charge whose unit its attributes leave open.
    """
    known = store.predictions
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none yet"
            raise StoreError(
                f"{store.path}: no prediction {name!r}. Fix: one of those there are ({there}), or larstore infer"
            )
    if not names or len(set(names)) < len(names):
        raise StoreError(f"{store.path}: predictions {', '.join(names) or '(none)'}. Fix: at least one, each once")
    return [_kind(store, name, known) for name in names]


def prediction_of(store: Store, name: str, output: Literal["score", "charge"]) -> dict[str, Any]:
    """The attributes of a prediction of scores, or of charges. Raises StoreError if there is none, or of the others."""
    about = store.predictions.get(name)
    if about is not None and _output(about) == output:
        return about
    wrong = "no prediction" if about is None else f"{_output(about)}s, not {output}s, in prediction"
    others = ", ".join(sorted(key for key, each in store.predictions.items() if _output(each) == output))
    made = "larstore infer" if output == "score" else "larstore infer with a charge network, or larstore solve"
    raise StoreError(f"{store.path}: {wrong} {name!r}. Fix: {f'one of {others}, or ' if others else ''}{made}")


def _output(about: dict[str, Any]) -> str:
    return "charge" if about.get("output") == "charge" else "score"


def _kind(store: Store, name: str, known: dict[str, dict[str, Any]]) -> Kind:
    about = known[name]
    if about.get("output") != "charge":
        return Kind(name)
    has_collected = "collected" in store.root.truth_columns
    units = units_of(store)
    if "calibration" in about:
        of = about["calibrated"]
        same = known.get(of, {}).get("checkpoint_sha256") == about["calibrated_sha256"]
        kept_by = _kind(store, of, known).kept_by if same else ""
        return Kind(name, True, 1.0, about["calibration"]["truth"], kept_by, units.truth)
    if "config" not in about:  # the solver's, or other people's points
        by = _solver_scale(store, name, units) if "units" in about else 1.0
        return Kind(name, True, by, "collected" if has_collected else "truth", "", units.truth)
    data = about["config"].get("data", {})
    scale = data.get("scale") or [1.0]
    scales = set(scale if isinstance(scale, list) else [scale])
    if len(scales) != 1 or min(scales) <= 0:
        raise StoreError(
            f"{store.path}: prediction {name!r} was trained with data.scale {data['scale']}, so its charges have no "
            "one unit. Fix: train with one scale above 0 for all stores"
        )
    reference = "collected" if data.get("truth") == "collected" else "truth"
    if reference == "collected" and not has_collected:
        raise StoreError(
            f"{store.path}: prediction {name!r} is of collected electrons, which this store does not know. "
            "Fix: preprocess with truth that has them"
        )
    scores = name.removesuffix("-charge")
    same = scores != name and known.get(scores, {}).get("checkpoint_sha256") == about["checkpoint_sha256"]
    return Kind(name, True, float(scales.pop()), reference, scores if same else "", units.truth)


def _solver_scale(store: Store, name: str, units: Units) -> float:
    """What charges of the wires' unit are to be divided by."""
    if units.to_truth is None:
        raise StoreError(
            f"{store.path}: prediction {name!r} is in {units.charge}, the truth in {units.truth!r}. "
            "Fix: a store whose truth is in electrons or MeV"
        )
    return 1 / units.to_truth
