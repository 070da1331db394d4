"""`larstore examples`: what an installation holds of configs/, listed, printed and copied."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from larstore.cli import build_app
from larstore.errors import ConfigError
from larstore.examples import examples, title

CONFIGS = Path(__file__).parents[2] / "configs"


def run(*words):
    done = CliRunner().invoke(build_app(), ["examples", *map(str, words)])
    assert done.exception is None, done.exception
    return done.stdout


def failed(*words):
    done = CliRunner().invoke(build_app(), ["examples", *map(str, words)])
    assert isinstance(done.exception, ConfigError)
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_all_of_configs_are_there_under_their_names():
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert set(examples()) == names >= {"ghost3d", "small/ghost3d", "clusters/slurm", "preprocess/protodune-sp"}
    listed = dict(line.split("\t") for line in run().splitlines())
    assert list(listed) == sorted(names, key=lambda name: ("/" in name, name))
    assert listed["ghost3d"] == "Deghosting: which tiled voxels hold real charge?"
    assert listed["small/charge"] == "Charge per voxel for a CPU"
    assert all(listed.values())


def test_nothing_but_yaml_lies_there():
    """As package-data in pyproject.toml takes it: two levels of .yaml files."""
    assert all(path.suffix == ".yaml" for path in CONFIGS.rglob("*") if path.is_file())
    assert max(name.count("/") for name in examples()) == 1


@pytest.mark.parametrize("name", ["small/ghost3d", "small/ghost3d.yaml", "configs/small/ghost3d.yaml"])
def test_one_is_printed_or_copied(tmp_path, name):
    text = (CONFIGS / "small" / "ghost3d.yaml").read_text(encoding="utf-8")
    assert run(name) == text
    target = tmp_path / "new" / "net.yaml"
    assert run(name, "-o", target) == f"{target}\n"
    assert target.read_text(encoding="utf-8") == text
    assert os.access(target, os.W_OK)
    target.write_text("mine")
    assert failed(name, "-o", target) == f"{target}: File exists. Fix: another place for it"
    assert target.read_text() == "mine"


def test_all_are_copied(tmp_path):
    folder = tmp_path / "configs"
    assert run("-o", folder) == f"{folder}\n"
    for path in CONFIGS.rglob("*.yaml"):
        assert (folder / path.relative_to(CONFIGS)).read_bytes() == path.read_bytes()
    assert failed("-o", folder) == f"{folder}: File exists. Fix: a folder that does not exist yet"


def test_what_is_not_there_is_told(tmp_path, monkeypatch):
    assert failed("gost3d").startswith("no example 'gost3d'. Fix: did you mean ghost3d?")
    monkeypatch.setattr("larstore.examples.FOLDER", "nothing")
    assert "holds no examples. Fix: install larstore again" in failed()


def test_a_title_is_the_first_sentence(tmp_path):
    path = tmp_path / "a.yaml"
    for text, said in (
        ("# One, at 3.2 mm\n# of two lines. And more.\na: 1\n", "One, at 3.2 mm of two lines"),
        ("# A command:\n#   larstore x. y\n", "A command"),
        ("a: 1\n", ""),
    ):
        path.write_text(text)
        assert title(path) == said
