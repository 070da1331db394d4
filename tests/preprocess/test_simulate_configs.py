"""The configurations that users copy are valid, and say what the defaults are where they repeat them."""

from pathlib import Path

import pytest
import yaml

from preprocess.simulation import SimulationConfig

FOLDER = Path(__file__).parents[2] / "configs" / "simulate"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_valid(path):
    SimulationConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_beam_cosmics_repeats_the_defaults():
    values = yaml.safe_load((FOLDER / "beam-cosmics.yaml").read_text(encoding="utf-8"))
    assert SimulationConfig.model_validate(values) == SimulationConfig()
