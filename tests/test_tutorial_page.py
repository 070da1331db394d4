"""docs/tutorial.md as its reader follows it, with fewer events."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import larstore
from tests.running_page import sections

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
# What the page says -> what is done here.
SMALLER = {
    "--events 160 --events-per-file 4": "--events 4 --events-per-file 1",
    "--set muons=2": "--set muons=0 --set showers=0",
    "train_i: [1, 34]": "train_i: [1, 2]",
    "inference_i: [35, 36]": "inference_i: [3, 3]",
    "nChannels: 8": "nChannels: 4",
    "n_epochs: 30": "n_epochs: 1",
    "file=37": "file=4",
    "run.zarr 37 ": "run.zarr 4 ",
    "--files 37:40": "--files 4:4",
    "--files 37:37": "--files 4:4",
}


class Follower:
    """Runs blocks of the page in a folder; ``larstore`` there is that of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "bin" / "larstore"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m larstore.cli "$@"\n')
        program.chmod(0o755)
        path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
        self.used: set[str] = set()

    def run(self, language: str, text: str) -> str:
        for page, here in SMALLER.items():
            if page in text:
                self.used.add(page)
                text = text.replace(page, here)
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout


def test_it_installs_as_the_page_about_running_does():
    """That one's section is run by its own tests."""
    (ours,), (theirs,) = (sections(page)["Install"] for page in (PAGE, ROOT / "docs" / "running.md"))
    assert ours == (theirs[0], theirs[1].replace("[preprocess]", "[preprocess,train]"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial(tmp_path):
    follower, said = Follower(tmp_path), {}
    for heading, blocks in sections(PAGE).items():
        if heading != "Install":
            said[heading] = "".join(follower.run(*block) for block in blocks)
    assert follower.used == set(SMALLER)
    assert "a Wire-Cell frame archive" in said["Wires"]
    assert re.search(r"4 images of \d+ voxels on average\n", said["Images"])
    assert re.search(r"\d+\.\d% of its voxels are true\n", said["Images"])
    for cut in ("", "_no_cut", "_smallest_charge", "_plane_agreement"):
        assert re.search(rf"^average_precision{cut}: \d\.\d\d$", said["How good is it?"], re.MULTILINE)
    assert (tmp_path / "runs" / "ghosts" / "index.html").is_file()
    for page in ("tiled.html", "answer.html"):
        assert "plotly" in (tmp_path / page).read_text(encoding="utf-8")
    store = larstore.open(tmp_path / "run.zarr")
    assert set(store.predictions) == {"network", "charges"}
    assert "images\t1\n" in said["Look again"]
