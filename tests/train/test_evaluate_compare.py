"""`evaluate` of several predictions, charges, halo, coarser voxels and strata; its intervals, tables and figures."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.testing import make_store
from train import cli
from train.results.collecting import Collector
from train.results.evaluation import evaluate
from train.results.merits import merits_of
from train.results.prediction_kinds import Kind, prediction_kinds
from train.results.sp_area import SpCurve, area
from train.results.tallies import EventWeights
from train.results.voxel_classes import touches, truth_levels

FULL = ["1,1,1", "", "all"]


def write(path, name, score, **about):
    selection = larstore.open(path).select()
    with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "b" * 64} | about) as writer:
        for shard, images in writer.groups(selection):
            writer.write(shard, [(image, np.asarray(score(image), np.float32)) for image in images])
        writer.commit()


def noisy(seed, signal):
    def score(image):
        rng = np.random.default_rng([seed, *image.key])
        return 1 / (1 + np.exp(2 - signal * (image.truth > 0) - rng.standard_normal(len(image))))

    return score


def learned(image):
    return 3e-5 * 0.9 * np.where(image.truth > 0, image.collected, image.charge.mean(axis=1))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    store = make_store(
        tmp_path_factory.mktemp("compare") / "run.zarr",
        n_files=4,
        n_events=3,
        tpcs=(1, 5),
        n_voxels=200,
        truth_columns=("collected",),
    )
    write(store, "good", noisy(1, 4.0), output="score")
    write(store, "bad", noisy(2, 2.0), output="score")
    data = {"scale": [3e-5, 3e-5], "truth": "collected"}
    write(store, "net", noisy(3, 4.0), output="score", checkpoint_sha256="c" * 64)
    write(store, "net-charge", learned, output="charge", checkpoint_sha256="c" * 64, config={"data": data})
    write(store, "solved", lambda image: np.where(image.truth > 0, 0.8 * image.collected, 0), output="charge")
    return store


@pytest.fixture(scope="module")
def compared(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    names = ["good", "bad", "net-charge", "solved"]
    summary = evaluate(path, names, folder, coarsen=[(4, 4, 4)], bootstrap=60, seed=1)
    return folder, summary


def figure(table, level, halo, method, cut, metric, at=FULL):
    rows = table
    columns = ("voxels", "stratum_kind", "stratum", "level", "halo", "method", "cut", "metric")
    for column, value in zip(columns, (*at, level, halo, method, cut, metric), strict=True):
        rows = rows[rows[column].astype(object).where(rows[column].notna(), "").astype(str) == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def test_figures_are_those_of_all_voxels(path, compared):
    folder, summary = compared
    table = pd.read_parquet(folder / "metrics.parquet")
    images = list(larstore.open(path).select())
    score = np.concatenate([image.score("good") for image in images])
    truth = np.concatenate([image.truth for image in images])
    every = np.concatenate([image.truth_voxels[1] for image in images])
    planes = [np.where((i.live[:, None] >> np.arange(3)) & 1, i.charge, 0).sum(1) for i in images]
    n_live = [((i.live[:, None] >> np.arange(3)) & 1).sum(1) for i in images]
    plane = np.maximum(np.concatenate(planes) / np.concatenate(n_live), 0)
    kept = score >= 0.5
    for level, least in (("all", 1e-9), ("5ke", 5000.0)):
        true = truth >= least
        halo = np.concatenate(
            [touches(i.coords, i.truth_voxels[0][i.truth_voxels[1] >= least]) & (i.truth < least) for i in images]
        )
        assert halo.any()
        for name, chosen in (("ghosts", np.ones(len(true), bool)), ("left out", ~halo)):

            def at(metric, name=name, level=level):
                return figure(table, level, name, "good", "0.5", metric)["value"]

            both = kept & true
            assert at("purity") == pytest.approx(both.sum() / (kept & chosen).sum())
            assert at("purity_charge") == pytest.approx(plane[both].sum() / plane[kept & chosen].sum(), rel=1e-5)
            assert at("efficiency") == pytest.approx(both.sum() / true.sum())
            assert at("efficiency_charge") == pytest.approx(truth[both].sum() / truth[true].sum(), rel=1e-5)
            assert at("efficiency_all") == pytest.approx(both.sum() / (every >= least).sum())
            whole = every[every >= least].sum()
            assert at("efficiency_all_charge") == pytest.approx(truth[both].sum() / whole, rel=1e-5)
            assert at("iou") == pytest.approx(both.sum() / ((kept | true) & chosen).sum())
    whole = figure(table, "all", "ghosts", "good", "", "average_precision")
    assert whole["value"] == pytest.approx(summary["average_precision"])
    assert whole["low"] < whole["value"] < whole["high"]
    assert summary["methods"]["good"]["average_precision_interval"] == [whole["low"], whole["high"]]
    purity, left_out = (figure(table, "all", h, "no_cut", "", "average_precision") for h in ("ghosts", "left out"))
    assert left_out["value"] > purity["value"]


def test_events_hold_all_their_tpcs(compared):
    _, summary = compared
    assert (summary["images"], summary["events"]) == (24, 12)


def test_intervals_are_of_the_seed_and_none_without_replicas(path, compared, tmp_path):
    _, summary = compared
    again = evaluate(path, "good", tmp_path / "a", bootstrap=60, seed=1, figures=False)
    other = evaluate(path, "good", tmp_path / "b", bootstrap=60, seed=2, figures=False)
    without = evaluate(path, "good", tmp_path / "c", bootstrap=0, figures=False)
    key = "average_precision_interval"
    assert again["methods"]["network"][key] == summary["methods"]["good"][key]
    assert other["methods"]["network"][key] != summary["methods"]["good"][key]
    assert key not in without["methods"]["network"]
    assert without["average_precision"] == again["average_precision"]
    assert "--bootstrap 0" in (tmp_path / "c/evaluate.html").read_text(encoding="utf-8")
    assert not (tmp_path / "c/figures").exists()


def test_paired_differences(compared):
    folder, summary = compared
    table = pd.read_csv(folder / "differences.csv")
    pairs = set(zip(table["method"], table["than"], strict=True))
    assert {("good", "bad"), ("good", "no_cut"), ("net-charge", "solved"), ("solved", "mean_of_planes")} <= pairs
    assert not {("bad", "good"), ("no_cut", "plane_agreement")} & pairs
    rows = table[(table["method"] == "good") & (table["than"] == "bad") & (table["metric"] == "average_precision")]
    row = rows[(rows["voxels"] == "1,1,1") & (rows["level"] == "all") & (rows["halo"] == "ghosts")].iloc[0]
    expected = summary["average_precision"] - summary["average_precision_bad"]
    assert row["difference"] == pytest.approx(expected, abs=1e-5)
    assert 0 < row["low"] < row["difference"] < row["high"]


def test_charges_are_in_electrons_and_compared_with_what_they_were_made_for(path, compared):
    folder, summary = compared
    about = summary["predictions"]["net-charge"]
    assert about == {"name": "net-charge", "output": "charge", "scale": 3e-5, "reference": "collected"}
    found, solved = summary["charges"]["net-charge"], summary["charges"]["solved"]
    assert found["charge_bias (voxel, true)"] == pytest.approx(-0.1, abs=0.01)
    assert found["charge_half_width (voxel, true)"] < 0.02
    assert solved["charge_bias (voxel, true)"] == pytest.approx(-0.2, abs=0.01)
    images = list(larstore.open(path).select())
    every = sum(image.truth_columns["collected"].sum() for image in images)
    tiled = sum(image.collected.sum() for image in images)
    assert solved["charge_total"] == pytest.approx(0.8 * tiled / every, rel=1e-4)
    assert solved["charge_off"] == pytest.approx(0.2, rel=1e-4)
    # A network's charge counts where its score says that there is one.
    held = sum(learned(i)[i.score("net") >= 0.5].sum() / 3e-5 for i in images)
    assert found["charge_total"] == pytest.approx(held / every, rel=1e-3)
    low, high = solved["charge_bias (event, all)_interval"]
    assert low <= solved["charge_bias (event, all)"] <= high
    assert solved["charge_bias (event, true)"] == pytest.approx(-0.2, abs=0.01)
    table = pd.read_csv(folder / "charges.csv")
    mine = table[(table["method"] == "solved") & (table["level"] == "all") & (table["voxels"] == "true")]
    assert mine["n"].sum() == sum((image.truth > 0).sum() for image in images)
    assert mine["bias"].to_numpy() == pytest.approx(-0.2, abs=0.01)
    assert summary["methods"]["solved"]["best_threshold"] > 0
    assert summary["methods"]["solved"]["average_precision"] == pytest.approx(1.0)
    assert "sp_area" not in summary["methods"]["solved"]


def test_coarser_voxels_and_their_halo(path, compared):
    folder, summary = compared
    table = pd.read_csv(folder / "metrics.csv")
    assert summary["voxel_sizes"] == ["1,1,1", "4,4,4"]
    images = list(larstore.open(path).select())
    true = total = 0
    for image in images:
        cells = {tuple(p) for p in (image.coords // 4).tolist()}
        of_truth = {tuple(p) for p in (image.truth_voxels[0] // 4).tolist()}
        true, total = true + len(cells & of_truth), total + len(cells)
    found = figure(table, "all", "ghosts", "no_cut", "", "average_precision", ["4,4,4", "", "all"])
    assert found["value"] == pytest.approx(true / total, rel=1e-5)


def test_files(compared):
    folder, _ = compared
    for name in ("images", "curves", "mean_curves", "metrics", "differences", "reliability", "charges"):
        text, exact = pd.read_csv(folder / f"{name}.csv"), pd.read_parquet(folder / f"{name}.parquet")
        assert list(text.columns) == list(exact.columns)
        assert len(text) == len(exact) > 0
    figures = {"scores", "curves", "average_precision", "reliability", "charge_bias", "charge_half_width"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{end}" for name in figures for end in ("png", "svg")
    }
    assert (folder / "figures/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "AP 0." in (folder / "figures/curves.svg").read_text(encoding="utf-8")
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["bootstrap"] == 60
    page = (folder / "evaluate.html").read_text(encoding="utf-8")
    for text in (
        "good",
        "net-charge",
        "Differences, event by event",
        "Is the score a probability",
        "mean of the planes",
    ):
        assert text in page
    assert "src=" not in page.replace("<script>", "").partition("<body>")[2], "opens without a network"


def test_strata_get_the_same_figures(path, tmp_path):
    class ByTpc:
        labels = {"TPC": ["1", "5"], "none": ["never"]}  # noqa: RUF012

        def codes(self, image):
            n = len(image)
            return {"TPC": np.full(n, [1, 5].index(image.key[2])), "none": np.full(n, -1)}

        def true_codes(self, image):
            n = len(image.truth_voxels[0])
            return {"TPC": np.full(n, [1, 5].index(image.key[2])), "none": np.full(n, -1)}

    evaluate(path, "good", tmp_path, bootstrap=20, strata=ByTpc(), figures=False)
    table = pd.read_csv(tmp_path / "metrics.csv")
    images = [image for image in larstore.open(path).select() if image.key[2] == 5]
    kept = np.concatenate([image.score("good") for image in images]) >= 0.5
    true = np.concatenate([image.truth for image in images]) > 0
    found = figure(table, "all", "ghosts", "network", "0.5", "purity", ["1,1,1", "TPC", "5"])
    assert found["value"] == pytest.approx((true & kept).sum() / kept.sum(), rel=1e-5)
    found = figure(table, "5ke", "ghosts", "network", "0.5", "efficiency_all_charge", ["1,1,1", "TPC", "5"])
    truth = np.concatenate([image.truth for image in images])
    every = np.concatenate([image.truth_voxels[1] for image in images])
    assert found["value"] == pytest.approx(truth[kept & (truth >= 5000)].sum() / every[every >= 5000].sum(), rel=1e-5)
    assert "never" not in set(table["stratum"])
    assert "By TPC" in (tmp_path / "evaluate.html").read_text(encoding="utf-8")


def test_parts_of_a_store_add_up_to_the_whole(path):
    store = larstore.open(path)
    kinds = prediction_kinds(store, ["good", "net-charge"])

    def collect(files):
        found = Collector(kinds, truth_levels("electrons"), EventWeights(10, 3), [(2, 2, 2)])
        for image in store.select(files=files):
            found.add(image)
        return found

    whole, first, second = collect((0, 3)), collect((0, 1)), collect((2, 3))
    whole.finish()
    first.merge(pickle.loads(pickle.dumps(second)))  # noqa: S301 - as from a worker
    expected, found = merits_of(whole), merits_of(first)
    assert list(expected) == list(found)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(first.images(), whole.images())
    assert (first.n_events, first.n_truth_voxels) == (whole.n_events, whole.n_truth_voxels)
    with pytest.raises(ConfigError, match="Fix: the same predictions and settings"):
        first.merge(Collector(kinds, truth_levels("electrons"), EventWeights(10, 3)))


def test_mean_curves_have_the_area_of_the_summary(path, compared):
    folder, summary = compared
    table = pd.read_parquet(folder / "mean_curves.parquet")
    assert set(table["method"]) == {"good", "bad", "no_cut", "plane_agreement"}
    rows = table[table["method"] == "good"]
    assert rows["threshold"].to_numpy() == pytest.approx(0.02 * np.arange(50))
    found = area(rows["efficiency"].to_numpy(), rows["purity"].to_numpy())
    assert summary["methods"]["good"]["sp_area"] == pytest.approx(found)
    curve = SpCurve()
    for image in larstore.open(path).select():
        curve.add(image.score("good"), image.truth)
    assert found == pytest.approx(curve.area)
    low, high = summary["methods"]["good"]["sp_area_interval"]
    assert low < found < high
    assert (rows["purity_low"] <= rows["purity_high"]).all()


def test_what_is_refused(path, tmp_path):
    with pytest.raises(
        StoreError, match=r"no prediction 'x'. Fix: one of those there are \(bad, good, net, net-charge"
    ):
        evaluate(path, ["good", "x"], tmp_path)
    with pytest.raises(StoreError, match=r"good, good\. Fix: at least one, each once"):
        evaluate(path, ["good", "good"], tmp_path)
    with pytest.raises(StoreError, match="at least one"):
        evaluate(path, [], tmp_path)
    with pytest.raises(ConfigError, match="coarsen 1,1,1: Fix"):
        evaluate(path, "good", tmp_path, coarsen=[(1, 1, 1)])


def test_a_calibrated_charge_is_in_electrons_of_what_it_was_calibrated_to(path):
    knots = {"estimate": [0.0, 1e5], "charge": [0.0, 1.2e5]}
    about = {"calibrated": "net-charge", "calibrated_sha256": "c" * 64, "calibration": {"truth": "truth", **knots}}
    write(path, "calibrated", learned, output="charge", **about)
    (kind,) = prediction_kinds(larstore.open(path), ["calibrated"])
    assert kind == Kind("calibrated", True, 1.0, "truth", "net")


def test_charges_without_one_unit_are_refused(tmp_path):
    store = make_store(tmp_path / "run.zarr")
    write(store, "mixed", lambda i: i.truth, output="charge", config={"data": {"scale": [1.0, 3e-5]}})
    write(store, "collected", lambda i: i.truth, output="charge", config={"data": {"truth": "collected"}})
    with pytest.raises(StoreError, match=r"'mixed' was trained with data\.scale \[1\.0, 3e-05\].* Fix: train with one"):
        evaluate(store, "mixed", tmp_path / "out")
    with pytest.raises(StoreError, match="of collected electrons, which this store does not know"):
        evaluate(store, "collected", tmp_path / "out")


def test_command_line(path, tmp_path):
    app = typer.Typer()
    app.command()(cli.evaluate)
    words = [str(path), "--prediction", "good", "--prediction", "bad", "-o", str(tmp_path), "--files", "0:1"]
    done = CliRunner().invoke(
        app, [*words, "--coarsen", "2,2,2", "--bootstrap", "10", "--seed", "3", "--strata", "tpc"]
    )
    assert done.exit_code == 0, done.output
    assert "images\t12\n" in done.stdout
    assert set(pd.read_csv(tmp_path / "metrics.csv").query("stratum != 'all'")["stratum"]) == {"TPC 1", "TPC 5"}
    assert "average_precision\t" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert (summary["bootstrap"], summary["seed"], summary["voxel_sizes"]) == (10, 3, ["1,1,1", "2,2,2"])
    assert list(summary["predictions"]) == ["good", "bad"]
    assert CliRunner().invoke(app, [*words, "--coarsen", "a"]).exit_code == 2
    assert CliRunner().invoke(app, [*words, "--bootstrap", "-1"]).exit_code == 2


def test_one_charge_alone(path, tmp_path):
    summary = evaluate(path, "solved", tmp_path, bootstrap=5, figures=False)
    images = list(larstore.open(path).select())
    score = np.concatenate([image.score("solved") for image in images])
    assert [row["threshold"] for row in summary["kept"]][:3] == [1.0, 500.0, 1000.0]
    assert [row["kept"] for row in summary["kept"]] == [
        int((score >= row["threshold"]).sum()) for row in summary["kept"]
    ]
    assert pd.read_csv(tmp_path / "images.csv")["kept"].sum() == (score > 0).sum()
    assert list(summary["charges"]) == ["network", "mean_of_planes"]
    page = (tmp_path / "evaluate.html").read_text(encoding="utf-8")
    assert "against the electrons of the column collected" in page
