"""`larstore simulate` on the command line: deposits of other programs, and what is refused."""

import numpy as np
import pytest
from typer.testing import CliRunner

from larstore.cli import build_app
from larstore.errors import ConfigError, InputError, StoreError
from preprocess import open_source
from preprocess.simulation import Deposits
from preprocess.testing import small_detector, write_bee

runner = CliRunner()
app = build_app()


def line(n, y):
    """n points of 5000 electrons along z in TPC 1 of the small detector: x, y, z in mm, t in µs, electrons."""
    x, q = np.full(n, 400.0), np.full(n, 5000.0)
    points = np.column_stack([x, np.full(n, y), np.linspace(60, 160, n), np.zeros(n), q])
    return Deposits(points, np.zeros(n, np.int32), np.zeros(n, np.int32))


@pytest.fixture
def files(tmp_path):
    """Two Bee files of one event each and the small detector beside them."""
    small_detector(tmp_path)
    return [write_bee(tmp_path / f"depos-{i}.zip", [line(40, y)]) for i, y in enumerate((100.0, 200.0))]


def simulate(folder, *arguments):
    small = ["--detector", str(folder / "small.yaml"), "--workers", "1"]
    return runner.invoke(app, ["simulate", "-o", str(folder / "sim"), *small, *map(str, arguments)])


def test_each_file_of_deposits_becomes_a_file(tmp_path, files):
    result = simulate(tmp_path, "--depos", *files, "--first-file", 7)
    assert result.exit_code == 0, result.output
    names = [f"sim_Sim_{number}_wire-TPC1.tar.gz" for number in (7, 8)]
    assert [text.rpartition("/")[2] for text in result.stdout.split()] == names
    detector = small_detector(tmp_path)
    for name, y in zip(names, (100.0, 200.0), strict=True):
        (event,) = open_source(tmp_path / "sim" / name).events(detector.tpc(1), ("depoElectron",))
        assert len(event.truth) == 40
        assert set(event.truth[:, 1]) == {y // 2}
        assert event.truth[:, 3].sum() == pytest.approx(40 * 5000)


def test_a_place_moves_the_deposits(tmp_path, files):
    result = simulate(tmp_path, "--depos", files[0], "--place", "-100,20,0")
    assert result.exit_code == 0, result.output
    (path,) = result.stdout.split()
    (event,) = open_source(path).events(small_detector(tmp_path).tpc(1), ("depoElectron",))
    assert set(event.truth[:, 1]) == {60}


def test_an_output_that_cannot_be_written_is_a_line(tmp_path, files):
    (tmp_path / "sim").write_text("no folder", encoding="utf-8")
    result = simulate(tmp_path, "--depos", files[0])
    assert isinstance(result.exception, StoreError)
    assert "sim: cannot create the directory (File exists). Fix:" in str(result.exception)


@pytest.mark.parametrize("arguments", [["--place", "1,2,3"], ["depos.zip"], ["--depos", "depos.zip", "--events", "3"]])
def test_options_that_do_not_go_together(tmp_path, files, arguments):
    assert simulate(tmp_path, *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--place", "here"], ConfigError, "place 'here'"),
        (["--place", "0,0,9000"], InputError, r"depos-0\.zip: no deposit"),
    ],
)
def test_wrong_places_are_one_line(tmp_path, files, arguments, error, says):
    with pytest.raises(error, match=says):
        raise simulate(tmp_path, "--depos", files[0], *arguments).exception
