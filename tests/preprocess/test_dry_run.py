"""What a dry run says of the cost: core-hours by the bytes of the inputs, and the time with all workers at work."""

from pathlib import Path

import pytest

from preprocess.cluster import load_cluster
from preprocess.config import RunConfig
from preprocess.dry_run import Calibration, _time
from preprocess.plan import Unit
from tests.preprocess.commands import larstore_command
from tests.preprocess.small_runs import DETECTOR, write_read_out

SLURM = "kind: slurm\ncores: 8\ntasks: 4\nmemory: 8 GiB\nworkers: '1:5'\n"


def config(folder: Path, **options) -> RunConfig:
    return RunConfig(inputs=("raw",), output=folder / "run.zarr", detector=DETECTOR, **options)


@pytest.mark.parametrize(
    ("profile", "options", "said"),
    [
        ("", {"workers": 2}, "0:30:00 with 2 worker(s)"),
        ("", {"workers": 3, "threads": 2}, "0:10:00 with 3 worker(s), 2 threads a task"),
        (SLURM, {}, "0:03:00 with 5 worker(s), 4 tasks at once on each"),
        (SLURM, {"workers": (0, 50)}, "0:00:18 with 50 worker(s), 4 tasks at once on each"),
        (SLURM.replace("tasks: 4\n", ""), {"threads": 4}, "0:01:30 with 5 worker(s), 2 tasks at once on each, 4 th"),
        ("kind: existing\naddress: tcp://host:1\n", {}, "the time depends on the scheduler's workers"),
    ],
)
def test_the_time_of_an_hour_of_work(tmp_path, profile, options, said):
    path = tmp_path / "cluster.yaml"
    path.write_text(profile, encoding="utf-8")
    cluster = load_cluster(path if profile else "local")
    assert _time(config(tmp_path, **options), cluster, 3600.0).startswith(said)


def test_work_goes_with_the_bytes_of_inputs():
    units = [Unit(f"a_{size}", size, 1, size) for size in (10, 30, 50, 110)]
    assert Calibration(units[2], 2.0, 1, 1).core_seconds(units) == pytest.approx(8.0)


def test_the_plan_the_cost_the_script_and_the_configuration_are_shown(tmp_path):
    for file in range(3):
        write_read_out(tmp_path / "raw" / f"a_{file}_wire-TPC1.npz", file)
    profile = tmp_path / "slurm.yaml"
    profile.write_text(SLURM, encoding="utf-8")
    done = larstore_command(
        "preprocess", tmp_path / "raw", "-o", tmp_path / "run.zarr", "--detector", DETECTOR, "--cluster", profile,
        "--dry-run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.replace("│", " ").split())
    assert "0 units are done, 3 to do" in said
    assert "core-hours" in said
    assert "4 tasks at once" in said
    assert "#SBATCH --cpus-per-task=8" in said
    assert "min_live_planes: 2" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "slurm.yaml"]
