"""Figures of strata, of scores and charges, at full and coarser voxels, against twins of loops."""

import json
import math
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest

import larstore
from larstore.testing import add_images, make_image, make_store
from tests.train.test_evaluate_compare import figure, noisy, write
from train.results.coarse_strata import coarse_codes
from train.results.collecting import Collector
from train.results.evaluation import evaluate as evaluate_all
from train.results.merits import merits_of
from train.results.prediction_kinds import prediction_kinds
from train.results.strata import Strata
from train.results.tallies import EventWeights, interval
from train.results.voxel_classes import truth_levels
from train.results.voxels import Voxels

evaluate = partial(evaluate_all, figures=False)
LABELS = ["first", "second", "third"]
COARSE = (16, 8, 8)
SIZES = {"1,1,1": (1, 1, 1), "16,8,8": COARSE}


class Scattered:
    """Strata that neighbours seldom share, and none for every fourth voxel."""

    labels = {"scattered": LABELS, "empty": ["never"]}  # noqa: RUF012

    def _of(self, coords):
        code = (coords.astype(int) @ [1, 3, 5]) % 4 - 1
        return {"scattered": code.astype(np.int16), "empty": np.full(len(coords), -1, np.int16)}

    def codes(self, image):
        return self._of(image.coords)

    def true_codes(self, image):
        return self._of(np.empty((0, 3), np.uint16) if image.truth_voxels is None else image.truth_voxels[0])


def estimate(image):
    """A charge that is far off in one stratum, missing for some voxels, and given to ghosts."""
    rng = np.random.default_rng([9, *image.key])
    off = 0.7 + 0.1 * Scattered().codes(image)["scattered"]
    found = image.collected * off * rng.normal(1, 0.1, len(image))
    return np.where(image.truth > 0, np.where(rng.random(len(image)) < 0.1, 0, found), 300.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    store = make_store(
        tmp_path_factory.mktemp("strata") / "run.zarr",
        n_files=3,
        tpcs=(1, 5),
        n_voxels=300,
        truth_columns=("collected",),
    )
    write(store, "net", noisy(1, 4.0), output="score")
    write(store, "solved", estimate, output="charge")
    return store


@pytest.fixture(scope="module")
def evaluated(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, evaluate(path, ["net", "solved"], folder, coarsen=[COARSE], bootstrap=40, strata=Scattered())


def cells(image, factors):
    """Coarse voxel -> what it holds, one voxel after another."""
    found = {}

    def of(place):
        empty = {"tiled": False, "net": 0.0, "charge": 0.0, "mean": 0.0, "truth": 0.0, "collected": 0.0}
        key = tuple(int(c) // f for c, f in zip(place, factors, strict=True))
        return found.setdefault(key, empty | {"most": 0.0, "largest": -math.inf})

    codes, true_codes = (of(image)["scattered"].tolist() for of in (Scattered().codes, Scattered().true_codes))
    columns = (image.coords, codes, image.score("net"), image.score("solved"), image.charge, image.live)
    for place, code, net, charge, planes, live in zip(*columns, strict=True):
        cell, some = of(place), [float(planes[p]) for p in range(3) if live >> p & 1]
        mean = sum(some) / len(some) if some else 0.0
        cell["tiled"], cell["net"] = True, max(cell["net"], net)
        cell["charge"], cell["mean"] = cell["charge"] + float(charge), cell["mean"] + mean
        if mean > cell["largest"]:
            cell["largest"], cell["of_tiled"] = mean, code
    columns = (*image.truth_voxels, image.truth_columns["collected"])
    for place, value, collected, code in zip(*columns, true_codes, strict=True):
        cell = of(place)
        cell["truth"], cell["collected"] = cell["truth"] + float(value), cell["collected"] + float(collected)
        if value > cell["most"]:
            cell["most"], cell["of_truth"] = value, code
    for cell in found.values():
        cell["stratum"] = cell.get("of_truth", cell.get("of_tiled"))
    return list(found.values())


@pytest.fixture(scope="module", params=list(SIZES))
def slow(request, path):
    """Size, and event -> coarse voxels of all its TPCs."""
    found = {}
    for image in larstore.open(path).select():
        found.setdefault(image.key[:2], []).extend(cells(image, SIZES[request.param]))
    return request.param, found


def test_the_coarse_voxels_hold_several(path):
    images = larstore.open(path).select()
    several = [cell for image in images for cell in cells(image, COARSE) if cell["tiled"]]
    assert len(several) < 0.85 * sum(map(len, images))
    assert sum("of_truth" in cell and cell["of_truth"] != cell["of_tiled"] for cell in several) > 20


@pytest.mark.parametrize("label", LABELS)
def test_charges_of_a_stratum(slow, evaluated, label):
    size, events = slow
    mine = {key: [c for c in each if c["stratum"] == LABELS.index(label)] for key, each in events.items()}
    table = pd.read_parquet(evaluated[0] / "metrics.parquet")
    at = partial(figure, table, halo="", method="solved", cut="", at=[size, "scattered", label])
    tiled = [c for each in mine.values() for c in each if c["tiled"]]
    for level, least in (("all", 1e-9), ("5ke", 5000.0)):
        ratio = np.array([c["charge"] / c["collected"] for c in tiled if c["truth"] >= least])
        assert len(ratio) > 50
        for name, some in (("true", ratio), ("true, with charge", ratio[ratio > 0])):
            low, middle, high = np.quantile(some, [0.16, 0.5, 0.84])
            got = at(level=level, metric=f"charge_bias (voxel, {name})")
            assert got["value"] == pytest.approx(middle - 1, abs=0.012)
            assert got["low"] <= got["value"] <= got["high"]
            half = (high - low) / 2
            assert at(level=level, metric=f"charge_half_width (voxel, {name})")["value"] == pytest.approx(
                half, abs=0.012
            )
            found = at(level=level, metric=f"charge_resolution (voxel, {name})")["value"]
            assert found == pytest.approx(half / middle, abs=0.03)
    of_events = {
        "all": [(sum(c["charge"] for c in e if c["tiled"]), sum(c["collected"] for c in e)) for e in mine.values()],
        "true": [
            [sum(c[name] for c in e if c["tiled"] and c["truth"] > 0) for name in ("charge", "collected")]
            for e in mine.values()
        ],
    }
    for name, sums in of_events.items():
        ratio = np.array([estimate / reference for estimate, reference in sums if reference > 0])
        assert len(ratio) == len(events)
        got = at(level="all", metric=f"charge_bias (event, {name})")["value"]
        middle = np.sort(ratio)[(len(ratio) - 1) // 2 : len(ratio) // 2 + 1]
        assert middle[0] - 0.025 <= 1 + got <= middle[-1] + 0.025
    off = sum(abs(c["charge"] - c["collected"]) for c in tiled) / sum(c["collected"] for c in tiled)
    assert at(level="all", metric="charge_off")["value"] == pytest.approx(off, rel=1e-5)
    weights = EventWeights(40)
    held = sum(weights.of(key) * sum(c["charge"] for c in each if c["tiled"]) for key, each in mine.items())
    whole = sum(weights.of(key) * sum(c["collected"] for c in each) for key, each in mine.items())
    row = at(level="all", metric="charge_total")
    assert row[["value", "low", "high"]].astype(float).tolist() == pytest.approx(
        [held[0] / whole[0], *interval(held / whole)], rel=1e-5
    )


def test_scores_of_a_stratum(slow, evaluated):
    size, events = slow
    table = pd.read_parquet(evaluated[0] / "metrics.parquet")
    for number, label in enumerate(LABELS):
        mine = [c for each in events.values() for c in each if c["stratum"] == number]
        for level, least in (("all", 1e-9), ("5ke", 5000.0)):
            at = partial(figure, table, level, "ghosts", "net", "0.5", at=[size, "scattered", label])
            kept = [c for c in mine if c["tiled"] and c["net"] >= 0.5]
            true = [c for c in mine if c["truth"] >= least]
            both = [c for c in kept if c["truth"] >= least]
            assert at("purity")["value"] == pytest.approx(len(both) / len(kept))
            assert at("efficiency")["value"] == pytest.approx(len(both) / sum(c["tiled"] for c in true))
            assert at("efficiency_all")["value"] == pytest.approx(len(both) / len(true))
            whole = sum(c["truth"] for c in true)
            assert at("efficiency_all_charge")["value"] == pytest.approx(
                sum(c["truth"] for c in both) / whole, rel=1e-5
            )
            assert at("efficiency_all")["value"] <= 1


def test_strata_of_the_charges_are_on_the_page_and_in_the_summary(evaluated):
    folder, summary = evaluated
    table = pd.read_parquet(folder / "metrics.parquet")
    saved = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for name in ("solved", "mean_of_planes"):
        of_kind = saved["charges"][name]["strata"]
        assert list(of_kind) == ["scattered"]
        assert list(of_kind["scattered"]) == LABELS
        row = figure(table, "all", "", name, "", "charge_bias (voxel, true)", ["1,1,1", "scattered", "third"])
        assert of_kind["scattered"]["third"]["charge_bias (voxel, true)"] == pytest.approx(row["value"])
        key = "charge_bias (voxel, true)_interval"
        assert of_kind["scattered"]["third"][key] == pytest.approx([row["low"], row["high"]])
    assert "never" not in set(table["stratum"])
    text = (folder / "evaluate.html").read_text(encoding="utf-8")
    assert "<summary>Charge at coarser voxels</summary>" in text
    assert "<summary>16 × 8 × 8 voxels taken as one</summary>" in text
    value = summary["charges"]["solved"]["strata"]["scattered"]["first"]["charge_bias (voxel, true, with charge)"]
    assert f"{value:.3f}".replace("-", "−") in text


def test_strata_add_up_to_everything(path):
    """Every voxel in one stratum: what is in all strata together is what is in the whole."""
    store = larstore.open(path)
    kinds = prediction_kinds(store, ["solved"])
    found = Collector(kinds, truth_levels("electrons"), EventWeights(5), [COARSE], Strata(store, ["tpc", "occupancy"]))
    for image in store.select():
        found.add(image)
    found.finish()
    for grain in found.grains:
        (whole, parts) = (grain.charges["network"], grain.stratum_charges["network"])
        ratios, events, totals = parts.sums
        for kind in ("tpc", "occupancy"):
            rows = [i for i, label in enumerate(parts.labels) if label[0] == kind]
            assert totals[:, rows].sum(axis=1) == pytest.approx(whole.totals.sums)
            assert ratios[:, rows].sum(axis=(1, 3)) == pytest.approx(whole.ratios.sums[:, :, 0].sum(axis=(2, 3)))
            assert (events[:, rows].sum(axis=(1, 3)) >= whole.events.sums.sum(axis=2)).all()  # one event in several


def test_parts_add_up_with_strata(path):
    store = larstore.open(path)
    kinds = prediction_kinds(store, ["net", "solved"])

    def collect(files):
        found = Collector(kinds, truth_levels("electrons"), EventWeights(10, 3), [COARSE], Scattered())
        for image in store.select(files=files):
            found.add(image)
        return found

    whole, first, second = collect((0, 2)), collect((0, 0)), collect((1, 2))
    whole.finish()
    first.merge(pickle.loads(pickle.dumps(second)))  # noqa: S301 - as from a worker
    expected, found = merits_of(whole), merits_of(first)
    assert list(expected) == list(found)
    assert sum(key[0] != "1,1,1" and key[1] == "scattered" and key[5] == "solved" for key in expected) > 50
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-9, atol=1e-12)


def test_images_that_do_not_tell_what_is_collected_are_counted(path, tmp_path):
    store = make_store(tmp_path / "run.zarr", n_files=1, truth_columns=("collected",))
    charge = lambda image: 0.8 * np.nan_to_num(image.truth if image.truth is not None else 0)  # noqa: E731
    write(store, "solved", charge, output="charge")
    alone = evaluate(store, "solved", tmp_path / "alone", bootstrap=0)
    assert alone["images_without_collected"] == 0
    more = make_store(tmp_path / "more.zarr", n_files=1, truth_columns=("collected",))
    add_images(more, [make_image(7), make_image(8), make_image(9, truth=False)])
    write(more, "solved", lambda i: charge(i) * np.ones(len(i)), output="charge")
    both = evaluate(more, "solved", tmp_path / "both", bootstrap=0)
    assert (both["images_without_collected"], both["images_without_truth"]) == (2, 1)
    assert both["charges"] == alone["charges"]
    text = (tmp_path / "both/evaluate.html").read_text(encoding="utf-8")
    assert "2 images with truth do not tell the electrons that reach the wires" in text


def test_coarse_voxels_of_truth_of_tiled_voxels_alone():
    """As of joined TPCs: the tiled voxel with most truth tells, of none the one with the largest charge."""
    coords = np.array([[0, 0, z] for z in range(6)], np.uint16)
    truth = np.array([1, 5, np.nan, 0, 0, 0], np.float32)
    voxels = Voxels(coords, np.ones((6, 3), np.float32), np.full(6, 7, np.uint8), truth, None, {}, {})
    codes, none = {"k": np.arange(6, dtype=np.int16)}, {"k": np.zeros(0, np.int16)}
    found, true = coarse_codes(voxels, (1, 1, 3), np.array([9, 1, 9, 2, 4, 4.0]), codes, none)
    assert found["k"].tolist() == [1, 4]
    assert true["k"].tolist() == []
