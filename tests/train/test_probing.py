"""`larstore find-lr` and `larstore overfit`: they find what is planted, say what is wrong, and leave no run behind."""

import math
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from larstore.errors import ConfigError, LarstoreError
from train.config import load_config
from train.fitting.learning_rate import find_learning_rate, suggest
from train.fitting.module import ImageModule, TrainingError
from train.fitting.overfitting import check, overfit
from train.probe_cli import find_lr_command, overfit_command

app = typer.Typer()
app.command("find-lr")(find_lr_command)
app.command("overfit")(overfit_command)


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("probing") / "s.zarr", n_files=4, n_voxels=80)


@pytest.fixture
def config(store, tmp_path):
    """Path of a configuration whose output_dir must stay away."""
    values = {
        "output_dir": str(tmp_path / "run"),
        "trainer": "one_cycle",
        "data": {
            "data_path": str(store),
            "train_i": [0, 3],
            "threshold": 0,
            "charge": {"transform": "asinh"},
            "noise": {"sd": 1e9},
            "batch_size": 2,
        },
        "model": {"name": "cellnet_binary"},
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "SGD", "lr": 0.5, "momentum": 0.9},
        "train": {"n_epochs": 3, "threads": 1, "accelerator": "cpu", "max_minutes": 1e-9},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    yield path
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("*.ckpt"))
    assert not list(tmp_path.glob("lightning_logs"))


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, LarstoreError), done.output
    values = dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    return values, done.exception


@pytest.mark.usefixtures("point_net")
def test_find_lr_suggests_a_rate_that_trains(config, tmp_path):
    page = tmp_path / "pages" / "lr.html"
    quiet = ("--set", "data.noise=null")
    values, error = run("find-lr", config, *quiet, "-o", page, "--low", "1e-5", "--high", "1000", "--steps", "80")
    assert error is None
    rate, least = float(values["suggestion"]), float(values["least_loss_at"])
    assert 1e-4 < rate <= least < 1000
    text = page.read_text()
    assert "<script" not in text
    assert text.count("<polyline") == 2
    assert f">{rate:.2g}<" in text
    table = pd.read_csv(page.with_suffix(".csv"), sep="\t")
    assert table.columns.tolist() == ["lr", "loss", "smoothed"]
    np.testing.assert_allclose(table["lr"], np.geomspace(1e-5, 1000, 80)[: len(table)], rtol=1e-6)
    # The configuration's own rate does not matter, 0 included.
    again = find_learning_rate(load_config(config, ["data.noise=null", "optimizer.lr=0"]), 1e-5, 1000, 80)
    assert again.suggestion == pytest.approx(rate, rel=1e-2)
    slow, good = (overfit(load_config(config, [f"optimizer.lr={lr}"]), n_steps=60).last for lr in (rate / 1000, rate))
    assert good < slow


def test_the_rate_is_where_a_known_curve_falls_fastest():
    rates = np.geomspace(1e-6, 1, 200)
    curve = 1 / (1 + np.exp(3 * (np.log10(rates) + 3))) + np.exp(5 * (np.log10(rates) + 1))  # steepest at 1e-3
    noise = np.random.default_rng(1).normal(1, 0.15, 200)  # batches differ
    test = suggest(rates.tolist(), (curve * noise).tolist(), True)
    assert math.log10(test.suggestion) == pytest.approx(-3, abs=0.4)
    assert test.suggestion < test.least <= 3 * rates[np.argmin(curve)]
    with pytest.raises(LarstoreError, match=r"fell at no learning rate from 1e-06 to 1 .*Fix: "):
        suggest(rates.tolist(), rates.tolist(), False)


@pytest.mark.usefixtures("point_net")
def test_a_loss_that_explodes_ends_the_search(config):
    test = find_learning_rate(load_config(config, ["data.noise=null"]), 1e-4, 1e8, 80)
    assert test.diverged
    assert 10 < len(test.losses) < 80
    assert test.suggestion < test.least <= test.rates[-1]


@pytest.mark.usefixtures("point_net")
def test_overfit_learns_a_batch_without_augmentation(config):
    values, error = run("overfit", config, "--steps", "120")  # the noise of training would drown everything
    assert error is None
    assert float(values["fell"]) > 2
    assert values["images"] == "(0, 0, 1) (0, 1, 1)"
    assert int(values["voxels"]) == 160
    share = int(values["true"]) / 160
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert float(values["constant_answer"]) == pytest.approx(entropy, abs=1e-4)
    course = [float(value) for step, value in values.items() if step.isdigit()]
    assert len(course) == 21
    assert course[-1] < 0.5 * course[0]
    assert len(overfit(load_config(config), n_batches=3, n_steps=12).keys) == 6


def test_a_network_that_sees_nothing_is_told(config, monkeypatch):
    class Blind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(1) + 3)

        def forward(self, coords, features):
            return torch.sigmoid(self.bias).expand(len(features), 1)

    monkeypatch.setattr("train.fitting.module.build_model", lambda block: Blind())
    values, error = run("overfit", config, "--set", "optimizer.lr=1", "--steps", "100")
    assert float(values["fell"]) == pytest.approx(1, abs=0.02)
    assert float(values["1"]) > 3 * float(values["100"])  # it fell by more than the factor, but to a constant
    assert "the network answers the same for every voxel" in str(error)
    assert "Fix: look at data.charge" in str(error)
    assert "\n" not in str(error)


@pytest.mark.usefixtures("point_net")
@pytest.mark.parametrize(("lr", "said"), [("1e-6", "answers the same"), ("1e5", "it rose: optimizer.lr is too high")])
def test_a_wrong_rate_is_told(config, lr, said):
    _, error = run("overfit", config, "--set", f"optimizer.lr={lr}", "--set", "trainer=basic", "--steps", "20")
    assert said in str(error)


@pytest.mark.usefixtures("point_net")
def test_a_factor_that_is_not_reached_is_told(config):
    result = overfit(load_config(config), n_steps=60)
    check(result, 1.0)
    with pytest.raises(LarstoreError, match=r"not 1000 times; it falls, but slowly\. Fix: more --steps"):
        check(result, 1000.0)


def test_charges_have_a_best_constant_too(config):
    changes = ["model.name=cellnet_charge", "loss.name=MSELoss", "data.threshold=null", "data.scale=1"]
    net = ["model.spatial_size=[256,64,64]", "model.nChannels=2", "model.nStrides=1", "model.n_2D=0"]
    result = overfit(load_config(config, [*changes, *net, "optimizer={name: Adam, lr: 0.01}"]), n_steps=10)
    assert result.constant == pytest.approx(variance_of_truth(config), rel=1e-3)


def variance_of_truth(config):
    import larstore

    part = larstore.open(load_config(config).data.data_path[0]).select(files=(0, 0))
    truth = np.concatenate([image.truth for image in part])
    return float(truth.astype(np.float64).var())


@pytest.mark.usefixtures("point_net")
def test_ctrl_c_is_ctrl_c(config, monkeypatch):
    def interrupt(self, batch, i):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageModule, "training_step", interrupt)
    for command in (find_learning_rate, overfit):
        with pytest.raises(KeyboardInterrupt):
            command(load_config(config))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("point_net")
def test_mistakes_are_one_line(config, store):
    for changes, message in (
        (["data.train_i=null"], r"data\.train_i is missing\. Fix: "),
        (["data.train_i=[50, 60]"], r"no image in files \[50, 60\]"),
        (["loss=null"], r"loss is missing\. Fix: "),
    ):
        for command in (find_learning_rate, overfit):
            with pytest.raises(ConfigError, match=message):
                command(load_config(config, changes))
    with pytest.raises(ConfigError, match=r"find-lr: 1 to 0\.1 in 100 steps\. Fix: 0 < low < high"):
        find_learning_rate(load_config(config), 1, 0.1)
    with pytest.raises(ConfigError, match=r"overfit: 0 batches"):
        overfit(load_config(config), n_batches=0)
    with pytest.raises(ConfigError, match=r"train_i: 4 batches hold voxels with truth\. Fix: --batches 4"):
        overfit(load_config(config), n_batches=5)
    with pytest.raises(TrainingError, match="not finite"):
        overfit(load_config(config, ["optimizer.lr=1e38", "trainer=basic"]), n_steps=20)
