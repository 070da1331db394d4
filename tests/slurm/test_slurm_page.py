"""The page for new users on a real Slurm: from installing to the driver as a job, with this site's numbers put in."""

import re
from pathlib import Path

import pytest
import yaml

import larstore
from larstore.status import run_status
from tests.running_page import Reader, sections
from tests.slurm.small_slurm import SmallSlurm, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SITE = {"queue": "regular", "cores": 1, "tasks": 1, "memory": "2 GiB"}  # of keys that the page says to edit
DRIVER = {"cores": 1, "memory": "1 GiB"}  # as the nodes here are small


def test_the_page_on_slurm(slurm: SmallSlurm, tmp_path: Path):
    reader = Reader(tmp_path)
    reader.follow("Install", "Inputs", "Run")
    copy, keys, *runs = sections()["Slurm"]
    reader.block(*copy)
    profile = tmp_path / "my-slurm.yaml"
    values = yaml.safe_load(profile.read_text(encoding="utf-8"))
    named = yaml.safe_load(keys[1])
    assert SITE.keys() <= named.keys()
    assert {key: values[key] for key in named} == named, "the page shows what the file holds"
    edited = profile.read_text(encoding="utf-8")
    for key, value in SITE.items():
        edited = re.sub(rf"^{key}: [^#]*", f"{key}: {value} ", edited, flags=re.MULTILINE)
    profile.write_text(f"{edited}driver: {DRIVER}\n".replace("'", '"'), encoding="utf-8")
    dry, run, night = runs
    said = reader.block(*dry)
    assert "#SBATCH -p regular" in said
    assert slurm.is_empty(), "a dry run submits nothing"
    said = reader.block(*run)
    assert "6, 0, 0" in said
    assert "the last run is done" in said
    assert larstore.diff(tmp_path / "run.zarr", tmp_path / "cluster.zarr") == []
    until(slurm.is_empty, "an empty queue")
    said = reader.block(*night)
    assert re.search(
        r"job \d+ runs it for [\d:]+ at most \(.*\), its output goes to .*night\.driver\.log", said.replace("\n", " ")
    ), said
    store = tmp_path / "night.zarr"
    until(lambda: store.exists() and run_status(store).verdict == "the last run is done", "its end", 600)
    until(slurm.is_empty, "an empty queue")
    assert larstore.diff(tmp_path / "run.zarr", store) == []
