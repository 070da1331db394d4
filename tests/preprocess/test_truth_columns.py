"""Optional truth columns on their way from the truth file to voxels: sums, the largest point, and refused files."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import InputError
from larstore.testing import add_images
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.sources.truth import TruthFile
from preprocess.truth import voxelise_columns, voxelise_truth

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
SHAPE = (40, 16, 16)
point = st.tuples(st.integers(-2, 41), st.integers(-1, 16), st.integers(-1, 16), st.integers(1, 5), st.integers(-3, 3))


@settings(max_examples=80, deadline=None)
@given(st.lists(point, max_size=60))
def test_columns_equal_a_loop_over_the_points(rows):
    truth = np.array([row[:4] for row in rows], float).reshape(-1, 4)
    columns = {
        "collected": truth[:, 3] * 0.5,
        "pdg": np.array([row[4] for row in rows], np.int32),
        "track": np.arange(len(rows), dtype=np.int32),
    }
    coords, _ = voxelise_truth(truth, (8, 4, 4), SHAPE)
    found = voxelise_columns(truth, columns, (8, 4, 4), SHAPE)
    voxels: dict[tuple[int, ...], list[int]] = {}
    for i, (x, y, z, *_) in enumerate(rows):
        if 0 <= x < SHAPE[0] and 0 <= y < SHAPE[1] and 0 <= z < SHAPE[2]:
            voxels.setdefault((x // 8, y // 4, z // 4), []).append(i)
    assert [tuple(c) for c in coords.tolist()] == sorted(voxels)
    for row, key in enumerate(sorted(voxels)):
        members = voxels[key]
        best = max(members, key=lambda i: (rows[i][3], -i))  # the first of equals
        assert found["collected"][row] == sum(rows[i][3] * 0.5 for i in members)
        assert (found["pdg"][row], found["track"][row]) == (rows[best][4], best)
    assert [found[name].dtype for name in columns] == [np.float32, np.int32, np.int32]


def test_a_column_of_another_length_is_refused():
    with pytest.raises(InputError, match=re.escape("Truth column pdg has shape (2,)")):
        voxelise_columns(np.ones((3, 4)), {"pdg": np.zeros(2, np.int32)}, (8, 4, 4), SHAPE)
    assert voxelise_columns(np.ones((3, 4)), {}, (8, 4, 4), SHAPE) == {}


def write(folder: Path, **members) -> TruthFile:
    np.savez(folder / "a_1_depo-TPC1.npz", **members)
    return TruthFile(folder / "a_1_wire-TPC1.npz", 1, ("depo",))


def test_the_members_of_a_truth_file_that_are_there(tmp_path):
    points = np.ones((3, 4))
    file = write(
        tmp_path, arr_0=points, pdg_0=np.array([13, 0, -11]), collected_0=np.ones(3), arr_1=points, track_1=np.arange(3)
    )
    first = file.columns(0, 3)
    assert list(first) == ["collected", "pdg"]
    assert (first["collected"].dtype, first["pdg"].tolist()) == (np.float32, [13, 0, -11])
    assert list(file.columns(1, 3)) == ["track"]
    assert TruthFile(tmp_path / "b_1_wire-TPC1.npz", 1, ("depo",)).columns(0, 3) == {}


@pytest.mark.parametrize(
    ("member", "values", "message"),
    [
        ("collected", np.ones(2), "collected_0 has shape (2,), its event has 3 truth points"),
        ("collected", np.array([1, np.nan, 1]), "collected_0 row 1 is nan"),
        ("collected", np.array([1, 1, 1e39]), "collected_0 row 2 is 1e+39"),
        ("pdg", np.ones(3), "pdg_0 has type float64"),
        ("pdg", np.array([1, 2**31, 0]), "pdg_0 row 1 is 2147483648"),
        ("track", np.array([-(2**31), 0, 0]), "track_0 row 0 is -2147483648"),
        ("track", np.ones((3, 1), int), "track_0 has shape (3, 1)"),
    ],
)
def test_a_member_that_cannot_be_used_is_one_line(tmp_path, member, values, message):
    file = write(tmp_path, arr_0=np.ones((3, 4)), **{f"{member}_0": values})
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        file.columns(0, 3)
    assert str(file.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_of_a_file_arrive_in_the_store(tmp_path):
    head, wire = "reco_BeamCosmic_201_", tmp_path / "reco_BeamCosmic_201_wire-TPC1.npz"
    shutil.copy(GOLDEN / wire.name, wire)
    with np.load(GOLDEN / f"{head}depoElectron-TPC1.npz") as depos:
        members = dict(depos)
    for event in range(2):
        points = members[f"arr_{event}"]
        members[f"collected_{event}"] = (0.5 * points[:, 3]).astype(np.float32)
        members[f"track_{event}"] = np.full(len(points), 40 + event)
    np.savez(tmp_path / f"{head}depoElectron-TPC1.npz", **members)
    detector = load_detector("protodune-sp-2021")
    config = RunConfig(inputs=(str(wire),), output=tmp_path / "a.zarr", detector="protodune-sp-2021")
    result = process_unit(Unit(str(wire), 201, 1, 0), config, detector.geometry().hash)
    larstore.create(
        config.output, geometry=detector.geometry(), provenance={}, truth_columns=("collected", "pdg", "track")
    )
    add_images(config.output, result.images, result.inputs)
    assert len(result.images) == 2
    for image in larstore.open(config.output).select():
        assert list(image.truth_columns) == ["collected", "track"]
        assert set(image.truth_columns["track"].tolist()) == {40 + image.key[1]}
        np.testing.assert_allclose(image.truth_columns["collected"], 0.5 * image.truth_voxels[1], rtol=1e-6)
        np.testing.assert_allclose(image.collected, 0.5 * image.truth, rtol=1e-6)
    assert larstore.verify(config.output).ok
