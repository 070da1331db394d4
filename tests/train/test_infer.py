"""Inference on a small store: every voxel gets its score, once, and nothing that does not fit is written."""

import shutil

import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, LarstoreError, StoreError
from train import cli
from train.config import make_config
from train.fitting.fit import fit
from train.inference.infer import infer
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint, model_weights, sha256

pytestmark = pytest.mark.usefixtures("point_net")


def values(store, out):
    return {
        "output_dir": str(out),
        "data": {
            "data_path": str(store),
            "train_i": [0, 1],
            "threshold": 0,
            "charge": {"transform": "asinh", "scale": 0.002},
            "z_segments": [32],
        },
        "model": {"name": "cellnet_binary"},
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "Adam", "lr": 0.02},
        "train": {"n_epochs": 2, "threads": 1, "accelerator": "cpu"},
    }


@pytest.fixture
def store(tmp_path, copy_of_store):
    """Four blocks of two shards each; in each the second image spans both."""
    return copy_of_store(tmp_path / "s.zarr", n_files=4, n_voxels=300, shard_rows=512, chunk_rows=64, blocks=True)


@pytest.fixture(scope="module")
def trained():
    return []


@pytest.fixture
def run(store, tmp_path, trained, point_net):
    """The configuration of a finished run, trained once and copied."""
    config = make_config(values(store, tmp_path / "run"))
    if not trained:
        fit(config)
        trained.append(shutil.copytree(tmp_path / "run", tmp_path / "kept"))
    else:
        shutil.copytree(trained[0], tmp_path / "run")
    return config


@pytest.fixture
def expected(run, point_net):
    """expected(image): its scores, worked out by hand from the last checkpoint."""
    net = point_net(4)
    net.load_state_dict(model_weights(load_checkpoint(RunFolder(run.output_dir).find_checkpoint())))
    net.eval()

    def scores(image):
        z = (image.coords[:, 2:] < 32).astype(np.float32)
        features = np.hstack([np.arcsinh(image.charge * np.float32(0.002)), z])
        with torch.no_grad():
            return net(None, torch.from_numpy(features))[:, 0].numpy()

    return scores


@pytest.mark.parametrize("max_voxels", [None, 1, 400])
def test_every_voxel_gets_its_score(store, run, expected, max_voxels):
    run.data.max_voxels = max_voxels
    result = infer(run, None, store, "first")
    assert (result.images, result.voxels, result.done_before) == (8, 2400, 0)
    opened = larstore.open(store)
    for image in opened.select():
        np.testing.assert_allclose(image.score("first"), expected(image), rtol=1e-5)
    attributes = opened.predictions["first"]
    checkpoint = RunFolder(run.output_dir).checkpoint(1)
    assert attributes["checkpoint_sha256"] == sha256(checkpoint)
    assert attributes["epoch"] == 1
    assert attributes["config"]["data"]["charge"] == {"transform": "asinh", "scale": 0.002}
    assert attributes["versions"]["torch"] == torch.__version__
    assert larstore.verify(store).ok


def test_a_second_call_has_nothing_to_do(store, run):
    infer(run, None, store, "first")
    before = {path: path.stat().st_mtime_ns for path in (store / "predictions").rglob("c/*")}
    result = infer(run, None, store, "first")
    assert (result.images, result.done_before) == (0, 8)
    assert before == {path: path.stat().st_mtime_ns for path in (store / "predictions").rglob("c/*")}


def test_an_interrupted_call_is_continued(store, run, expected, monkeypatch):
    write = larstore.PredictionWriter.write
    written = []

    def second_fails(self, shard, scores):
        if written:
            raise RuntimeError("killed")
        written.extend(scores)
        write(self, shard, scores)

    monkeypatch.setattr(larstore.PredictionWriter, "write", second_fails)
    with pytest.raises(RuntimeError, match="killed"):
        infer(run, None, store, "first")
    monkeypatch.setattr(larstore.PredictionWriter, "write", write)
    result = infer(run, None, store, "first")
    assert result.done_before == len(written) > 0
    assert result.images == 8 - len(written)
    for image in larstore.open(store).select():
        np.testing.assert_allclose(image.score("first"), expected(image), rtol=1e-5)


def test_only_the_chosen_images(store, run):
    assert infer(run, 0, store, "part", files=(2, 3)).images == 4
    for image in larstore.open(store).select():
        assert np.isfinite(image.score("part")).all() == (image.key[0] >= 2)


def test_inputs_are_made_as_in_training(store, run, expected):
    config = run.model_copy(deep=True)
    config.data.charge.scale = 1.0
    infer(config, None, store, "first")
    image = larstore.open(store).select()[3]
    np.testing.assert_allclose(image.score("first"), expected(image), rtol=1e-5)


def test_loss_and_optimizer_are_not_needed(store, run):
    block = values(store, run.output_dir)
    for key in ("loss", "optimizer"):
        block.pop(key)
    block["data"].pop("train_i")
    assert infer(make_config(block), None, store, "first").images == 8


def test_what_does_not_fit_is_refused(store, run, tmp_path):
    infer(run, 1, store, "first")
    with pytest.raises(StoreError, match=r"'first'.*checkpoint.*Fix: choose another name"):
        infer(run, 0, store, "first")
    with pytest.raises(ConfigError, match=r"no image is chosen by files=\(50, 60\)\. Fix: "):
        infer(run, None, store, "second", files=(50, 60))
    with pytest.raises(LarstoreError, match=r"nothing\.pth: no such checkpoint.*Fix: "):
        infer(run, tmp_path / "nothing.pth", store, "second")
    path = RunFolder(run.output_dir).checkpoint(1)
    content = load_checkpoint(path)
    content["state_dict"]["model.layers.3.weight"] = torch.zeros(1, 9)
    torch.save(content, tmp_path / "other.pth.tar")
    with pytest.raises(ConfigError, match=r"made for another network, 1 tensors differ \(layers\.3\.weight.*Fix: "):
        infer(run, tmp_path / "other.pth.tar", store, "second")
    content = load_checkpoint(path)
    content["larstore"]["n_planes"] = 2
    torch.save(content, tmp_path / "two.pth.tar")
    with pytest.raises(ConfigError, match=r"has 3 planes, .*trained on 2.*Fix: "):
        infer(run, tmp_path / "two.pth.tar", store, "second")
    assert set(larstore.open(store).predictions) == {"first"}


def test_command_line(store, tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values(store, "$RUNS/cli")))
    monkeypatch.setenv("RUNS", str(tmp_path))

    app = typer.Typer()
    for command in (cli.train, cli.infer, cli.evaluate, cli.view, cli.demo):
        app.command()(command)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    done = call("train", config, "--set", "train.n_epochs=1")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("checkpoint\t")
    assert "train_loss\t" in done.stdout
    assert "epoch 0: train_loss" in done.stderr
    assert call("train", config, "--resume", 0, "--set", "train.n_epochs=2").exit_code == 0
    assert RunFolder(tmp_path / "cli").epochs() == [0, 1]
    assert call("train", config, 3).exit_code == 2
    failed = call("train", config).exception
    assert isinstance(failed, ConfigError)
    assert str(failed).startswith(f"{config}: {tmp_path / 'cli'}: holds a run already. Fix: ")
    done = call("infer", config, "--store", store, "--name", "cli", "--files", "1:2", "--tpcs", "1")
    assert done.exit_code == 0, done.output
    assert "images\t4\n" in done.stdout
    assert call("infer", config, "--store", store, "--name", "x", "--files", "a:b").exit_code == 2
    assert call("infer", config, "--store", store, "--name", "x", "--tpcs", "1,b").exit_code == 2
    assert call("infer", config, "--store", store, "--name", "x", "--epoch", 0, "--checkpoint", config).exit_code == 2
    for command in ("train", "infer", "evaluate", "view", "demo"):
        text = call(command, "--help").stdout
        assert f"Example: larstore {command}" in text
