"""docs/howto-loss.md: its loss is one of a configuration, is what its formula says, and can be learnt with."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from larstore.errors import ConfigError
from train.config import make_config
from train.fitting.module import ImageModule
from train.objective import losses
from train.schema import NamedSection

PAGE = (Path(__file__).parents[2] / "docs" / "howto-loss.md").read_text(encoding="utf-8")
MINIMAL = {
    "output_dir": "out",
    "data": {"data_path": "run.zarr", "train_i": [1, 5], "threshold": 0},
    "model": {"name": "cellnet_binary", "nChannels": 2, "nStrides": 2, "spatial_size": [64, 64, 64], "n_2D": 0},
    "optimizer": {"name": "Adam", "lr": 0.01},
}


@pytest.fixture
def block(monkeypatch):
    """The page's block of a configuration, with its class among the losses."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    names = vars(losses).copy()
    exec(compile(code, "howto-loss.md", "exec"), names)  # noqa: S102 - our own page
    monkeypatch.setitem(losses.OWN, "FocalLoss", names["FocalLoss"])
    return yaml.safe_load(block)


def test_it_is_one_of_a_configuration(block):
    ImageModule(make_config(MINIMAL | block), 1)
    without = MINIMAL | block | {"data": MINIMAL["data"] | {"threshold": None}}
    with pytest.raises(ConfigError, match="compares with labels"):
        ImageModule(make_config(without), 1)
    with pytest.raises(ConfigError, match="gama"):
        losses.make_loss(NamedSection.model_validate({"name": "FocalLoss", "gama": 2}))


def test_it_is_what_its_formula_says(block):
    loss = losses.make_loss(NamedSection.model_validate(block["loss"]))
    output = torch.tensor([[0.9], [0.9], [0.3], [0.5]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0], [2.0], [1.0], [0.0]], dtype=torch.float64)
    right = [0.9, 0.1, 0.3]
    expected = sum(w * (1 - p) ** 2 * -torch.tensor(p).log().item() for w, p in zip((1, 2, 1), right, strict=True)) / 4
    assert loss(output, target, weight).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(lambda scores: loss(scores, target, weight), output)


def test_what_the_page_says_of_the_kinds_is_so():
    for attribute in re.findall(r"`(\w+) = \w+`", PAGE):
        assert hasattr(losses.VoxelLoss, attribute)
