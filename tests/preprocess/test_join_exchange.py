"""The research code's files of joined TPCs: into a store that equals our join of its single ones, and back."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import larstore
from larstore.errors import ConfigError, InputError
from larstore.testing import add_images, make_image
from preprocess import join, load_detector
from preprocess.exchange.export_xy import export_xy
from preprocess.exchange.import_xy import import_xy
from preprocess.exchange.objects import read_objects
from tests.preprocess.commands import larstore_command

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
TPCS = (1, 5, 9)
JOINED = GOLDEN / "batch0-reco_BeamCosmic_201_xy-TPC159.npz"
SINGLE = [GOLDEN / f"batch0-reco_BeamCosmic_201_xy-TPC{n}.npz" for n in TPCS]
DETECTOR = "protodune-sp-2021"


def test_its_joined_file_equals_our_join(tmp_path):
    single = import_xy(SINGLE, tmp_path / "single.zarr", DETECTOR)
    join(single.path, tmp_path / "ours.zarr", TPCS)
    theirs = import_xy([JOINED], tmp_path / "theirs.zarr", DETECTOR, joined=TPCS)
    assert larstore.diff(tmp_path / "ours.zarr", theirs.path) == []
    assert theirs.geometry.hash == larstore.open(tmp_path / "ours.zarr").geometry.hash
    assert theirs.attributes["joined"] == [1, 5, 9]
    assert larstore.verify(theirs.path).ok


def pickled(rows, repeats=1):
    """An xy file's Y_truth as the research code joins it: for each event a list of rows."""
    truth = np.empty(repeats, object)
    truth[:] = [rows] * repeats  # one list that is named again and again
    file = io.BytesIO()
    np.save(file, truth, allow_pickle=True)
    return file.getvalue()


def test_lists_of_rows_are_read_and_nothing_else(tmp_path):
    (found,) = read_objects(pickled([np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])]), "here")
    assert_array_equal(found, [[1, 2, 3, 4], [5, 6, 7, 8]])
    many = [np.arange(4.0) + i for i in range(3000)]
    assert_array_equal(read_objects(pickled(many), "here")[0], np.array(many))
    for rows in ([], [[1.0]], [np.zeros(3), np.zeros(4)], [np.zeros(4), np.zeros(4, np.int32)], [np.zeros((2, 2))]):
        with pytest.raises(InputError, match=r"here: its pickle holds more than numeric arrays"):
            read_objects(pickled(rows), "here")
    with pytest.raises(InputError, match=r"more than \d+ rows"):
        read_objects(pickled(many, repeats=500), "here")


def test_our_join_goes_out_as_its_file(tmp_path):
    single = import_xy(SINGLE, tmp_path / "single.zarr", DETECTOR)
    join(single.path, tmp_path / "ours.zarr", TPCS)
    (path,) = export_xy(larstore.open(tmp_path / "ours.zarr").select(), tmp_path / "out")
    assert path.name == JOINED.name
    ours, golden = np.load(path, allow_pickle=True), np.load(JOINED, allow_pickle=True)  # our own files
    rows = [data["X"][np.lexsort(data["X"][:, [2, 1, 0, 3]].T)] for data in (ours, golden)]
    assert_array_equal(rows[0][:, :4], rows[1][:, :4])
    assert_allclose(rows[0][:, 4:], rows[1][:, 4:], rtol=1.2e-7)
    assert_array_equal(ours["starts"], golden["starts"])


def test_other_files_and_mixed_sides_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"TPC 159 is not one of .*; joined TPCs .* Fix: --joined 1,5,9"):
        import_xy([JOINED], tmp_path / "a.zarr", DETECTOR)
    with pytest.raises(InputError, match=r"TPC 1 is not one of 159; joined TPCs"):
        import_xy([SINGLE[0]], tmp_path / "a.zarr", DETECTOR, joined=TPCS)
    two = tmp_path / "batch0-reco_BeamCosmic_201_xy-TPC15.npz"
    shutil.copy(JOINED, two)
    with pytest.raises(
        InputError, match=r"voxels reach y = \d+, z = 6\d\d; TPC 1 of protodune-sp-2021 has 748 and 578"
    ):
        import_xy([two], tmp_path / "a.zarr", DETECTOR, joined=(1, 5))
    larstore.create(tmp_path / "run.zarr", geometry=load_detector(DETECTOR).geometry(), provenance={})
    add_images(tmp_path / "run.zarr", [make_image(0, 0, n) for n in (1, 2)])
    join(tmp_path / "run.zarr", tmp_path / "both.zarr", (1, 2))
    with pytest.raises(ConfigError, match="planes of TPCs 1 and 2 of protodune-sp-2021 have different orders by angle"):
        export_xy(larstore.open(tmp_path / "both.zarr").select(), tmp_path / "out")


def test_as_a_user_types_it(tmp_path):
    done = larstore_command(
        "import-xy", JOINED, "-o", tmp_path / "a.zarr", "--detector", DETECTOR, "--joined", "1,5,9"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [image.key for image in larstore.open(tmp_path / "a.zarr").select()] == [(201, 0, 1), (201, 1, 1)]
