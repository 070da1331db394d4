"""The configurations that users copy load, and the one that shows everything shows everything, as it is by default."""

import re
from pathlib import Path

import pytest

from larstore.errors import ConfigError
from preprocess.config import RunConfig, load_run_config

FOLDER = Path(__file__).parents[2] / "configs" / "preprocess"
WHOLE = FOLDER / "protodune-sp.yaml"
KEY = re.compile(r"^(?P<off># )?(?P<key>[a-z_]+): [^#\n]*(?P<comment># \S.*)?$", re.MULTILINE)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_load(path, monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert load_or_skip(path).output.suffix == ".zarr"


def load_or_skip(path: Path) -> RunConfig:
    """The configuration; ProtoDUNE-HD is known by a wires file that may not be here."""
    try:
        return load_run_config(path, {})
    except ConfigError as error:
        if "LARSTORE_WIRES_PATH" in str(error):
            pytest.skip("its wires file is not here: LARSTORE_TEST_DATA is not set")
        raise


def test_the_whole_configuration_holds_every_key_with_its_default_and_a_comment(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    config = load_run_config(WHOLE, {})
    lines = list(KEY.finditer(WHOLE.read_text(encoding="utf-8")))
    assert sorted(line["key"] for line in lines) == sorted(RunConfig.model_fields)
    needed = {name: getattr(config, name) for name, field in RunConfig.model_fields.items() if field.is_required()}
    assert config == RunConfig(**needed)
    for before, line in zip([None, *lines], lines, strict=False):
        above = before is not None and before.end() + 1 == line.start() and before["comment"]
        assert line["comment"] or line["off"] or above, f"{line['key']} is not explained"


def test_the_truth_that_is_shown_is_the_default():
    (line,) = re.findall(r"^# (truth: \[.*\])$", WHOLE.read_text(encoding="utf-8"), re.MULTILINE)
    key, _, value = line.partition(": ")
    config = load_run_config(WHOLE, {}, [f"{key}={value}"])
    assert config.truth == RunConfig.model_fields["truth"].default


def test_recorded_data_have_no_truth_but_bad_channels():
    config = load_or_skip(FOLDER / "recorded-data.yaml")
    assert config.truth is None
    assert config.bad_channels
    assert config.missing_channels == "bad"
