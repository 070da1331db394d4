"""Inputs become units: numbers, filters, duplicates, and what is left out because it is done."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

import larstore
from larstore.errors import ConfigError, InputError
from larstore.records import InputFile
from larstore.testing import make_image
from preprocess.config import RunConfig, load_run_config
from preprocess.detector import load_detector
from preprocess.plan import Unit, find_inputs, make_plan, next_batch


@pytest.fixture(scope="module")
def detector():
    return load_detector("protodune-sp-2021")


def write_npz(path: Path, events: int = 1, ticks: int = 4) -> Path:
    np.savez(path, *[np.zeros((ticks, 2560), np.float32)] * events)
    return path


def config(tmp_path: Path, *inputs: Path, **options) -> RunConfig:
    return RunConfig(
        inputs=tuple(str(path) for path in inputs),
        output=tmp_path / "run.zarr",
        detector="protodune-sp-2021",
        **options,
    )


def test_a_folder_gives_its_read_out_files_and_their_numbers(tmp_path, detector):
    for name in ("a_Mu_7_wire-TPC1.npz", "a_Mu_7_depo-TPC1.npz", "a_Mu_12_wire-TPC2.npz", "notes.txt"):
        write_npz(tmp_path / name) if name.endswith("npz") else (tmp_path / name).write_text("x")
    plan = make_plan(config(tmp_path, tmp_path), detector, None)
    assert sorted((unit.file, unit.tpc) for unit in plan.units) == [(7, 1), (12, 2)]
    only = make_plan(config(tmp_path, tmp_path, files=(8, 20)), detector, None)
    assert [(unit.file, unit.tpc) for unit in only.units] == [(12, 2)]
    none = make_plan(config(tmp_path, tmp_path, tpcs=(5,)), detector, None)
    assert not none.units
    with pytest.raises(ConfigError, match="tpcs: 77 is not a TPC of protodune-sp-2021, which has 0, 1, 2, 3"):
        make_plan(config(tmp_path, tmp_path, tpcs=(1, 77)), detector, None)


def test_a_file_pattern_numbers_files(tmp_path, detector):
    path = write_npz(tmp_path / "run27409_0_wire-TPC1.npz")
    plan = make_plan(config(tmp_path, path, file_pattern=r"run(\d+)"), detector, None)
    assert plan.units[0].file == 27409


def test_two_inputs_with_one_key_are_refused_with_both_paths(tmp_path, detector):
    one, two = write_npz(tmp_path / "a_3_wire-TPC1.npz"), write_npz(tmp_path / "b_3_wire-TPC1.npz")
    with pytest.raises(ConfigError) as caught:
        make_plan(config(tmp_path, one, two), detector, None)
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)


def committed(tmp_path: Path, detector, path: Path, file: int) -> larstore.Store:
    settings = config(tmp_path, path)
    if not settings.output.exists():
        larstore.create(settings.output, geometry=detector.geometry(), provenance={}, shard_rows=4096, chunk_rows=1024)
    with larstore.StoreWriter(settings.output) as writer:
        image = make_image(file=file, event=0, tpc=1, n_voxels=20, input=str(path))
        entry = InputFile(str(path), file, path.stat().st_size, "0" * 64)
        writer.commit([larstore.write_block(settings.output, writer.reserve(), [image], [entry])])
    return larstore.open(settings.output)


def test_done_units_are_left_out_and_numbers_are_kept(tmp_path, detector):
    first = write_npz(tmp_path / "x_wire-TPC1.npz")
    second = write_npz(tmp_path / "y_wire-TPC1.npz")
    store = committed(tmp_path, detector, second, 1)
    plan = make_plan(config(tmp_path, first, second), detector, store)
    assert plan.done == 1
    # x comes first in the alphabet, but number 1 belongs to y for ever.
    assert [(unit.path, unit.file) for unit in plan.units] == [(str(first), 2)]


def test_an_input_that_changed_is_refused(tmp_path, detector):
    path = write_npz(tmp_path / "x_4_wire-TPC1.npz")
    store = committed(tmp_path, detector, path, 4)
    write_npz(path, events=2)
    with pytest.raises(ConfigError, match="bytes now"):
        make_plan(config(tmp_path, path), detector, store)


def test_truth_that_changed_is_refused(tmp_path, detector):
    path, truth = (write_npz(tmp_path / f"x_4_{product}-TPC1.npz") for product in ("wire", "depo"))
    store = committed(tmp_path, detector, path, 4)
    with larstore.StoreWriter(tmp_path / "run.zarr") as writer:
        image = make_image(file=4, event=1, tpc=1, n_voxels=20, input=str(path))
        entry = InputFile(str(truth), 4, truth.stat().st_size, "1" * 64)
        writer.commit([larstore.write_block(tmp_path / "run.zarr", writer.reserve(), [image], [entry])])
    store = larstore.open(tmp_path / "run.zarr")
    assert make_plan(config(tmp_path, path), detector, store).done == 1
    write_npz(truth, events=2)
    with pytest.raises(ConfigError, match=r"x_4_depo-TPC1\.npz: .* bytes now"):
        make_plan(config(tmp_path, path), detector, store)


def test_another_file_of_a_number_in_the_store_is_refused(tmp_path, detector):
    path = write_npz(tmp_path / "x_4_wire-TPC1.npz")
    store = committed(tmp_path, detector, path, 4)
    other = write_npz(tmp_path / "z_4_wire-TPC1.npz")
    with pytest.raises(ConfigError, match=r"x_4_wire-TPC1\.npz both are file 4, TPC 1"):
        make_plan(config(tmp_path, other), detector, store)


def test_a_file_that_cannot_be_looked_into_is_a_failure_not_an_end(tmp_path, detector):
    good, bad = write_npz(tmp_path / "a_1_wire-TPC1.npz"), tmp_path / "b_2_wire-TPC1.npz"
    bad.write_bytes(b"PK\x03\x04 truncated")
    plan = make_plan(config(tmp_path, good, bad), detector, None)
    assert [unit.file for unit in plan.units] == [1]
    assert [failure.file for failure in plan.failures] == [2]
    assert str(bad) in plan.failures[0].error


def test_inputs_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find_inputs(config(tmp_path, tmp_path / "nothing.npz"))
    with pytest.raises(ConfigError, match="holds no read-out files"):
        find_inputs(config(tmp_path, tmp_path))


def test_big_units_first_and_small_ones_together(tmp_path, detector):
    paths = [write_npz(tmp_path / f"a_{i}_wire-TPC1.npz", events=1 + i % 3) for i in range(6)]
    units = make_plan(config(tmp_path, *paths), detector, None).units
    assert [unit.size for unit in units] == sorted((unit.size for unit in units), reverse=True)
    todo, tasks, half = deque(units), [], sum(unit.size for unit in units) // 2
    while todo:
        tasks.append(next_batch(todo, half))
    assert [unit for task in tasks for unit in task] == units
    assert 2 <= len(tasks) <= 3
    assert all(sum(unit.size for unit in task) <= half for task in tasks)
    big = Unit("big", 1, 1, 10**9)
    assert next_batch(deque([big, big]), 10) == (big,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"treshold": 5}, "treshold is not a known key.*did you mean threshold"),
        ({"downsample": [8, 4]}, "downsample"),
        ({"downsample": [8, 0, 4]}, "downsample.1 0"),
        ({"files": [9, 3]}, "files 9:3 is empty"),
        ({"detector": None}, "detector"),
    ],
)
def test_wrong_settings_are_one_line(values, message):
    base = {"inputs": ["x"], "output": "run.zarr", "detector": "protodune-sp"}
    with pytest.raises(ConfigError, match=message) as caught:
        load_run_config(
            None, {}, [f"{key}={value}" for key, value in (base | values).items() if value is not None]
        ) if values.get("detector", 1) is not None else load_run_config(None, {"inputs": ["x"], "output": "run.zarr"})
    assert "\n" not in str(caught.value)


def test_options_win_over_the_file_and_set_over_both(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "inputs: [x]\noutput: run.zarr\ndetector: protodune-sp\nthreshold: 5\nmin_live_planes: 3\ntruth: none\n"
    )
    settings = load_run_config(path, {"threshold": 7.0, "sample": None}, ["min_live_planes=1"])
    assert (settings.threshold, settings.min_live_planes, settings.truth, settings.sample) == (7.0, 1, None, "")
