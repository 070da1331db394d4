"""`evaluate` on small stores: figures, files, what is left out, what is refused."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

import larstore
from larstore.errors import StoreError
from larstore.testing import add_images, make_image, make_store
from train.results.curves import ScoreCounts
from train.results.evaluation import evaluate as evaluate_all
from train.results.evaluation import read_images

evaluate = partial(evaluate_all, figures=False, bootstrap=20)  # test_evaluate_compare.py has these


def predict(path, name="net", files=None, score=None):
    """Write a prediction; by default one that follows the truth, with noise."""
    rng = np.random.default_rng(0)
    selection = larstore.open(path).select(files=files)
    with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "a" * 64}) as writer:
        for shard, images in writer.groups(selection):
            scores = []
            for image in images:
                signal = 0 if image.truth is None else 2.0 * (image.truth > 0)
                noisy = 1 / (1 + np.exp(-signal - rng.standard_normal(len(image))))
                scores.append((image, (noisy if score is None else score(image)).astype(np.float32)))
            writer.write(shard, scores)
        writer.commit()
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return predict(make_store(tmp_path_factory.mktemp("evaluate") / "run.zarr", n_voxels=400))


def test_figures_are_those_of_all_voxels_at_once(store, tmp_path):
    summary = evaluate(store, "net", tmp_path, max_voxels=500)
    images = list(larstore.open(store).select())
    score = np.concatenate([image.score("net") for image in images])
    true = np.concatenate([image.truth for image in images]) > 0
    counts = ScoreCounts()
    counts.add(score, true.astype(np.uint8))
    assert summary["average_precision"] == counts.curve().average_precision
    assert summary["purity_after_tiling"] == pytest.approx(true.mean())
    assert summary["average_precision_no_cut"] == pytest.approx(true.mean())
    assert summary["voxels"] == 1600
    n_truth = sum(len(image.truth_voxels[1]) for image in images)
    assert summary["truth_voxels"] == n_truth
    assert summary["tiling_efficiency"] == pytest.approx(true.sum() / n_truth)
    half = next(row for row in summary["kept"] if row["threshold"] == 0.5)
    assert half["kept"] == (score >= 0.5).sum()
    assert half["purity"] == pytest.approx(true[score >= 0.5].mean())
    assert half["efficiency"] == pytest.approx((true & (score >= 0.5)).sum() / true.sum())
    assert half["efficiency_all"] == pytest.approx((true & (score >= 0.5)).sum() / n_truth)
    best = summary["methods"]["network"]
    kept = score >= np.float32(best["best_threshold"])
    assert best["best_purity"] == pytest.approx(true[kept].mean())
    assert best["best_efficiency_all"] == pytest.approx(true[kept].sum() / n_truth)
    assert sum(summary["histogram"]["true"]) == true.sum()
    assert summary["average_precision"] > summary["average_precision_no_cut"] + 0.1


def test_files_that_are_written(store, tmp_path):
    summary = evaluate(store, "net", tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(summary))
    images = pd.read_csv(tmp_path / "images.csv")
    assert images[["file", "event", "tpc"]].to_numpy().tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert images["true_tiled"].sum() == summary["voxels_true"]
    assert images["ap_no_cut"].to_numpy() == pytest.approx(
        (images["true_tiled"] / images["voxels"]).to_numpy(), rel=1e-5
    )
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert set(curves["method"]) == set(summary["methods"])
    for _, curve in curves.groupby("method"):
        assert (np.diff(curve["efficiency"]) >= 0).all()
        assert curve["efficiency"].iloc[-1] == 1.0
        assert curve["purity"].iloc[-1] == pytest.approx(summary["purity_after_tiling"], rel=1e-5)
    page = (tmp_path / "evaluate.html").read_text(encoding="utf-8")
    assert f"{summary['average_precision']:.3f}" in page


def test_a_subset_and_a_truth_threshold(store, tmp_path):
    whole = evaluate(store, "net", tmp_path / "a")
    part = evaluate(store, "net", tmp_path / "b", files=(1, 1), tpcs=[1], truth_threshold=10_000.0)
    assert part["images"] == part["images_selected"] == 2
    assert part["voxels_true"] < whole["voxels_true"] / 2
    assert part["tiling_efficiency"] <= 1


def test_images_that_are_not_predicted_are_left_out_and_counted(tmp_path):
    store = predict(make_store(tmp_path / "run.zarr"), files=(0, 0))
    summary = evaluate(store, "net", tmp_path / "out")
    assert (summary["images"], summary["images_not_predicted"]) == (2, 2)
    assert summary["voxels"] == 200
    assert "2 images without a complete prediction" in (tmp_path / "out/evaluate.html").read_text(encoding="utf-8")
    with pytest.raises(StoreError, match=r"covers none of the 2 selected images\. Fix: run larstore infer"):
        evaluate(store, "net", tmp_path / "none", files=(1, 1))


def test_a_store_without_truth_is_no_error(tmp_path):
    store = predict(make_store(tmp_path / "run.zarr", truth=False))
    summary = evaluate(store, "net", tmp_path / "out")
    assert summary["has_truth"] is False
    assert np.isnan(summary["average_precision"])
    assert summary["images_without_truth"] == 4
    assert summary["voxels"] == summary["voxels_unknown"] == 400
    score = np.concatenate([image.score("net") for image in larstore.open(store).select()])
    assert [row["kept"] for row in summary["kept"]] == [
        int((score >= np.float32(row["threshold"])).sum()) for row in summary["kept"]
    ]
    assert sum(summary["histogram"]["unknown"]) == 400
    saved = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert saved["average_precision"] is None
    assert pd.read_csv(tmp_path / "out/curves.csv").empty
    assert "There is no truth in this store" in (tmp_path / "out/evaluate.html").read_text(encoding="utf-8")


def test_images_with_and_without_truth_in_one_store(tmp_path):
    path = make_store(tmp_path / "run.zarr", n_files=1)
    add_images(path, [make_image(7, truth=False), make_image(8, n_voxels=0)])
    summary = evaluate(predict(path), "net", tmp_path / "out")
    assert (summary["images"], summary["images_without_truth"]) == (4, 1)
    assert (summary["voxels_unknown"], summary["voxels"]) == (100, 300)
    assert summary["purity_after_tiling"] == pytest.approx(0.3)


def test_scores_beyond_one_and_all_equal(tmp_path):
    path = make_store(tmp_path / "run.zarr")
    predict(path, "charge", score=lambda image: image.charge.mean(axis=1))
    predict(path, "flat", score=lambda image: np.full(len(image), 2.0))
    charge = evaluate(path, "charge", tmp_path / "a")
    assert charge["histogram"]["edges"][-1] > 1000
    assert sum(charge["histogram"]["true"]) + sum(charge["histogram"]["ghost"]) == charge["voxels"]
    flat = evaluate(path, "flat", tmp_path / "b")
    assert flat["average_precision"] == pytest.approx(flat["purity_after_tiling"])


def test_what_is_refused(store, tmp_path):
    with pytest.raises(StoreError, match=r"no prediction 'nett'. Fix: one of those there are \(net\)"):
        evaluate(store, "nett", tmp_path)
    with pytest.raises(StoreError, match=r"no image in files \(5, 9\)"):
        evaluate(store, "net", tmp_path, files=(5, 9))
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"taken.*Fix: another output directory"):
        evaluate(store, "net", tmp_path / "taken")


def test_images_are_read_within_the_budget(store, monkeypatch):
    selection = larstore.open(store).select()
    asked = []
    read = type(selection).read

    def noted(self, start, stop, prediction=None):
        asked.append((start, stop))
        return read(self, start, stop, prediction)

    monkeypatch.setattr(type(selection), "read", noted)
    assert [image.key for image in read_images(selection, 800)] == [image.key for image in selection]
    assert asked == [(0, 2), (2, 4)]
    asked.clear()
    assert len(list(read_images(selection, 10))) == 4
    assert asked == [(0, 1), (1, 2), (2, 3), (3, 4)]
