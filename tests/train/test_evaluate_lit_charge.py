"""Charge of the wires that kept voxels explain, on images without truth: equal to a walk over voxels and wires."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import larstore
from larstore.testing import add_images, make_geometry, make_image, make_store
from preprocess.detector.model import Detector
from tests.train.small_planes import STEP, simulated, small_tpc
from tests.train.test_evaluate import predict
from train.results.display.projections import plane_images
from train.results.evaluation import evaluate as evaluate_all
from train.results.lit_charge import FRACTIONS
from train.results.wire_shares import plane_wires, voxel_shares

evaluate = partial(evaluate_all, figures=False, bootstrap=20)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three events without truth, and a score of true and false voxels in steps of 0.1."""
    tpc, path = small_tpc(), tmp_path_factory.mktemp("lit") / "run.zarr"
    geometry = Detector("square", {1: tpc}).geometry()
    larstore.create(path, geometry=geometry, downsample=STEP, provenance={}, shard_rows=4096, chunk_rows=256)
    images = [simulated(tpc, file, tracks=6, bad=tpc.planes[2].column[40:44].tolist()) for file in range(3)]
    for image in images:
        add_images(path, [replace(image, truth=None, truth_coords=None, truth_value=None, truth_columns={})])
    rng = np.random.default_rng(1)

    def score(image):
        return (0.45 * (images[image.key[0]].truth > 0) + 0.5 * rng.random(len(image)) + 0.02).round(1)

    return predict(path, score=score)


def walked(selection):
    """Of each plane (charge, best score, voxels on it) of all its wires in all slices, voxel by voxel."""
    found = defaultdict(list)
    for image in selection:
        frame = image.store.geometry.tpcs[1]
        shares = voxel_shares(plane_wires(image.store.geometry, 1), frame, STEP, image.coords)
        score = image.score("net")
        for plane, share in zip(plane_images(image, image.coords, 1), shares, strict=True):
            touching, dense = defaultdict(list), share.toarray()
            for voxel, x in enumerate(image.coords[:, 0].tolist()):
                for column in np.flatnonzero(dense[voxel]).tolist():
                    touching[x, column].append(float(score[voxel]))
            charges = zip(plane.x.tolist(), plane.column.tolist(), plane.charge.tolist(), strict=True)
            for x, column, charge in charges:
                scores = touching[x, column]
                found[plane.name].append((max(charge, 0.0), max(scores), len(scores)))
    return found


def test_explained_charge_equals_a_walk_over_wires(store, tmp_path):
    summary = evaluate(store, "net", tmp_path)
    table = pd.read_parquet(tmp_path / "lit_charge.parquet")
    selection = larstore.open(store).select()
    score = np.concatenate([image.score("net") for image in selection])
    wires = walked(selection)
    assert list(wires) == ["u", "v", "w"]
    for plane, of_plane in wires.items():
        charge, best, many = (np.array(column) for column in zip(*of_plane, strict=True))
        rows = table[(table["method"] == "network") & (table["plane"] == plane)]
        assert len(rows) == len(np.unique(score))
        for row in rows.itertuples():
            cut = row.threshold - 1e-3  # which is an edge of bins, in another precision
            assert row.kept == pytest.approx((score >= cut).mean())
            assert row.explained == pytest.approx(charge[best >= cut].sum() / charge.sum())
            assert row.low <= row.explained + 1e-9
        chance = table[(table["method"] == "chance") & (table["plane"] == plane)]
        np.testing.assert_allclose(chance["kept"], FRACTIONS)
        expected = [(charge * (1 - (1 - part) ** many)).sum() / charge.sum() for part in FRACTIONS]
        np.testing.assert_allclose(chance["explained"], expected)
    told = summary["lit_charge"]
    assert (told["images"], told["missing"]) == (3, None)
    net, chance = (np.array(list(told["explained"][name].values())) for name in ("network", "chance"))
    assert net.shape == (3, 3)
    assert (net[:, 1] > 0.25).all()
    assert (net[:, 1] > chance[:, 1]).all()
    page = (tmp_path / "evaluate.html").read_text(encoding="utf-8")
    assert "Charge of the wires that the kept voxels explain" in page
    assert "Plane w, of 3 images without truth." in page


def test_figures_for_slides(store, tmp_path):
    evaluate_all(store, "net", tmp_path, bootstrap=0)
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {f"lit_charge_{plane}.{kind}" for plane in "uvw" for kind in ("png", "svg")} < written


def test_images_with_truth_are_not_looked_at(tmp_path):
    summary = evaluate(predict(make_store(tmp_path / "run.zarr", n_voxels=200)), "net", tmp_path / "out")
    assert "lit_charge" not in summary
    assert not len(pd.read_parquet(tmp_path / "out" / "lit_charge.parquet"))


def test_what_cannot_be_told_is_said(tmp_path):
    """No wires in the geometry."""
    path = tmp_path / "run.zarr"
    geometry = make_geometry((1,))
    geometry = replace(geometry, wires={name: column[:0] for name, column in geometry.wires.items()})
    larstore.create(path, geometry=geometry, provenance={})
    add_images(path, [make_image(0, 0, 1, 200, truth=False)])
    summary = evaluate(predict(path), "net", tmp_path / "out")
    assert summary["lit_charge"]["images"] == 0
    assert summary["lit_charge"]["missing"].startswith("geometry/: no wires of plane u of TPC 1")
    assert "It cannot be told: geometry/: no wires" in (tmp_path / "out" / "evaluate.html").read_text(encoding="utf-8")
    json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
