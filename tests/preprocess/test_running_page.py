"""The page for new users runs as it stands, and tells of options that exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

import larstore
from larstore.cli import build_app
from larstore.status import run_status
from tests.running_page import PAGE, Reader, sections

LOCAL = ("Install", "Inputs", "Look first", "Run", "Again", "Filters and parameters", "A configuration file")


def options(command: str) -> set[str]:
    found = get_command(build_app()).commands[command]
    return {option for parameter in found.params for option in parameter.opts if option.startswith("--")}


def without_numbers(line: str) -> str:
    return re.sub(r"\?|\d[\d,.:]*", "N", line)


def test_no_section_is_forgotten():
    """Slurm's is followed in tests of Slurm; the last one starts a server, and its notebook has tests of its own."""
    assert tuple(sections()) == (*LOCAL, "Slurm", "A notebook")


def test_options_of_the_page_exist():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= options("preprocess") | options("simulate") | {"--help"}
    left_out = options("preprocess") - named
    assert left_out == {"--output", "--threads", "--log", "--scale", "--tag", "--first-file", "--break-lock"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_on_this_machine(tmp_path: Path):
    reader = Reader(tmp_path)
    reader.follow(*LOCAL[:3])
    assert reader.block("bash", "command -v larstore").strip() == str(tmp_path / "larenv" / "bin" / "larstore")
    assert not (tmp_path / "run.zarr").exists(), "a dry run writes nothing"
    said = reader.follow("Run")
    assert "6, 0, 0" in said
    assert "the last run is done" in said
    (line,) = (text.strip() for language, text in sections()["Run"] if language == "text")
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert without_numbers(line) in without_numbers(log)
    said = reader.follow("Again")
    assert "0, 6, 0" in said
    assert "2, 0, 0" in said, "--redo of two files"
    (failures,) = (block for block in sections()["Again"] if block[0] == "python")
    assert reader.block(*failures) == "", "nothing has failed"
    reader.block("bash", "cp -r run.zarr kept.zarr; echo nothing > sim/sim_Sim_9_wire-TPC1.tar.gz")
    first = sections()["Again"][0][1].splitlines()[0]
    assert reader.block("bash", f"{first} 2> /dev/null || echo exit code $?").endswith("exit code 1\n")
    assert reader.block(*failures).startswith("9 -1 ") or reader.block(*failures).startswith("9 1 ")
    reader.block("bash", "rm -r run.zarr sim/sim_Sim_9_wire-TPC1.tar.gz; mv kept.zarr run.zarr")
    reader.follow("Filters and parameters")
    part = larstore.open(tmp_path / "part.zarr")
    assert sorted({key[0] for key in part.index.index}) == [1, 2]
    assert part.root.pixels
    assert "run.zarr: 6 units are done, 0 to do" in " ".join(reader.follow("A configuration file").split())
    assert len(larstore.open(tmp_path / "run.zarr")) == 12
    assert run_status(tmp_path / "part.zarr").verdict == "the last run is done"
