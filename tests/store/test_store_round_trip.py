"""What is written is read: by larstore, by plain zarr and by xarray's own zarr engine."""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.records import Failure, ImageRecord, InputFile
from larstore.testing import add_images, make_geometry, make_image, make_store

ARRAYS = ("coords", "charge", "live", "truth")


def new_store(path, shard_rows=64, chunk_rows=16):
    larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=shard_rows, chunk_rows=chunk_rows)
    return path


def assert_same(image, record):
    for name in ARRAYS:
        found, expected = getattr(image, name), getattr(record, name)
        if expected is None:
            assert found is None
        else:
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    if record.truth_coords is None:
        assert image.truth_voxels is None
    else:
        np.testing.assert_array_equal(image.truth_voxels[0], record.truth_coords)
        np.testing.assert_array_equal(image.truth_voxels[1], record.truth_value)


def test_round_trip_through_every_reader(tmp_path):
    path = make_store(
        tmp_path / "a.zarr", n_files=2, n_events=3, tpcs=(1, 5), n_voxels=70, shard_rows=256, chunk_rows=64
    )
    store = larstore.open(path)
    assert len(store) == 12
    assert list(store.index.index[:2]) == [(0, 0, 1), (0, 0, 5)]
    group = zarr.open_group(path, mode="r")
    tree = xarray.open_datatree(path, engine="zarr")
    tree.load()
    for image in store.select():
        record = make_image(*image.key, n_voxels=70)
        assert_same(image, record)
        row = store.index.loc[image.key]
        rows = slice(int(row.voxel_start), int(row.voxel_start + row.voxel_count))
        for name in ARRAYS:
            np.testing.assert_array_equal(group[f"voxels/{name}"][rows], getattr(record, name))
            np.testing.assert_array_equal(tree[f"voxels/{name}"].values[rows], getattr(record, name))
        truth = slice(int(row.truth_start), int(row.truth_start + row.truth_count))
        np.testing.assert_array_equal(group["truth/coords"][truth], record.truth_coords)
        np.testing.assert_array_equal(group["truth/value"][truth], record.truth_value)
        np.testing.assert_allclose(row.charge_sum_v, record.charge[:, 1].sum(dtype=float))
        assert row.truth_sum == pytest.approx(record.truth_value.sum(dtype=float))
        assert group["inputs/path"][int(row["input"])] == record.input or record.input == ""
    assert list(group["index/file"][:]) == [0] * 6 + [1] * 6
    assert list(group["inputs/path"][:]) == ["input-0.npz", "input-1.npz"]
    assert tree["inputs/sha256"].values[1] == f"{1:064x}"
    np.testing.assert_array_equal(group["geometry/tail_z"][:], make_geometry((1, 5)).wires["tail"][:, 2])


def test_children_read_alone_agree_with_the_root(tmp_path):
    path = make_store(tmp_path / "a.zarr")
    for name in ("voxels/coords", "truth/value", "index/file", "inputs/path"):
        alone = zarr.open_array(path / name, mode="r")
        np.testing.assert_array_equal(alone[:], zarr.open_group(path, mode="r")[name][:])


def test_images_that_span_shards_and_empty_images(tmp_path):
    path = new_store(tmp_path / "a.zarr")
    sizes = [10, 0, 200, 64, 0, 7]
    images = [make_image(0, e, 1, n) for e, n in enumerate(sizes)]
    add_images(path, images)
    store = larstore.open(path)
    assert [len(i) for i in store.select()] == sizes
    for image, record in zip(store.select(), images, strict=True):
        assert_same(image, record)
    for start in range(len(sizes)):
        for stop in range(start, len(sizes) + 1):
            for image, record in zip(store.select().read(start, stop), images[start:stop], strict=True):
                assert_same(image, record)
    assert larstore.verify(path).ok


def test_only_empty_images(tmp_path):
    path = new_store(tmp_path / "a.zarr")
    add_images(path, [make_image(0, 0, 1, 0), make_image(0, 1, 1, 0, truth=False)])
    store = larstore.open(path)
    assert [len(i) for i in store.select()] == [0, 0]
    assert store.image(0, 0, 1).coords.shape == (0, 3)
    assert store.image(0, 0, 1).truth.shape == (0,)
    assert store.image(0, 1, 1).truth is None
    assert store.image(0, 0, 1).position().shape == (0, 3)
    assert larstore.verify(path).ok


def test_empty_store_and_empty_selection(tmp_path):
    path = new_store(tmp_path / "a.zarr")
    store = larstore.open(path)
    assert len(store.index) == len(store.inputs) == len(store.failures) == len(store.select()) == 0
    assert store.select(query="voxel_count > 5").rows.index.names == ["file", "event", "tpc"]
    assert store.select().read(0, 0) == []
    assert list(store.select()) == []
    assert store.select().to_xarray().sizes["voxel"] == 0
    xarray.open_datatree(path, engine="zarr").load()
    with pytest.raises(StoreError, match=r"no image with file=1 event=2 tpc=3.*Fix:"):
        store.image(1, 2, 3)


def test_no_truth(tmp_path):
    path = make_store(tmp_path / "a.zarr", truth=False)
    image = larstore.open(path).image(0, 0, 1)
    assert image.truth is None
    assert image.truth_voxels is None
    assert larstore.verify(path).ok


@st.composite
def records(draw):
    """Images with any coordinates, charges and truth that the format allows."""
    found = []
    for event in range(draw(st.integers(1, 4))):
        axis = st.one_of(st.integers(0, 65534), st.sampled_from([0, 65534]))
        places = sorted(draw(st.sets(st.tuples(axis, axis, axis), max_size=50)))
        n = len(places)
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        number = st.floats(width=32, allow_nan=False, allow_infinity=False)
        charge = np.array(draw(st.lists(number, min_size=n, max_size=n)) * 3, np.float32).reshape(3, n).T
        truth = draw(st.sampled_from(["none", "voxels", "all"]))
        value = rng.random(n).astype(np.float32)
        value[rng.random(n) < 0.2] = np.nan
        m = n // 2
        found.append(
            ImageRecord(
                *(draw(st.integers(0, 2**31 - 1)), event, draw(st.integers(0, 300))),
                coords=np.array(places, np.uint16).reshape(n, 3),
                charge=np.ascontiguousarray(charge),
                live=rng.integers(0, 8, n).astype(np.uint8),
                truth=None if truth == "none" else value,
                truth_coords=np.array(places[:m], np.uint16).reshape(m, 3) if truth == "all" else None,
                truth_value=rng.random(m).astype(np.float32) if truth == "all" else None,
                event_id=draw(st.integers(-1, 2**62)),
            )
        )
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("empty") / "a.zarr")


@settings(max_examples=25, deadline=None)
@given(records())
def test_what_is_written_is_read(empty, tmp_path_factory, images):
    path = shutil.copytree(empty, tmp_path_factory.mktemp("property") / "a.zarr")
    add_images(path, images)
    store = larstore.open(path)
    for record in images:
        image = store.image(*record.key)
        assert_same(image, record)
        assert image.summary("event_id") == record.event_id
    assert larstore.verify(path).ok


def test_a_pickled_store_sees_the_same_commit(tmp_path):
    path = make_store(tmp_path / "a.zarr", n_files=1)
    part = larstore.open(path).select()
    add_images(path, [make_image(7, 0, 1)])
    again = pickle.loads(pickle.dumps(part))  # noqa: S301 - our own: what a data loader's worker gets
    assert [i.key for i in again] == [i.key for i in part] == [(0, 0, 1), (0, 1, 1)]
    np.testing.assert_array_equal(again[0].coords, part[0].coords)
    assert len(larstore.open(path)) == 3


def test_inputs_and_failures(tmp_path):
    path = new_store(tmp_path / "a.zarr")
    first = InputFile("/data/ä 1.npz", 7, 10, "a" * 64, "Electron")
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(), [make_image(7, 0, 1, 5, input=first.path)], [first])
        writer.commit([receipt], [Failure(8, 1, "/data/2.npz", "truncated: line 1\nline 2"), Failure(9, 1, "x", "bad")])
        assert writer.file_numbers == {"/data/ä 1.npz": 7}
        assert (7, 0, 1) in writer.keys
        assert (8, 0, 1) not in writer.keys
        # The same file again is one row; a changed one another.
        changed = InputFile(first.path, 7, 11, "b" * 64, "Electron")
        for item, row in ((first, 0), (changed, 1), (first, 0), (changed, 1)):
            image = make_image(7, 0, 1, 6, input=item.path)
            writer.commit([larstore.write_block(path, writer.reserve(), [image], [item])])
            assert larstore.open(path).image(7, 0, 1).summary("input") == row
        writer.commit([larstore.write_block(path, writer.reserve(), [make_image(8, 0, 1, 5)], [])])
    store = larstore.open(path)
    assert list(store.inputs["sha256"]) == ["a" * 64, "b" * 64]
    assert list(store.inputs["sample"]) == ["Electron"] * 2
    assert store.index.loc[(7, 0, 1), "input"] == 1
    assert store.failures[["file", "error"]].to_numpy().tolist() == [[9, "bad"]]  # 8 was processed since


def test_redo_takes_the_newest_row_and_delete_hides_it(tmp_path):
    path = make_store(tmp_path / "a.zarr", n_files=2, n_events=1)
    record = make_image(0, 0, 1, 33, seed=9)
    add_images(path, [record])
    store = larstore.open(path)
    assert len(store) == 2
    assert_same(store.image(0, 0, 1), record)
    with larstore.StoreWriter(path) as writer:
        writer.delete([(0, 0, 1)])
        assert (0, 0, 1) not in writer.keys
        assert set(writer.keys) == {(1, 0, 1)}
        assert len(writer.keys) == 1
        with pytest.raises(StoreError, match=r"no image \(0, 0, 1\) to delete"):
            writer.delete([(0, 0, 1)])
    store = larstore.open(path)
    assert list(store.index.index) == [(1, 0, 1)]
    with pytest.raises(StoreError, match="no image"):
        store.image(0, 0, 1)
    assert larstore.verify(path).ok
    add_images(path, [record])
    assert_same(larstore.open(path).image(0, 0, 1), record)


def test_position_is_the_voxel_centre(tmp_path):
    path = make_store(tmp_path / "a.zarr", n_files=1, n_events=1)
    image = larstore.open(path).image(0, 0, 1)
    frame = make_geometry().tpcs[1]
    for coords, place in zip(image.coords[:5].tolist(), image.position(t0=3.0)[:5].tolist(), strict=True):
        tick = (coords[0] + 0.5) * 8
        drift_us = (tick - frame.tick_zero_drift) * 0.5 - 3.0
        assert place[0] == pytest.approx((-100.0 + drift_us * 1.6) / 10)
        assert place[1] == pytest.approx((coords[1] + 0.5) * 4 * 2.0 / 10)
        assert place[2] == pytest.approx((coords[2] + 0.5) * 4 * 2.0 / 10)


def bad_images():
    good = make_image(0, 0, 1, 20)
    swapped = good.coords.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    doubled = good.coords.copy()
    doubled[1] = doubled[0]
    far = good.coords.copy()
    far[-1] = 65535
    nan = good.charge.copy()
    nan[3, 1] = np.nan
    change = {
        "coords is not sorted": {"coords": swapped},
        "without doubles": {"coords": doubled},
        "reaches 65535": {"coords": far},
        "charge holds NaN": {"charge": nan},
        "charge is float64": {"charge": good.charge.astype(float)},
        "live has bits": {"live": np.full(20, 8, np.uint8)},
        "belong together": {"truth_value": None},
        r"truth is float32\(5,\)": {"truth": good.truth[:5]},
        "a key is not in": {"tpc": -1},
    }
    return [pytest.param(message, values, id=message) for message, values in change.items()]


@pytest.mark.parametrize(("message", "values"), bad_images())
def test_what_the_format_cannot_hold_is_refused(tmp_path, message, values):
    path = new_store(tmp_path / "a.zarr")
    record = ImageRecord(**(vars(make_image(0, 0, 1, 20, input="in.npz")) | values))
    with larstore.StoreWriter(path) as writer:
        spec = writer.reserve()
        with pytest.raises(StoreError, match=rf"image \(0, 0, .*of in.npz: .*{message}.*Fix: "):
            larstore.write_block(path, spec, [record], [])
    assert not list((path / "voxels").rglob("c/*"))


def test_a_block_that_is_too_small_says_what_is_needed(tmp_path):
    path = new_store(tmp_path / "a.zarr")
    with larstore.StoreWriter(path) as writer:
        with pytest.raises(larstore.BlockFull) as full:
            larstore.write_block(path, writer.reserve(), [make_image(0, 0, 1, 64), make_image(0, 1, 1, 65)], [])
        assert pickle.loads(pickle.dumps(full.value)).needed == 3  # noqa: S301 - our own: as from a worker
        spec = writer.reserve(full.value.needed)
        assert spec.first_shard == 1
        writer.commit([larstore.write_block(path, spec, [make_image(0, 0, 1, 64), make_image(0, 1, 1, 65)], [])])
    assert larstore.verify(path).ok


@pytest.mark.parametrize("content", ["directory", "file", "link"])
def test_create_refuses_what_exists(tmp_path, content):
    path = tmp_path / "a.zarr"
    {"directory": path.mkdir, "file": path.touch, "link": lambda: path.symlink_to("nowhere")}[content]()
    with pytest.raises(StoreError, match=r"a.zarr: exists already. Fix:"):
        new_store(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_create_refuses_a_place_inside_a_store(tmp_path):
    """Nobody would look for it there, and whoever removes the outer one would lose it."""
    outer = new_store(tmp_path / "a.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=r"b\.zarr: lies inside the store .*a\.zarr\. Fix:"):
        new_store(outer / "deep" / "b.zarr")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 2, "a": 3, (4,): 5}])
def test_create_with_what_is_no_json_leaves_nothing(tmp_path, value):
    with pytest.raises(StoreError, match="no JSON value"):
        larstore.create(tmp_path / "a.zarr", geometry=make_geometry(), provenance={"x": value})
    assert list(tmp_path.iterdir()) == []


def test_provenance_of_any_json_like_kind(tmp_path):
    provenance = {10: (1, 2), 9: None, "ä": "\ud800", "nested": {"2": 1e-300, "10": -0.0}}
    larstore.create(tmp_path / "a.zarr", geometry=make_geometry(n_wires=1), provenance=provenance)
    found = larstore.open(tmp_path / "a.zarr").attributes["provenance"]
    assert found == {"10": [1, 2], "9": None, "ä": "\ud800", "nested": {"2": 1e-300, "10": -0.0}}


@pytest.mark.parametrize("kind", ["missing", "empty", "group"])
def test_what_is_no_store_is_refused(tmp_path, kind):
    path = tmp_path / "a.zarr"
    if kind == "empty":
        path.mkdir()
    if kind == "group":
        zarr.create_group(path)
    for action in (larstore.open, larstore.verify, lambda p: larstore.StoreWriter(p).__enter__()):
        with pytest.raises(StoreError, match=r"a\.zarr.* not a larstore store.*Fix:"):
            action(path)
    assert not (path / ".larstore").exists()


def charges(part):
    return [image.charge for image in part.read(0, len(part))]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_reading_in_child_processes(tmp_path, method):
    """As a data loader's workers do, after the parent has used its own decoding threads."""
    path = make_store(tmp_path / "a.zarr", n_files=1, n_events=2, n_voxels=400, shard_rows=1024, chunk_rows=64)
    part = larstore.open(path).select()
    expected = charges(part)
    with multiprocessing.get_context(method).Pool(2) as workers:
        for found in workers.map(charges, [part, part[:1], part]):
            for a, b in zip(found, expected, strict=False):
                np.testing.assert_array_equal(a, b)
