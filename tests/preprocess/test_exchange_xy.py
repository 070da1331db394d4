"""The research code's files into a store and back: its own golden files, two batches, predictions, refusals."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import larstore
from larstore.errors import ConfigError, InputError, StoreError
from larstore.testing import add_images, make_geometry, make_image, make_store
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.exchange.export_xy import export_xy
from preprocess.exchange.import_xy import import_xy
from preprocess.exchange.objects import write_objects
from preprocess.exchange.research import angle_order
from preprocess.pipeline import process_unit
from preprocess.plan import Unit

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
SAMPLES = [("singleMu_101", 1), ("BeamCosmic_201", 1), ("BeamCosmic_201", 5), ("BeamCosmic_201", 9)]
FILES = [GOLDEN / f"batch0-reco_{sample}_xy-TPC{tpc}.npz" for sample, tpc in SAMPLES]


def by_place(rows):
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0], rows[:, 3]))]


def write_xy(path, events, truth=True, **changes):
    """A small xy file; ``events``: lists of rows x, y, z, three charges, truth."""
    rows = [[*r[:3], i, *r[3:6]] for i, event in enumerate(events) for r in event]
    members = {
        "X": np.array(rows, np.float32).reshape(-1, 7),
        "starts": np.cumsum([0, *(len(e) for e in events[:-1])]),
    }
    if truth:
        members["Y"] = np.array([[r[6]] for event in events for r in event], np.float32).reshape(-1, 1)
        members["Y_truth"] = np.empty(len(events), object)
        for i, event in enumerate(events):
            members["Y_truth"][i] = np.array([[*r[:3], r[6]] for r in event if r[6]], float).reshape(-1, 4)
    np.savez(path, **{k: v for k, v in (members | changes).items() if v is not None})
    return path


SMALL = [[(3, 2, 1, 0.5, 1.5, 2.5, 0), (1, 2, 3, 1.0, 2.0, 3.0, 7000.0)], [], [(9, 9, 9, 4.0, 5.0, 6.0, 9000.0)]]


def test_golden_files_into_a_store(tmp_path):
    store = import_xy(FILES, tmp_path / "a.zarr", "protodune-sp-2021")
    assert larstore.verify(store.path).ok
    assert sorted(set(store.index.reset_index()["file"])) == [101, 201]
    for path, (sample, tpc) in zip(FILES, SAMPLES, strict=True):
        golden = np.load(path, allow_pickle=True)  # our own copy of a file that we trust
        for event in range(len(golden["starts"])):
            image = store.image(int(sample.rpartition("_")[2]), event, tpc)
            rows = by_place(golden["X"][golden["X"][:, 3] == event])
            assert_array_equal(image.coords, rows[:, :3])
            u, x, v = rows[:, 4:].T  # on odd TPCs
            assert_allclose(image.charge, 1000 * np.stack([u, v, x], axis=1), rtol=2e-7)
            truth = golden["Y_truth"][event]
            truth = truth[np.lexsort(truth[:, 2::-1].T)]
            assert_array_equal(image.truth_voxels[0], truth[:, :3])
            assert_array_equal(image.truth_voxels[1], truth[:, 3])
            assert (image.live == 0b111).all()


def test_golden_files_equal_what_we_tile_from_the_same_input(tmp_path):
    store = import_xy([FILES[1]], tmp_path / "a.zarr", "protodune-sp-2021")
    wire = GOLDEN / "reco_BeamCosmic_201_wire-TPC1.npz"
    config = RunConfig(inputs=(str(wire),), output=tmp_path / "b.zarr", detector="protodune-sp-2021", min_live_planes=1)
    geometry_hash = load_detector("protodune-sp-2021").geometry().hash
    for record in process_unit(Unit(str(wire), 201, 1, 0), config, geometry_hash).images:
        image = store.image(*record.key)
        assert_array_equal(image.coords, record.coords)
        assert_allclose(image.charge, record.charge, rtol=1e-6, atol=1e-6)
        assert_array_equal(image.truth, record.truth)
        assert_array_equal(image.truth_voxels[0], record.truth_coords)


def test_golden_files_come_back_out(tmp_path):
    store = import_xy(FILES, tmp_path / "a.zarr", "protodune-sp-2021")
    paths = export_xy(store.select(), tmp_path / "back")
    assert sorted(p.name for p in paths) == sorted(p.name for p in FILES)
    for path in FILES:
        golden = np.load(path, allow_pickle=True)
        back = np.load(tmp_path / "back" / path.name, allow_pickle=True)
        assert_array_equal(back["starts"], golden["starts"])
        joined = [np.concatenate([f["X"], f["Y"]], axis=1) for f in (back, golden)]
        ours, theirs = (by_place(rows) for rows in joined)
        assert ours.dtype == theirs.dtype
        assert_array_equal(ours[:, [0, 1, 2, 3, 7]], theirs[:, [0, 1, 2, 3, 7]])
        assert_allclose(ours[:, 4:7], theirs[:, 4:7], rtol=1.2e-7)  # one bit of a float32
        assert back["Y_truth"].dtype == object
        for a, b in zip(back["Y_truth"], golden["Y_truth"], strict=True):
            assert_array_equal(a, b[np.lexsort(b[:, 2::-1].T)])
    again = import_xy(paths, tmp_path / "again.zarr", "protodune-sp-2021")
    assert_array_equal(again.select()[0].coords, store.select()[0].coords)


def test_planes_are_ordered_by_angle():
    geometry = load_detector("protodune-sp-2021").geometry()
    assert [angle_order(geometry, tpc) for tpc in (1, 2)] == [[0, 2, 1], [1, 2, 0]]  # U X V, and V X U
    with pytest.raises(ConfigError, match="TPC 159 is not one of protodune-sp-2021's"):
        angle_order(geometry, 159)


def test_even_tpcs_have_v_first(tmp_path):
    path = write_xy(tmp_path / "batch0-reco_Mu_4_xy-TPC2.npz", SMALL)
    store = import_xy([path], tmp_path / "a.zarr", "protodune-sp-2021")
    image = store.image(4, 0, 2)
    assert_array_equal(image.coords, [[1, 2, 3], [3, 2, 1]])
    assert_array_equal(image.charge, [[3000, 1000, 2000], [2500, 500, 1500]])
    assert_array_equal(image.truth, [7000, 0])
    assert len(store.image(4, 1, 2)) == 0
    (back,) = export_xy(store.select(), tmp_path / "out")
    assert_array_equal(np.load(back)["X"][0], [1, 2, 3, 0, 1, 2, 3])
    assert_array_equal(np.load(back)["starts"], [0, 2, 2])


def test_events_go_on_through_batches_and_scores_follow_their_rows(tmp_path):
    first = write_xy(tmp_path / "batch0-reco_Mu_4_xy-TPC1.npz", SMALL)
    second = write_xy(tmp_path / "batch1-reco_Mu_4_xy-TPC1.npz", SMALL[:1])
    other = write_xy(tmp_path / "batch0-reco_Mu_5_xy-TPC1.npz", SMALL)
    scores = tmp_path / "batch0-reco_Mu_4_yinf-TPC1.npz"
    np.savez(scores, np.array([[0.1], [0.2], [0.3]], np.float32))
    store = import_xy([second, first, scores, other], tmp_path / "a.zarr", "protodune-sp-2021", prediction="old")
    assert [image.key for image in store.select(files=(4, 4))] == [(4, e, 1) for e in range(4)]
    assert_array_equal(store.image(4, 0, 1).score("old"), np.float32([0.2, 0.1]))
    assert_array_equal(store.image(4, 2, 1).score("old"), np.float32([0.3]))
    assert np.isnan(store.image(5, 0, 1).score("old")).all()
    assert np.isnan(store.image(4, 3, 1).score("old")).all()
    paths = export_xy(store.select(files=(4, 4), events=(0, 2)), tmp_path / "out", "old")
    assert [p.name for p in paths] == ["batch0-reco_Mu_4_xy-TPC1.npz", "batch0-reco_Mu_4_yinf-TPC1.npz"]
    assert_array_equal(np.load(paths[1])["arr_0"], np.float32([[0.2], [0.1], [0.3]]))
    with pytest.raises(StoreError, match=re.escape("image (4, 3, 1) is not predicted by 'old'")):
        export_xy(store.select(files=(4, 4)), tmp_path / "out2", "old")


def test_real_data_has_no_truth(tmp_path):
    path = write_xy(tmp_path / "batch0-reco_Mu_4_xy-TPC1.npz", SMALL, truth=False)
    store = import_xy([path], tmp_path / "a.zarr", "protodune-sp-2021")
    assert store.image(4, 0, 1).truth is None
    (back,) = export_xy(store.select(), tmp_path / "out")
    assert np.load(back).files == ["X", "starts", "events"]


def test_stores_of_any_detector_are_exported(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 2)
    (back,) = export_xy(larstore.open(path).select(events=(1, 1)), tmp_path / "out")
    assert back.name == "batch0-larstore_0_xy-TPC1.npz"
    data = np.load(back, allow_pickle=True)
    image = larstore.open(path).image(0, 1, 1)
    assert_array_equal(data["X"][:, :3], image.coords)
    assert set(data["X"][:, 3]) == {0}
    assert_array_equal(data["events"], [1])
    assert_array_equal(data["Y_truth"][0][:, 3], image.truth_voxels[1])
    with pytest.raises(ConfigError, match="exists already"):
        export_xy(larstore.open(path).select(), tmp_path / "out")


def test_inputs_that_would_get_one_name(tmp_path):
    path = tmp_path / "a.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={})
    inputs = [larstore.InputFile(f"{d}/x_7_wire-TPC1.npz", n, 1, d, "") for n, d in enumerate("ab")]
    add_images(path, [make_image(n, input=inputs[n].path) for n in range(2)], inputs)
    with pytest.raises(StoreError, match="two inputs are named x_7"):
        export_xy(larstore.open(path).select(), tmp_path / "out")


NAN = np.full((3, 7), np.nan, np.float32)
ROWS = np.float32([[3, 2, 1, 0, 1, 1, 1], [1, 2, 3, 0, 1, 1, 1], [9, 9, 9, 2, 1, 1, 1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "has no array X"),
        ({"starts": None}, "has no array starts"),
        ({"X": ROWS[:, :6]}, "X has shape (3, 6), expected (-1, 7)"),
        ({"X": np.where(np.arange(7) == 5, NAN, ROWS)}, "X[0, 5] is nan"),
        ({"X": ROWS + np.float32([0.5, 0, 0, 0, 0, 0, 0])}, "event 0 of X: row 0 has the voxel [3.5, 2.0, 1.0]"),
        ({"X": ROWS * np.float32([-1, 1, 1, 1, 1, 1, 1])}, "row 0 has the voxel [-3.0, 2.0, 1.0]"),
        ({"X": ROWS[[0, 0, 2]]}, "event 0 of X: holds voxel [3, 2, 1] twice"),
        ({"X": ROWS + np.float32([0, 0, 800, 0, 0, 0, 0])}, "voxels reach y = 2, z = 803; TPC 1 of protodune-sp-2021"),
        ({"X": ROWS + np.float32([0, 0, 0, 1, 0, 0, 0])}, "the event column of X differs from starts"),
        ({"starts": np.array([0, 2, 5])}, "starts do not ascend from 0 to 3 rows"),
        ({"starts": np.array([0.0, 2, 2])}, "starts do not ascend"),
        ({"Y": np.ones((2, 1), np.float32)}, "Y has shape (2, 1), expected (3, 1)"),
        ({"Y_truth": np.ones((2, 4, 4))}, "Y_truth has 2 events, X has 3"),
        ({"Y_truth": np.ones((3, 4, 3))}, "Y_truth of event 0 has shape (4, 3)"),
        ({"Y_truth": np.ones((3, 2, 4))}, "event 0 of Y_truth: holds voxel [1, 1, 1] twice"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, changes, message):
    path = write_xy(tmp_path / "batch0-reco_Mu_4_xy-TPC1.npz", SMALL, **changes)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        import_xy([path], tmp_path / "a.zarr", "protodune-sp-2021")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-made


def test_names_and_groups_that_do_not_fit(tmp_path):
    def refused(kind, message, *names, output="a.zarr"):
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            if "yinf" in path.name:
                np.savez(path, np.zeros(2))
            else:
                write_xy(path, SMALL)
        with pytest.raises(kind, match=re.escape(message)):
            import_xy(paths, tmp_path / output, "protodune-sp-2021")

    refused(InputError, "joined TPCs (159 is 1, 5 and 9) cannot be imported", "batch0-a_1_xy-TPC159.npz")
    refused(InputError, "is not named as the research code does", "a_1_wire-TPC1.npz")
    refused(InputError, "its batch0-a_1_xy-TPC1.npz is not given", "batch0-a_1_yinf-TPC1.npz")
    refused(ConfigError, "batch1-a_1_xy-TPC1.npz is missing", "batch0-a_1_xy-TPC1.npz", "batch2-a_1_xy-TPC1.npz")
    refused(InputError, "a_1, b_1: all are file 1", "batch0-a_1_xy-TPC1.npz", "batch0-b_1_xy-TPC1.npz")
    refused(InputError, "has the name of", "batch0-a_1_xy-TPC1.npz", "sub/batch0-a_1_xy-TPC1.npz")
    refused(InputError, "not one array of its xy file's 3 rows", "batch0-a_1_xy-TPC1.npz", "batch0-a_1_yinf-TPC1.npz")
    refused(ConfigError, "no xy files")
    (tmp_path / "there.zarr").mkdir()
    refused(ConfigError, "exists already", "batch0-a_1_xy-TPC1.npz", output="there.zarr")
    with pytest.raises(InputError, match="no such file"):
        import_xy([tmp_path / "batch0-none_1_xy-TPC1.npz"], tmp_path / "a.zarr", "protodune-sp-2021")
    assert not (tmp_path / "a.zarr").exists()


def test_joined_golden_file_is_refused(tmp_path):
    path = tmp_path / "batch0-reco_BeamCosmic_201_xy-TPC159.npz"
    shutil.copy(GOLDEN / path.name, path)
    with pytest.raises(InputError, match="joined TPCs"):
        import_xy([path], tmp_path / "a.zarr", "protodune-sp-2021")


def test_equal_lengths_of_truth_make_one_array(tmp_path):
    equal = [[(1, 2, 3, 1, 2, 3, 5.0)], [(4, 5, 6, 1, 2, 3, 6.0)]]
    for name, truth in (
        ("array", np.array([[[1, 2, 3, 5.0]], [[4, 5, 6, 6.0]]])),
        ("objects", None),
    ):
        changes = {} if truth is None else {"Y_truth": truth}
        path = write_xy(tmp_path / f"batch0-{name}_1_xy-TPC1.npz", equal, **changes)
        store = import_xy([path], tmp_path / f"{name}.zarr", "protodune-sp-2021")
        assert_array_equal(store.image(1, 1, 1).truth_voxels[1], [6.0])
    assert larstore.diff(tmp_path / "array.zarr", tmp_path / "objects.zarr") == []
    assert write_objects([])[:6] == b"\x93NUMPY"
