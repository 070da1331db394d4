"""What a run does with bad files, dying workers, other people's stores and wrong usage."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import larstore
from larstore.errors import StoreError
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig, load_run_config
from preprocess.runner import run
from tests.preprocess.commands import larstore_command

DETECTOR = "protodune-sp-2021"


def write_npz(path: Path, seed: int = 0, events: int = 1) -> Path:
    """A small read-out whose three planes are lit in a few places."""
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(events):
        waveform = np.zeros((64, 2560), np.float32)
        waveform[rng.integers(0, 64, 400), rng.integers(0, 2560, 400)] = rng.uniform(0.1, 5, 400)
        arrays.append(waveform)
    np.savez(path, *arrays)
    return path


def test_bad_files_are_recorded_and_the_rest_goes_on(tmp_path):
    good = [write_npz(tmp_path / f"a_{i}_wire-TPC1.npz", i) for i in (1, 2)]
    nan = tmp_path / "a_3_wire-TPC1.npz"
    waveform = np.zeros((8, 2560), np.float32)
    waveform[5, 77] = np.nan
    np.savez(nan, waveform)
    truncated = write_npz(tmp_path / "a_4_wire-TPC1.npz", 4)
    truncated.write_bytes(truncated.read_bytes()[:-200])
    narrow = tmp_path / "a_5_wire-TPC1.npz"
    np.savez(narrow, np.zeros((8, 100), np.float32))
    done = larstore_command("preprocess", tmp_path, "-o", tmp_path / "run.zarr", "--detector", DETECTOR, "--workers", 1)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    store = larstore.open(tmp_path / "run.zarr")
    assert {key[0] for key in store.index.index} == {1, 2}
    failures = store.failures.set_index("file")
    assert set(failures.index) == {3, 4, 5}
    for path, number, words in (
        (nan, 3, "nan in row 5, column 77"),
        (truncated, 4, "truncated or damaged"),
        (narrow, 5, "(8, 100)"),
    ):
        error = failures.loc[number, "error"]
        assert str(path) in error
        assert words in error
        assert "Fix:" in error
        assert str(path) in done.stderr
    # Repaired, they are done by the next run, and only they.
    for path, number in ((nan, 3), (truncated, 4), (narrow, 5)):
        write_npz(path, number)
    again = larstore_command(
        "preprocess", tmp_path, "-o", tmp_path / "run.zarr", "--detector", DETECTOR, "--workers", 1
    )
    assert again.returncode == 0, again.stderr
    assert "3, 2, 0" in again.stdout
    store = larstore.open(tmp_path / "run.zarr")
    assert {key[0] for key in store.index.index} == {1, 2, 3, 4, 5}
    assert store.failures.empty
    assert len(good) == 2


def test_a_killed_worker_loses_nothing(tmp_path):
    paths = [write_npz(tmp_path / f"a_{i}_wire-TPC1.npz", i, events=3) for i in range(8)]
    config = RunConfig(
        inputs=tuple(map(str, paths)), output=tmp_path / "run.zarr", detector=DETECTOR, task_bytes=1, min_live_planes=1
    )
    with make_cluster("local", 2) as client:
        pids = list(client.run(os.getpid).values())

        def kill() -> None:
            while not (config.output / "voxels" / "coords" / "c").is_dir():
                time.sleep(0.01)
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        summary = run(config, client)
        killer.join()
    assert (summary.units_done, summary.units_failed) == (8, 0)
    assert {key[:1] for key in larstore.open(config.output).index.index} == {(i,) for i in range(8)}
    assert larstore.verify(config.output).ok


def test_an_output_that_is_no_store_stays_as_it_was(tmp_path):
    write_npz(tmp_path / "a_1_wire-TPC1.npz")
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.tex").write_text("42")
    done = larstore_command("preprocess", tmp_path, "-o", folder, "--detector", DETECTOR)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(folder) in done.stderr
    assert "Fix:" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_other_settings_than_the_stores_are_refused(tmp_path):
    path = write_npz(tmp_path / "a_1_wire-TPC1.npz")
    settings = {"inputs": (str(path),), "output": tmp_path / "run.zarr", "detector": DETECTOR}
    with make_cluster("local", 1) as client:
        run(RunConfig(**settings), client)
        before = (tmp_path / "run.zarr" / "zarr.json").read_bytes()
        for change, words in (
            ({"threshold": 300.0}, r"threshold = 1\.0, this run has 300\.0"),
            ({"downsample": (4, 4, 4)}, r"downsample = \[8, 4, 4\], this run has \[4, 4, 4\]"),
            ({"detector": "protodune-sp"}, "geometry"),
        ):
            with pytest.raises(StoreError, match=words):
                run(RunConfig(**(settings | change)), client)
    assert (tmp_path / "run.zarr" / "zarr.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--downsample", "8,x,4"], 2, "--downsample"),
        (["--workers", "0"], 2, "--workers"),
        (["--files", "7:x"], 2, "--files"),
        (["--files", "9:3"], 2, "--files"),
        (["--files", "1:"], 2, "--files"),
        (["--set", "tpcs=x"], 1, "tpcs 'x': should be a list in brackets"),
        (["--set", "files=[9,3]"], 1, "files 9:3 is empty"),
        (["--set", "treshold=3"], 1, "did you mean threshold"),
        (["--set", "scale=0"], 1, "scale 0: makes nothing of every charge"),
        (["--threshold", "nan"], 1, "threshold nan"),
        (["--downsample", "70000,4,4"], 1, "downsample.0 70000"),
        (["--min-live-planes", "4"], 1, "min_live_planes 4: protodune-sp-2021 has 3 planes"),
        (["--threads", "100000"], 1, "threads 100000"),
        (["--set", "shard_rows=1"], 1, "shard_rows 1 is no multiple of chunk_rows 16384"),
        (["--set", "workers=0:0"], 1, "at least 1"),
        (["--detector", "protodune"], 1, "Unknown detector"),
        (["--cluster", "slurm"], 1, "--cluster slurm"),
        (["-o", "https://example.org/run.zarr"], 1, "https://example.org/run.zarr: a URL can only be read. Fix: write"),
    ],
)
def test_wrong_usage(tmp_path, arguments, code, words):
    path = write_npz(tmp_path / "a_1_wire-TPC1.npz")
    base = ["preprocess", path, "-o", tmp_path / "run.zarr", "--detector", DETECTOR]
    done = larstore_command(*base, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run.zarr").exists()


def test_ranges_in_settings_are_ranges(tmp_path):
    """YAML 1.1 would make 61 and 125 of them."""
    given = {"inputs": ["a"], "output": tmp_path / "run.zarr", "detector": DETECTOR}
    config = load_run_config(None, given, ["workers=1:1", "files=2:5"])
    assert (config.workers, config.files) == ((1, 1), (2, 5))
    assert load_run_config(None, given, ["files=7"]).files == (7, 7)
    assert load_run_config(None, given, ["tpcs=1,5"]).tpcs == (1, 5)
    assert load_run_config(None, given, ["tpcs=1"]).tpcs == (1,)
    assert load_run_config(None, given, ["downsample=4,2,2"]).downsample == (4, 2, 2)


def test_names_with_brackets_are_names(tmp_path):
    write_npz(tmp_path / "a_1_wire-TPC1.npz")
    output = tmp_path / "run[bold]x[" / "i[red].zarr"
    output.parent.mkdir()
    done = larstore_command(
        "preprocess", tmp_path / "a_1_wire-TPC1.npz", "-o", output, "--detector", DETECTOR, "--workers", 1
    )
    assert done.returncode == 0, done.stderr
    for said in (done.stdout, larstore_command("info", output).stdout, larstore_command("index", output).stdout):
        assert "i[red].zarr" in "".join(said.split())


def test_failures_are_in_the_log_and_in_info(tmp_path):
    write_npz(tmp_path / "a_1_wire-TPC1.npz")
    (tmp_path / "a_2_wire-TPC1.npz").write_bytes(b"PK nothing else")
    output = tmp_path / "run.zarr"
    done = larstore_command("preprocess", tmp_path, "-o", output, "--detector", DETECTOR, "--workers", 1)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert "a_2_wire-TPC1.npz" in line
    told = larstore_command("info", output).stdout
    assert re.search(rf"^failed: file 2[^:]*: {re.escape(line.removeprefix('failed: '))}$", told, re.MULTILINE), told
    assert line in output.with_suffix(".log").read_text(encoding="utf-8")


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    write_npz(tmp_path / "a_31_wire-TPC1.npz")
    done = larstore_command("preprocess", tmp_path, "-o", tmp_path / "run.zarr", "--detector", DETECTOR, "--dry-run")
    assert done.returncode == 0
    assert "31" in done.stdout
    assert not (tmp_path / "run.zarr").exists()
