"""docs/runs.md: its blocks are configurations, its files those of a run."""

import re
from pathlib import Path

import yaml

from train.config import load_config, make_config
from train.records.loggers import PACKAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
MINIMAL = {
    "output_dir": "out",
    "data": {"data_path": "run.zarr", "train_i": [1, 5]},
    "model": {"name": "cellnet_binary"},
}


def test_its_blocks_are_configurations():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    first, short, whole = (make_config(MINIMAL | yaml.safe_load(block)) for block in blocks)
    assert [section.name for section in first.loggers] == ["TensorBoardLogger", "CSVLogger", "WandbLogger"]
    assert first.train.log_every_n_steps == 50
    assert short.train.transfer.path == whole.train.transfer.path == "runs/ghost3d"
    assert (whole.train.transfer.exclude, whole.train.transfer.freeze) == (["linear.*"], ["sparseModel.*"])
    assert all(name in PAGE for name in PACKAGES)


def test_its_command_of_a_transfer_is_accepted(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    settings = re.findall(r"--set '?((?:train\.transfer|data\.charge)\S*?=(?:\{.*?\}|\S+?))'?(?:\s|$)", PAGE)
    assert len(settings) == 3
    config = load_config(path, settings)
    assert config.train.transfer.freeze == ["sparseModel.*"]
    assert config.data.charge.transform == "asinh"
