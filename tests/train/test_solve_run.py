"""`larstore solve` on a small store of simulated tracks: what it writes, how good it is, what it refuses."""

import shutil

import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.testing import add_images, make_geometry, make_store
from preprocess.detector.model import Detector
from tests.train.small_planes import STEP, simulated, small_tpc
from train.results.solve_run import solve
from train.solve_cli import solve_command


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tpc, path = small_tpc(), tmp_path_factory.mktemp("solve") / "run.zarr"
    geometry = Detector("square", {1: tpc}).geometry()
    larstore.create(path, geometry=geometry, downsample=STEP, provenance={}, shard_rows=4096, chunk_rows=256)
    for file in range(3):
        add_images(path, [simulated(tpc, file)])
    return path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run.zarr")


@pytest.mark.parametrize("method", ["nnls", "lasso", "lsmr"])
def test_on_true_voxels_it_beats_the_mean_of_the_planes(store, method):
    result = solve(store, "best", on_true=True, method=method, penalty=20.0, progress=False)
    assert (result.images, result.done_before, result.not_converged) == (3, 0, 0)
    opened = larstore.open(store)
    about = opened.predictions["best"]
    assert (about["output"], about["method"], about["kept"], about["units"]) == ("charge", method, "true", "electrons")
    assert ("penalty" in about) == (method == "lasso")
    for image in opened.select():
        charge, true = image.score("best"), image.truth > 0
        assert not charge[~true].any()
        assert (charge >= 0).all()
        mean = image.charge.mean(axis=1)
        off, off_of_mean = (np.abs(each - image.truth)[true].sum() for each in (charge, mean))
        assert off < (0.8 if method == "lsmr" else 0.7) * off_of_mean
        total = image.truth.sum()
        assert abs(charge.sum() / total - 1) < 0.2
        assert mean[true].sum() / total < 0.75  # the rest is on ghosts
    assert result.kept == sum(int((image.truth > 0).sum()) for image in opened.select())
    assert larstore.verify(store).ok


def test_bad_channels_take_no_charge_away(store):
    """A dead stretch of 20 wires of a plane: the other planes tell where its charge is."""
    tpc = small_tpc()
    image = simulated(tpc, 7, bad=tpc.planes[2].column[40:60].tolist())
    assert 0.05 < (image.live != 7).mean() < 0.9
    add_images(store, [image])
    solve(store, "best", on_true=True, files=(7, 7), progress=False)
    image = larstore.open(store).image(7, 0, 1)
    dead = (image.truth > 0) & (image.live & 4 == 0)
    assert abs(image.score("best")[dead].sum() / image.truth[dead].sum() - 1) < 0.15
    assert image.charge[dead, 2].sum() < 0.2 * image.truth[dead].sum()


def test_only_what_a_prediction_keeps(store):
    opened = larstore.open(store)
    with larstore.PredictionWriter(store, "net", {"checkpoint_sha256": "0" * 64, "output": "score"}) as writer:
        for shard, images in writer.groups(opened.select()):
            scores = [(image, np.where(image.truth > 0, 0.35, 0.3).astype(np.float32)) for image in images]
            writer.write(shard, scores)
        writer.commit()
    solve(store, "best", on_true=True, progress=False)
    result = solve(store, "solved", kept_by="net", progress=False)
    everything = solve(store, "all", files=(0, 0), progress=False)
    assert everything.kept == everything.voxels == len(opened.image(0, 0, 1)) < result.voxels
    opened = larstore.open(store)
    about = opened.predictions["solved"]
    assert (about["kept_by"], about["kept"], about["kept_by_sha256"]) == ("net", "net", "0" * 64)
    for image in opened.select():
        assert_array_equal(image.score("solved"), image.score("best"))
    image = opened.image(0, 0, 1)
    assert np.count_nonzero(image.score("all")) > np.count_nonzero(image.score("best"))
    with pytest.raises(StoreError, match=r"no prediction 'nets'. Fix: one of net, or larstore infer"):
        solve(store, "other", kept_by="nets", progress=False)
    with pytest.raises(StoreError, match=r"charges, not scores, in prediction 'best'. Fix: one of net,"):
        solve(store, "other", kept_by="best", progress=False)
    with pytest.raises(StoreError, match=r"'solved' is of checkpoint .* Fix: choose another name"):
        solve(store, "solved", kept_by="net", threshold=0.2, progress=False)


def test_an_interrupted_call_is_gone_on_with(store, monkeypatch):
    whole = solve(store, "whole", on_true=True, progress=False)
    calls, write = [], larstore.PredictionWriter.commit

    def stop_at_the_second(writer):
        calls.append(write(writer))
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(larstore.PredictionWriter, "commit", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            solve(store, "parts", on_true=True, progress=False)
    score = [np.isnan(image.score("parts")).all() for image in larstore.open(store).select()]
    assert score == [False, False, True]
    rest = solve(store, "parts", on_true=True, progress=False)
    assert (whole.images, rest.images, rest.done_before) == (3, 1, 2)
    monkeypatch.setattr("train.results.solve_run.solve_charges", None)  # nothing is left to be solved
    assert solve(store, "parts", on_true=True, progress=False).images == 0
    for image in larstore.open(store).select():
        assert_array_equal(image.score("parts"), image.score("whole"))


def test_what_makes_no_sense_is_refused_before_anything_is_written(store, tmp_path):
    with pytest.raises(ConfigError, match=r"'net' or the true ones, not both. Fix: give one"):
        solve(store, "x", kept_by="net", on_true=True, progress=False)
    with pytest.raises(ConfigError, match=r"method 'ridge' is none. Fix: "):
        solve(store, "x", method="ridge", progress=False)
    with pytest.raises(ConfigError, match=r"no image is chosen by files=.* Fix: "):
        solve(store, "x", files=(7, 9), progress=False)
    with pytest.raises(ConfigError, match=r"no image of TPC 5. Fix: --tpcs among 1"):
        solve(store, "x", tpcs=[1, 5], progress=False)
    blind = make_store(tmp_path / "blind.zarr", n_files=1, truth=False)
    with pytest.raises(StoreError, match=r"image \(0, 0, 1\) has no truth to keep voxels by. Fix: "):
        solve(blind, "x", on_true=True, progress=False)
    assert not larstore.open(store).predictions
    assert not larstore.open(blind).predictions


def test_an_image_without_scores_is_refused(store):
    opened = larstore.open(store)
    with larstore.PredictionWriter(store, "net", {"checkpoint_sha256": "0" * 64}) as writer:
        ((shard, images),) = writer.groups(opened.select(files=(0, 0)))
        writer.write(shard, [(images[0], np.ones(len(images[0]), np.float32))])
        writer.commit()
    with pytest.raises(StoreError, match=r"'net' has no scores of image \(1, 0, 1\). Fix: larstore infer --name net"):
        solve(store, "x", kept_by="net", files=(1, 2), progress=False)
    assert solve(store, "x", kept_by="net", files=(0, 0), progress=False).images == 1


def test_joined_stores_are_refused(tmp_path):
    geometry = make_geometry((1, 5))
    for number, frame in list(geometry.tpcs.items()):
        geometry.tpcs[number] = frame.model_copy(update={"joined_origin": (0, 0, 64 * (number > 1))})
    path = tmp_path / "joined.zarr"
    larstore.create(path, geometry=geometry, provenance={})
    with pytest.raises(StoreError, match=r"TPCs \[1, 5\] are joined, their wires are not. Fix: solve the store that"):
        solve(path, "x", progress=False)


def test_the_command(store):
    app = typer.Typer()
    app.command()(solve_command)
    run = CliRunner().invoke(app, [str(store), "--name", "solved", "--on-true", "--method", "lsmr", "--files", "1:2"])
    assert run.exit_code == 0, run.output
    told = dict(line.split("\t") for line in run.stdout.splitlines())
    assert (told["name"], told["images"], told["not_converged"]) == ("solved", "2", "0")
    assert larstore.open(store).predictions["solved"]["method"] == "lsmr"
    for wrong in (["--on-true", "--prediction", "net"], ["--files", "2:1"], ["--method", "ridge"]):
        assert CliRunner().invoke(app, [str(store), "--name", "other", *wrong]).exit_code == 2
