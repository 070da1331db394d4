"""Truth in MeV or in units that nobody knows; average precisions of events of few voxels."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.testing import add_images, make_image, make_store
from tests.train.test_evaluate_compare import noisy, write
from train.results.charge_tally import CHARGE_EDGES, charge_edges
from train.results.charge_units import Units, truth_unit
from train.results.collecting import Collector
from train.results.evaluation import evaluate as evaluate_all
from train.results.event_precision import EventScores
from train.results.merit_pages import range_words
from train.results.merits import merits_of
from train.results.prediction_kinds import prediction_kinds
from train.results.score_bins import CHARGE, CHARGE_FEW, charge_bins
from train.results.strata import Strata
from train.results.tallies import EventWeights
from train.results.voxel_classes import touches, truth_levels

evaluate = partial(evaluate_all, figures=False, bootstrap=0)
MEV = 0.17 / 5000


def store_of(path, unit):
    """The same events, their truth in ``unit`` as `larstore import-xy --truth-units` records it, and predictions."""
    by = {"MeV": MEV, "ADC": 3.0}.get(unit, 1.0)
    store = make_store(path, n_files=0, provenance={"config": {"truth_units": unit}} if unit != "electrons" else None)
    for file in range(3):
        image = make_image(file, n_voxels=400)
        scaled = {name: getattr(image, name) * np.float32(by) for name in ("truth", "truth_value")}
        add_images(store, [replace(image, **scaled)])
    write(store, "net", lambda i: 2.0 * i.truth * (0.9031 if i.key[0] else 1.0972), output="charge",
          config={"data": {"scale": 2.0}})  # fmt: skip
    solved = lambda i: 0.8033 * i.truth / by  # noqa: E731
    write(store, "solved", solved, output="charge", units="electrons")
    return store


def test_figures_do_not_depend_on_the_unit_of_the_truth(tmp_path):
    stores = {unit: store_of(tmp_path / f"{unit}.zarr", unit) for unit in ("electrons", "MeV")}
    found = {unit: evaluate(path, ["net", "solved"], tmp_path / unit, strata="tpc")
             for unit, path in stores.items()}  # fmt: skip
    tables = {unit: pd.read_parquet(tmp_path / unit / "metrics.parquet") for unit in stores}
    one, other = (table[~table["metric"].isin(["threshold"])].reset_index(drop=True) for table in tables.values())
    assert len(one) > 200
    keys = [name for name in one.columns if name not in ("value", "low", "high")]
    pd.testing.assert_frame_equal(one[keys], other[keys])
    assert one["value"].to_numpy() == pytest.approx(other["value"].to_numpy(), rel=1e-4, abs=1e-5)
    charges = {unit: pd.read_parquet(tmp_path / unit / "charges.parquet") for unit in stores}
    assert len(charges["MeV"]) > 20
    assert (charges["MeV"]["n"] == charges["electrons"]["n"]).all()
    for end in ("from", "to"):
        assert charges["MeV"][end].to_numpy() == pytest.approx(charges["electrons"][end].to_numpy() * MEV)
    assert [level["label"] for level in found["MeV"]["levels"]] == ["truth > 0", "truth ≥ 0.17 MeV"]
    cuts = {unit: [row["threshold"] for row in each["kept"]] for unit, each in found.items()}
    assert cuts["MeV"] == pytest.approx([cut * MEV for cut in cuts["electrons"]])
    page = {unit: (tmp_path / unit / "evaluate.html").read_text(encoding="utf-8") for unit in stores}
    assert "true charge of the voxel (MeV)" in page["MeV"]
    assert "0.17 \\u2026 0.34" in page["MeV"] or "0.17 … 0.34" in page["MeV"]
    assert "is compared with it at 0.17 MeV for 5,000 electrons" in page["MeV"]
    assert "against the MeV of the column truth" in page["MeV"]
    assert "MeV" not in page["electrons"].partition("<body>")[2].replace("energy", "")


def test_a_unit_that_is_not_known(tmp_path):
    store = store_of(tmp_path / "run.zarr", "ADC")
    summary = evaluate_all(store, "net", tmp_path / "out", bootstrap=0)
    assert list(summary["charges"]) == ["network"]
    assert summary["charges"]["network"]["charge_total"] == pytest.approx(0.97 * 0.9, rel=0.1)
    assert summary["methods"]["network"]["average_precision"] > 0.5
    table = pd.read_parquet(tmp_path / "out/charges.parquet")
    assert set(table["from"]) <= {1000.0, 10_000.0, 100_000.0}
    page = (tmp_path / "out/evaluate.html").read_text(encoding="utf-8")
    assert "charges are in electrons, the truth is in ADC: they are not compared" in page
    assert "energy" in Strata(larstore.open(store), ["energy"]).missing
    with pytest.raises(StoreError, match=r"'solved' is in electrons, the truth in 'ADC'\. Fix: a store whose"):
        evaluate(store, "solved", tmp_path / "solved")


def test_units_and_bins(tmp_path):
    assert Units().to_truth == Units("adc", "adc").to_truth == 1.0
    assert Units(truth="MeV").to_truth == pytest.approx(MEV)
    assert Units(truth="adc").to_truth is None
    assert truth_unit(larstore.open(make_store(tmp_path / "run.zarr"))) == "electrons"
    assert charge_bins("electrons") == (CHARGE, CHARGE_FEW)
    for bins, same in zip(charge_bins("MeV"), (CHARGE, CHARGE_FEW), strict=True):
        assert bins.edges[1:] == pytest.approx(same.edges[1:] * MEV)
        assert bins.edges[0] == same.edges[0]
        assert bins.name != same.name
    assert charge_bins("adc")[0].n > 200 > charge_bins("adc")[1].n
    assert charge_edges("MeV") == pytest.approx(CHARGE_EDGES * MEV)
    assert range_words(5000, 10_000, "electrons") == "5 … 10 k"
    assert range_words(0.17, 0.34, "MeV") == "0.17 … 0.34"
    assert range_words(3.4, np.inf, "MeV") == "≥ 3.4"


def slow_precision(voxels):
    """Of (score, true or not): one threshold after another."""
    n_true = sum(true for _, true in voxels)
    found, before = 0.0, 0
    for threshold in sorted({score for score, _ in voxels}, reverse=True):
        kept = [true for score, true in voxels if score >= threshold]
        found, before = found + (sum(kept) - before) * sum(kept) / len(kept), sum(kept)
    return found / n_true if n_true else float("nan")


voxel = st.tuples(st.sampled_from([0.1, 0.11, 0.5, 0.5001, 0.9]), st.integers(0, 2))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(voxel, max_size=6), max_size=3))
def test_average_precision_of_an_event(parts):
    # Classes: ghost, halo, true; halo as ghosts, and left out.
    chosen = np.array([[[0, 0, 1], [0, 0, 1]], [[1, 1, 0], [1, 0, 0]]], float)
    scores = EventScores(18)
    for part in parts:
        scores.add(np.array([s for s, _ in part], np.float32), np.array([k for _, k in part], np.int64))
    voxels = [voxel for part in parts for voxel in part]
    expected = [slow_precision([(s, k == 2) for s, k in voxels if k in kinds]) for kinds in ((0, 1, 2), (0, 2))]
    assert scores.take(chosen) == pytest.approx(np.array(expected), nan_ok=True)
    # And anew for the next event.
    scores.add(np.array([0.2, 0.3], np.float32), np.array([2, 0]))
    assert scores.take(chosen) == pytest.approx(np.array([0.5, 0.5]))
    for _ in range(3):
        scores.add(np.zeros(7, np.float32), np.zeros(7, np.int64))
    assert scores.take(chosen) is None
    assert np.isnan(scores.take(chosen)).all()


@pytest.mark.parametrize("most", [1 << 20, 0])
def test_events_of_few_voxels_are_exact(tmp_path, monkeypatch, most):
    monkeypatch.setattr("train.results.method_tally.EventScores", partial(EventScores, most))
    store = make_store(tmp_path / "run.zarr", n_files=4, n_events=3, tpcs=(1, 5), n_voxels=6)
    write(store, "score", noisy(4, 1.0), output="score")
    opened = larstore.open(store)
    collected = Collector(prediction_kinds(opened, ["score"]), truth_levels("electrons"), EventWeights(0))
    for image in opened.select():
        collected.add(image)
    collected.finish()
    merits = merits_of(collected)
    differ = 0.0
    for level, least in (("all", 1e-9), ("5ke", 5000.0)):
        for halo in ("ghosts", "left out"):
            events = {}
            for image in opened.select():
                true = image.truth >= least
                where, value = image.truth_voxels
                near = touches(image.coords, where[value >= least]) & ~true
                voxels = zip(image.score("score").tolist(), true.tolist(), near.tolist(), strict=True)
                chosen = [(s, t) for s, t, n in voxels if halo == "ghosts" or not n]
                events.setdefault(image.key[:2], []).extend(chosen)
            each = [slow_precision(voxels) for voxels in events.values()]
            found = merits["1,1,1", "", "all", level, halo, "network", "", "average_precision_event_mean"][0]
            differ = max(differ, abs(found - np.nanmean(each)))
    assert differ < 1e-6 if most else differ > 0.01
