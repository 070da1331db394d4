"""Lightning's loggers by configuration: they get what the table has, and their faults are told."""

import logging
import math
from importlib.util import find_spec

import pandas as pd
import pytest
from lightning.pytorch import loggers
from lightning.pytorch.loggers import CSVLogger

from larstore.errors import ConfigError
from tests.train.small_runs import run_values
from train.config import make_config
from train.fitting.fit import fit

pytestmark = pytest.mark.usefixtures("point_net")


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("loggers") / "s.zarr", n_files=3, n_voxels=60)


def settings(store, out, wanted, **train):
    values = run_values(store, out, [0, 1], [2, 2], **{"n_epochs": 2, "log_every_n_steps": 2, **train})
    return make_config(values | {"metrics": {"acc": "BinAccuracy"}, "loggers": wanted})


class Refusing(CSVLogger):
    """Fails behind its start."""

    def log_metrics(self, metrics, step=None):
        raise ConnectionError("the server is away\nand more")


class NotStarting(CSVLogger):
    """Fails at its start."""

    def log_hyperparams(self, params=None):
        raise PermissionError("log in first")


@pytest.fixture
def extra(monkeypatch):
    for kind in (Refusing, NotStarting):
        monkeypatch.setattr(loggers, kind.__name__, kind, raising=False)
    monkeypatch.setattr(loggers, "__all__", [*loggers.__all__, "Refusing", "NotStarting"])


def test_a_logger_gets_epochs_and_steps(store, tmp_path):
    out = tmp_path / "run"
    rows = fit(settings(store, out, ["CSVLogger"])).summaries
    table = pd.read_csv(out / "csv" / "version_0" / "metrics.csv")
    steps = table.dropna(subset="step_loss")
    assert steps["step"].tolist() == [2, 4, 6, 8]
    assert (steps["step_lr"] == 0.01).all()
    epochs = table.dropna(subset="train_loss")
    assert epochs["step"].tolist() == [4, 8]
    for name in ("train_loss", "valid_acc", "wait_time", "lr"):
        assert epochs[name].tolist() == pytest.approx([row[name] for row in rows])
    assert "n_epochs: 2" in (out / "csv" / "version_0" / "hparams.yaml").read_text()
    fit(settings(store, out, [{"name": "CSVLogger"}], n_epochs=3), resume=True)
    again = pd.read_csv(out / "csv" / "version_1" / "metrics.csv")
    assert again["epoch"].dropna().tolist() == [2]


def test_its_own_place(store, tmp_path):
    block = {"name": "CSVLogger", "save_dir": str(tmp_path / "own"), "version": "first"}
    fit(settings(store, tmp_path / "run", [block], n_epochs=1))
    assert (tmp_path / "own" / "csv" / "first" / "metrics.csv").exists()


def test_a_failing_logger_is_told_each_epoch_and_the_training_goes_on(store, tmp_path, extra, caplog):
    with caplog.at_level(logging.WARNING, "larstore.train"):
        assert len(fit(settings(store, tmp_path, ["Refusing", "CSVLogger"])).summaries) == 2
    told = [record.message for record in caplog.records if "loggers: " in record.message]
    assert (
        told == ["loggers: Refusing: ConnectionError: the server is away: values of this epoch are missing there"] * 2
    )
    assert math.isfinite(pd.read_csv(tmp_path / "csv" / "version_0" / "metrics.csv")["train_loss"].dropna().sum())


def test_a_logger_that_does_not_start_ends_the_run_before_its_first_step(store, tmp_path, extra):
    with pytest.raises(ConfigError, match=r"loggers: NotStarting: PermissionError: log in first\. Fix: "):
        fit(settings(store, tmp_path, ["NotStarting"]))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_mistakes_are_one_line(store, tmp_path, monkeypatch):
    for block, message in (
        ("Tensorboard", r"loggers\.0: 'Tensorboard' is no logger of Lightning\. Fix: one of CSVLogger, .*TensorBoard"),
        ({"name": "CSVLogger", "speed": 1}, r"loggers\.0: CSVLogger: .*'speed'\. Fix: correct its arguments"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(settings(store, tmp_path / "run", [block]))
    if find_spec("wandb") is None:
        with pytest.raises(ConfigError, match=r"WandbLogger needs the package wandb\. Fix: pip install wandb, or "):
            fit(settings(store, tmp_path / "run", ["WandbLogger"]))
    assert not (tmp_path / "run").exists()


def test_tensorboard(store, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = fit(settings(store, tmp_path, ["TensorBoardLogger"])).summaries
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0"))
    events.Reload()
    assert [event.value for event in events.Scalars("train_loss")] == pytest.approx([row["train_loss"] for row in rows])
    assert [event.step for event in events.Scalars("step_loss")] == [2, 4, 6, 8]
