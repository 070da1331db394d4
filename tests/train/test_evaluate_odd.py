"""`evaluate` of stores that are odd but legal: truth known in part, no true voxel, settings beyond any store."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import larstore
from larstore.errors import ConfigError
from larstore.testing import add_images, make_image, make_store
from train.results.evaluation import evaluate as evaluate_all
from train.results.prediction_kinds import prediction_kinds

evaluate = partial(evaluate_all, figures=False, bootstrap=5)


def write(path, name, score, **about):
    selection = larstore.open(path).select()
    with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "d" * 64} | about) as writer:
        for shard, images in writer.groups(selection):
            writer.write(shard, [(image, np.asarray(score(image), np.float32)) for image in images])
        writer.commit()
    return path


def rising(image):
    return np.arange(len(image)) / max(len(image), 1)


def test_of_truth_of_tiled_voxels_alone_no_efficiency_of_all_is_given(tmp_path):
    store = make_store(tmp_path / "run.zarr", n_files=1, n_events=1)
    image = make_image(5)
    truth = image.truth.copy()
    truth[::2] = np.nan  # as of joined TPCs of which one has no truth
    add_images(store, [replace(image, truth=truth, truth_coords=None, truth_value=None)])
    write(store, "net", rising)
    write(store, "charge", lambda image: image.charge.mean(axis=1), output="charge")
    summary = evaluate(store, ["net", "charge"], tmp_path)
    assert (summary["images_without_truth"], summary["images_untiled_unknown"]) == (0, 1)
    assert summary["voxels_true"] == 30 + (truth > 0).sum()
    assert np.isnan([summary["tiling_efficiency"], summary["methods"]["net"]["best_efficiency_all"]]).all()
    table = pd.read_parquet(tmp_path / "metrics.parquet")
    assert {"efficiency", "charge_off"} <= set(table["metric"])
    assert not {"efficiency_all", "efficiency_all_charge", "charge_total"} & set(table["metric"])
    assert "Of 1 images only the truth of tiled voxels" in (tmp_path / "evaluate.html").read_text(encoding="utf-8")
    alone = evaluate(store, "net", tmp_path, files=(0, 0))
    assert alone["tiling_efficiency"] == pytest.approx(30 / 33)


@pytest.mark.parametrize("columns", [(), ("collected",)])
def test_charge_where_the_truth_is_not_known_is_in_no_figure(tmp_path, columns):
    store = make_store(tmp_path / "run.zarr", n_files=0, truth_columns=columns)
    image = make_image(5, truth_columns=columns)
    truth = image.truth.copy()
    truth[np.flatnonzero(truth == 0)[:20]] = np.nan  # bridged
    add_images(store, [replace(image, truth=truth)])
    known = "collected" if columns else "truth"
    write(store, "all", lambda i: np.where(np.isnan(i.truth), 1e5, getattr(i, known)), output="charge")
    figures = evaluate(store, "all", tmp_path)["charges"]["network"]
    assert figures["charge_off"] == 0
    assert figures["charge_total"] == pytest.approx(truth[truth > 0].sum() / image.truth_value.sum())


def test_coarser_voxels_keep_the_charge_that_was_kept(tmp_path):
    store = make_store(tmp_path / "run.zarr", n_voxels=400)
    write(store, "net", lambda image: 0.9 * (image.truth > 0), output="score")
    about = {"output": "charge", "config": {"data": {"scale": [0.5]}}}
    write(store, "net-charge", lambda image: np.where(image.truth > 0, 0.5 * image.truth, 2e4), **about)
    evaluate(store, "net-charge", tmp_path, coarsen=[(40, 16, 16)])
    table = pd.read_parquet(tmp_path / "metrics.parquet")
    full, coarse = table[(table["metric"] == "charge_total") & (table["method"] == "network")]["value"]
    assert full == pytest.approx(coarse)
    assert 0.85 < full < 1
    biases = table[(table["metric"] == "charge_bias (voxel, true)") & (table["method"] == "network")]
    assert set(biases["voxels"]) == {"1,1,1", "40,16,16"}
    assert biases["value"].to_numpy() == pytest.approx([0] * 4, abs=0.1), "nothing of the ghosts beside them"


@pytest.mark.parametrize("n_voxels", [0, 1, 100])
def test_no_true_voxel_is_no_error(tmp_path, n_voxels):
    store = write(make_store(tmp_path / "run.zarr", n_files=1, n_voxels=n_voxels), "net", rising)
    summary = evaluate_all(store, "net", tmp_path, bootstrap=5, truth_threshold=1e9, coarsen=[(2, 2, 2)])
    assert summary["voxels_true"] == 0
    assert summary["voxels_ghost"] == 2 * n_voxels
    assert np.isnan(summary["methods"]["network"]["best_threshold"])
    assert (tmp_path / "evaluate.html").stat().st_size > 1000


def test_settings_beyond_any_store_are_refused(tmp_path):
    store = write(make_store(tmp_path / "run.zarr", n_files=1), "net", rising)
    for threshold in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"truth_threshold = .*\. Fix: a number from 0 up"):
            evaluate(store, "net", tmp_path, truth_threshold=threshold)
    with pytest.raises(ConfigError, match=r"coarsen 70000,1,1: Fix: .* up to 65,535"):
        evaluate(store, "net", tmp_path, coarsen=[(70_000, 1, 1)])
    with pytest.raises(ConfigError, match=r"seed = .*Fix: a number below 2\^128"):
        evaluate(store, "net", tmp_path, seed=1 << 128)


def test_one_kind_of_strata_and_one_scale_need_no_list(tmp_path):
    store = make_store(tmp_path / "run.zarr", n_files=1)
    write(store, "net", rising)
    assert list(evaluate(store, "net", tmp_path, strata="tpc")["strata"]) == ["tpc"]
    write(store, "charge", rising, output="charge", config={"data": {"scale": 0.5}})
    assert prediction_kinds(larstore.open(store), ["charge"])[0].scale == 0.5
