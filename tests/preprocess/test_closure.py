"""A closure test of the small detector from end to end, its files, its command, and wrong arguments."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from larstore.errors import ConfigError
from preprocess.closure.cli import closure_command
from preprocess.closure.closure import closure
from preprocess.closure.events import TRACKS, Given, single_muons
from preprocess.closure.responses import response
from preprocess.closure.rows import Bench
from preprocess.closure.table import ALL
from preprocess.detector import load_detector
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import box_of
from preprocess.testing import SMALL_SIMULATION, small_detector, write_small_detector

QUICK = SimulationConfig(muons=2.0, times_us=(-20.0, 120.0), beam_tracks=0.0, showers=0.0)


@pytest.fixture(scope="module")
def noise_free(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closure")
    detector = write_small_detector(folder)
    return closure(
        folder / "out", detector=str(detector), tpcs=(1, 3), tracks=4, events=1, config=SMALL_SIMULATION,
        noise_free=True, dead=(0.0, 0.1), seed=3, command="the command",
    )  # fmt: skip


def test_without_noise_all_charge_is_tiled(noise_free):
    table = noise_free.table
    whole = table[(table["angle"] == ALL) & (table["dead"] == 0)]
    assert set(whole["response"]) == {"none", "diffusion", "smear"}
    assert (whole["charge"] >= 0.995).all()
    assert (whole["strong"] >= 0.995).all()
    for plane in noise_free.planes:
        # Of a small face more of the spread charge leaves, and the last 0.9 mm of 240 mm have no collection wire.
        assert (whole[f"bias_{plane}"].abs() <= 0.02).all()
    sharp = whole[whole["response"] == "none"]
    for plane in ("u", "v"):
        assert (sharp[f"bias_{plane}"].abs() <= 1e-3).all()


def test_more_smear_makes_more_ghosts(noise_free):
    table = noise_free.table
    tracks = table[(table["sample"] == TRACKS) & (table["angle"] == ALL) & (table["dead"] == 0)]
    purity = tracks.set_index("response")["purity"]
    assert purity["none"] > purity["diffusion"] > purity["smear"]


def test_dead_channels_cost_charge_and_purity(noise_free):
    table = noise_free.table
    tracks = table[(table["sample"] == TRACKS) & (table["angle"] == ALL) & (table["response"] == "none")]
    alive, dead = (tracks[tracks["dead"] == fraction].iloc[0] for fraction in (0.0, 0.1))
    assert dead["purity"] < alive["purity"]
    assert alive["events"] == dead["events"] == 8
    assert all(dead[f"bias_{plane}"] < -0.02 for plane in noise_free.planes)


def test_files_hold_what_the_table_says(noise_free):
    page, pooled_csv, events_csv = noise_free.written
    pd.testing.assert_frame_equal(pd.read_csv(pooled_csv), noise_free.table, rtol=1e-5, check_dtype=False)
    events = pd.read_csv(events_csv)
    assert len(events) == 2 * (4 + 1) * 3 * 2  # TPCs, events, responses, dead fractions
    chosen = events[(events["sample"] == TRACKS) & (events["response"] == "none") & (events["dead"] == 0)]
    pooled_line = noise_free.table.iloc[0]
    assert pooled_line["charge"] == pytest.approx(chosen["charge_found"].sum() / chosen["charge"].sum())
    text = page.read_text()
    assert "the command" in text
    assert "largest θ_xz" in text
    assert "plotly" in text


def test_equal_seeds_give_equal_tables(tmp_path):
    detector = write_small_detector(tmp_path)

    def table(seed):
        return closure(
            tmp_path / "o", detector=detector, tracks=2, events=0, config=QUICK, dead=(0.0,), seed=seed
        ).table

    pd.testing.assert_frame_equal(table(1), table(1))
    assert not table(1).equals(table(2))


def test_single_muons_stay_in_the_drift_volume_and_keep_their_direction(tmp_path):
    tpc = small_detector(tmp_path).tpc(1)
    for given in single_muons(tpc, 5, 0, QUICK):
        low, high = np.sort([tpc.frame.anode_x_mm, 800.0])
        assert ((given.deposits[:, 0] >= low) & (given.deposits[:, 0] <= high)).all()
        along = given.deposits[:, :3] @ given.direction
        ends = given.deposits[[along.argmin(), along.argmax()], :3]
        # Delta rays and scattering turn a short track a little.
        assert (ends[1] - ends[0]) @ given.direction >= 0.98 * np.linalg.norm(ends[1] - ends[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tpcs": (1, 1)}, "TPC once"),
        ({"tpcs": (9,)}, "no TPC 9"),
        ({"tracks": 0, "events": 0}, "nothing to simulate"),
        ({"thresholds": (float("nan"),)}, "thresholds"),
        ({"dead": (1.0,)}, "dead"),
        ({"depos": ("a.zip",), "events": 0}, "a.zip"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        closure(tmp_path / "out", detector=write_small_detector(tmp_path), **arguments)
    assert "Fix:" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def command(*arguments):
    app = typer.Typer()
    app.command()(closure_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_the_table_and_the_files(tmp_path):
    detector = write_small_detector(tmp_path)
    output = tmp_path / "out"
    done = command(
        "-o", output, "--detector", detector, "--tracks", 2, "--events", 0, "--threshold", "1,50", "--dead", "0",
        "--set", "step_mm=4", "--seed", 5,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "response default, threshold 50 e a tick" in done.stdout
    assert str(output / "closure.html") in done.stdout
    assert sorted(path.name for path in output.iterdir()) == ["closure-events.csv", "closure.csv", "closure.html"]


@pytest.mark.parametrize("arguments", [["--threshold", "1;2"], ["--tpcs", "1.5"], ["--dead", "few"]])
def test_wrong_options_are_usage_errors(tmp_path, arguments):
    done = command("-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert arguments[0] in done.stderr


def test_the_command_is_light_to_load():
    code = (
        "import sys\nimport preprocess.closure.cli\n"
        "print(sorted({'numba', 'plotly', 'pandas', 'dask', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set: no wires file")
def test_charge_of_the_other_face_is_counted_apart():
    """Wrapped wires: deposits behind the anode reach U and V, not the collection plane, and are not in the truth."""
    detector = load_detector("dune10kt-1x2x6")
    tpc = detector.tpc(1)
    (partner,) = detector.partners(tpc)
    config = response("none", SimulationConfig(lifetime_us=None))
    bench = Bench(detector, 1, {"none": config}, 0)
    boxes = [box_of(tpc), box_of(partner)]
    points = np.array([box.low + 0.4 * box.size for box in boxes])
    deposits = np.column_stack([points, np.zeros(2), [3000.0, 2000.0]])
    (made,) = bench.read_outs(Given("two points", 0, deposits), [1.0], [0.0])
    np.testing.assert_allclose(made.foreign[:2], 2000.0, rtol=1e-3)
    assert made.foreign[2] == 0.0
    assert made.truth.value.sum() == 3000.0
