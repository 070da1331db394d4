"""One unit from its file to images, against the research code's own output, and the store that a run makes of it."""

from pathlib import Path

import numpy as np
import pytest

import larstore
from larstore.errors import ConfigError, InputError
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.runner import run

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
# The research code's charge columns are ordered by increasing wire angle: U, X, V on odd TPCs.
COLUMNS = [0, 2, 1]
FILES = {
    "reco_BeamCosmic_201_wire-TPC1.npz": (201, 1),
    "reco_BeamCosmic_201_wire-TPC5.npz": (201, 5),
    "reco_BeamCosmic_201_wire-TPC9.npz": (201, 9),
    "reco_singleMu_101_wire-TPC1.npz": (101, 1),
}


def golden_config(output: Path, inputs: tuple[str, ...] = (str(GOLDEN),), **options) -> RunConfig:
    settings = {"detector": "protodune-sp-2021", "min_live_planes": 1, "task_bytes": 1} | options
    return RunConfig(inputs=inputs, output=output, **settings)


def golden_events(name: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Coordinates, charges (u, v, w; electrons) and truth of each event, sorted."""
    with np.load(GOLDEN / name) as archive:
        rows, truth = archive["X"], archive["Y"][:, 0]
    events = []
    for event in range(int(rows[:, 3].max()) + 1):
        chosen = rows[:, 3] == event
        part, value = rows[chosen], truth[chosen]
        order = np.lexsort((part[:, 2], part[:, 1], part[:, 0]))
        events.append((part[order, :3], part[order, 4:][:, COLUMNS] * 1000, value[order]))
    return events


def check_images(images, name: str) -> None:
    expected = golden_events(name)
    assert len(images) == len(expected)
    for image, (coords, charge, truth) in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image.coords, coords)
        # The golden charges are float32 electrons × 0.001.
        np.testing.assert_allclose(image.charge, charge, rtol=1e-5, atol=1e-3 * np.abs(charge).max() * 1e-3)
        np.testing.assert_allclose(image.truth, truth, rtol=1e-6)


@pytest.fixture(scope="module")
def geometry_hash() -> str:
    return load_detector("protodune-sp-2021").geometry().hash


@pytest.mark.parametrize("name", FILES)
def test_a_unit_equals_the_research_code(name, tmp_path, geometry_hash):
    file, tpc = FILES[name]
    unit = Unit(str(GOLDEN / name), file, tpc, 1)
    result = process_unit(unit, golden_config(tmp_path / "none.zarr"), geometry_hash)
    check_images(result.images, f"batch0-{name.replace('_wire-', '_xy-')}")
    assert {image.key[0] for image in result.images} == {file}
    assert result.inputs[0].size == (GOLDEN / name).stat().st_size
    assert result.lit_samples > 0


def test_truth_that_is_asked_for_must_be_there(tmp_path, geometry_hash):
    name = "reco_singleMu_101_wire-TPC1.npz"
    unit = Unit(str(GOLDEN / name), 101, 1, 1)
    with pytest.raises(InputError, match=r"reco_singleMu_101_wire-TPC1\.npz: no truth file \(energy\)"):
        process_unit(unit, golden_config(tmp_path / "none.zarr", truth=("energy",)), geometry_hash)
    without = process_unit(unit, golden_config(tmp_path / "none.zarr", truth=None), geometry_hash)
    assert all(image.truth is None for image in without.images)


def test_a_worker_that_sees_another_detector_refuses(tmp_path):
    unit = Unit(str(GOLDEN / "reco_singleMu_101_wire-TPC1.npz"), 101, 1, 1)
    with pytest.raises(
        ConfigError, match=r"protodune-sp-2021: has geometry [0-9a-f]{12} on this worker, the run has 0"
    ):
        process_unit(unit, golden_config(tmp_path / "none.zarr"), "0" * 64)


def test_a_run_equals_the_research_code_and_a_second_one_does_nothing(tmp_path):
    config = golden_config(tmp_path / "run.zarr")
    with make_cluster("local", 2) as client:
        first = run(config, client)
        root = (config.output / "zarr.json").read_bytes()
        second = run(config, client)
    assert (first.units_done, first.units_before, first.units_failed) == (4, 0, 0)
    assert (second.units_done, second.units_before, second.units_failed) == (0, 4, 0)
    assert (config.output / "zarr.json").read_bytes() == root
    store = larstore.open(config.output)
    for name, (file, tpc) in FILES.items():
        check_images(list(store.select(files=(file, file), tpcs=[tpc])), f"batch0-{name.replace('_wire-', '_xy-')}")
    assert sorted(store.inputs["file"]) == [101] * 2 + [201] * 6  # a read-out and its truth of each TPC
    assert larstore.verify(config.output).ok
