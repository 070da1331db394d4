"""docs/howto-detector.md and docs/howto-cluster.md: their YAML is what they say, their commands run."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from larstore.cli import build_app
from preprocess.cluster import job_script, load_cluster
from preprocess.detector import load_detector

DOCS = Path(__file__).parents[2] / "docs"
CLUSTERS = re.findall(r"```yaml\n(.*?)```", (DOCS / "howto-cluster.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page about detectors; its YAML lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "howto-detector.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Path("stand.yaml").write_text(block)
    return text


def test_the_detector_is_the_one_of_the_drawing(page):
    detector = load_detector("stand.yaml")
    assert sorted(detector.tpcs) == [1, 3]
    for number, tpc in detector.tpcs.items():
        assert tpc.live
        assert [plane.name for plane in tpc.planes] == ["u", "v", "w"]
        assert [len(plane.column) for plane in tpc.planes] == [80, 80, 50]
        assert tpc.channels.tolist() == list(range(210 * (number // 2), 210 * (number // 2) + 210))


def run(line):
    done = CliRunner().invoke(build_app(), shlex.split(line)[1:])
    assert done.exit_code == 0, (line, done.output)
    return done.output


def test_the_detector_can_be_looked_at(page):
    lines = [line for line in page.splitlines() if line.startswith("larstore detector ")]
    assert len(lines) == 2
    assert "4.669" in "".join(map(run, lines))
    assert Path("wires.html").stat().st_size > 1000


@pytest.mark.slow
def test_all_its_commands_run(page):
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    said = [run(line) for line in commands.splitlines()]
    assert "sim_Sim_1_wire-TPC1" in said[-1]
    (line,) = re.findall(r"^    (larstore closure .*)$", page, re.MULTILINE)
    run(line)
    assert Path("closure/closure.csv").exists()


@pytest.mark.parametrize("text", CLUSTERS, ids=lambda text: yaml.safe_load(text)["kind"])
def test_the_profiles_have_a_script(text, tmp_path):
    (tmp_path / "my-cluster.yaml").write_text(text)
    config = load_cluster(tmp_path / "my-cluster.yaml")
    values = yaml.safe_load(text)
    script = job_script(config)
    for key in ("queue", "account"):
        assert values.get(key, "") in script
    assert config.workers == tuple(map(int, values["workers"].split(":")))


def test_there_is_one_profile_for_each_system_of_the_table():
    assert [yaml.safe_load(text)["kind"] for text in CLUSTERS] == ["slurm", "pbs", "htcondor"]
