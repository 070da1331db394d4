"""docs/coming-from-mlreco-cell.md: its configuration is one, and what it says of keys is so."""

import re
from pathlib import Path

import pytest

from larstore.errors import ConfigError
from larstore.settings import read_yaml
from train.config import doubtful_units, make_config
from train.fitting.module import ImageModule
from train.models import build_model

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from-mlreco-cell.md").read_text(encoding="utf-8")
SPECIAL = {
    "ChargeWeightedBCELoss": {"negative_weight": 1},
    "WeightedBCELoss": {"negative_weight": 1},
    "BCEL1Loss": {"L1_lambda": 1e-5},
    "LabelWeightedBCELoss": {"positive_weight": 5},
    "DownsampleMSELoss": {"downsample": [5, 5, 5], "weight": 1},
}


@pytest.fixture
def values(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", "somewhere")
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "ghost3d.yaml").write_text(block)
    found = read_yaml(tmp_path / "ghost3d.yaml", "configs/ghost3d.yaml")
    assert found["optimizer"]["lr"] == 1e-3
    found["model"] |= {"nChannels": 2, "nStrides": 2, "spatial_size": [64, 64, 64]}
    return found


def row(key):
    """The second column of the table's row about a key."""
    (text,) = re.findall(rf"^\| `?{re.escape(key)}`? \| (.*) \|$", PAGE, re.MULTILINE)
    return text


def test_its_configuration_is_one(values):
    config = make_config(values)
    ImageModule(config, 1)
    assert config.output_dir == "somewhere/runs/ghost3d"
    assert [(s.path, s.files, s.tpcs, s.scale) for s in config.data.sources("inference")] == [
        ("beam.zarr", (80, 99), [1, 5, 9], 1)
    ]
    assert config.store_inference.everyNsample == 10
    assert config.train.transfer is None


def test_its_units_are_doubted_as_they_were_there_and_not_here(values):
    assert doubtful_units(make_config(values)) == []
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    sd, decimals = re.search(r"there: sd (\S+),", block)[1], re.search(r"there: (\d+), of", block)[1]
    now = values["data"]["noise"]["sd"], values["data"]["round"]
    values["data"] |= {"noise": {"sd": float(sd)}, "round": int(decimals)}
    told = doubtful_units(make_config(values))
    assert [re.search(r"Fix: (\S+),", line)[1] for line in told] == [str(each) for each in now]


def test_the_range_that_is_left_out_moves_nothing(values):
    values["data"]["train_i"] = [None, [0, 9]]
    (source,) = make_config(values).data.sources("train")
    assert (source.path, source.tpcs, source.scale) == ("electron.zarr", None, 0.001)


@pytest.mark.parametrize("name", re.findall(r"`(\w+Loss)`", row("loss")))
def test_losses(values, name):
    values["loss"] = {"name": name} | SPECIAL.get(name, {})
    if name == "DownsampleMSELoss":
        values["data"] |= {"threshold": None, "full_y": True}
        values["model"] |= {"name": "cellnet_charge", "nHiddenLayers": 1, "freeze": True}
        values["metrics"] = {}
    ImageModule(make_config(values), 1)


@pytest.mark.parametrize("name", re.findall(r"`(\w+)`", row("model.name")))
def test_models(values, name):
    build_model(values["model"] | {"name": name})


@pytest.mark.parametrize("name", re.findall(r"`(\w+)`", row("trainer")))
def test_trainers(values, name):
    values["trainer"] = {"name": name} | ({"metric": "acc"} if name == "schedule_plateau" else {})
    assert make_config(values).trainer.name == name


def test_transfer(values):
    values["train"]["transfer"] = "runs/other"
    assert make_config(values).train.transfer.path == "runs/other"
    values["train"]["transfer"] = True
    with pytest.raises(ConfigError, match="name the checkpoint or the run directory"):
        make_config(values)


def test_z_segments_count_as_inputs(values):
    values["data"]["z_segments"] = [64, 128]
    assert make_config(values).data.n_inputs(3) == 5


def test_without_train_i(values):
    for key in ("loss", "optimizer", "trainer"):
        del values[key]
    del values["data"]["train_i"]
    assert make_config(values).loss is None


def test_unknown_keys_are_refused(values):
    values["data"]["n_workers"] = 4
    with pytest.raises(ConfigError, match="did you mean num_workers"):
        make_config(values)
