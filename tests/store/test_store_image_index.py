"""``sel`` of a ragged Dataset by file, event and TPC: whole images with their rows, never rows of others."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.index import KEYS
from larstore.testing import add_images, make_geometry, make_image

KEYS_THERE = [(f, e, t) for f in (1, 2, 4) for e in (0, 1) for t in (1, 5) if (f, e, t) != (4, 1, 5)]
COUNTS = {(f, e, t): 0 if (f, e, t) == (1, 1, 5) else 7 + 5 * f + 3 * e + t for f, e, t in KEYS_THERE}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sel") / "a.zarr"
    larstore.create(path, geometry=make_geometry((1, 5)), provenance={}, shard_rows=64, chunk_rows=16)
    for file in (4, 1, 2):
        images = [make_image(*key, n, truth=key[1] == 0) for key, n in COUNTS.items() if key[0] == file]
        add_images(path, images)
    return path


@pytest.fixture
def ds(path):
    with xr.open_dataset(path, engine="larstore") as opened:
        yield opened


def check(found, path, expected):
    """Whether ``found`` is the ragged Dataset of the images with these keys."""
    store = larstore.open(path)
    keys = list(zip(*(found[name].values.tolist() for name in ("file", "event", "tpc")), strict=True))
    assert keys == expected
    images = [store.image(*key) for key in expected]
    assert found.voxel_count.values.tolist() == [len(image) for image in images]
    empty = store.image(1, 1, 5)
    everything = [*images, empty]  # so that there is something to concatenate
    np.testing.assert_array_equal(found["coords"], np.concatenate([image.coords for image in everything]))
    np.testing.assert_array_equal(found["charge"], np.concatenate([image.charge for image in everything]))
    values = [image.truth_voxels[1] for image in images if image.truth_voxels is not None]
    np.testing.assert_array_equal(found["truth_value"], np.concatenate([np.empty(0, np.float32), *values]))
    for name, count in (("image_of_voxel", "voxel_count"), ("image_of_true_voxel", "truth_count")):
        np.testing.assert_array_equal(found[name], np.repeat(np.arange(len(images)), found[count].values))


def test_one_file_and_tpc(ds, path):
    check(ds.sel(file=2, tpc=1), path, [(2, 0, 1), (2, 1, 1)])
    check(ds.sel(file=4, event=0, tpc=5), path, [(4, 0, 5)])
    check(ds.sel(file=np.int64(1)).sel(tpc=5).sel(event=[1]), path, [(1, 1, 5)])
    np.testing.assert_array_equal(ds.sel(file=2, plane="v").charge, ds.sel(file=2).charge[:, 1])


def matches(value, label):
    if isinstance(label, slice):
        return (label.start is None or value >= label.start) and (label.stop is None or value <= label.stop)
    return value in label if isinstance(label, list) else value == label


def in_steps(ds, steps):
    for step in steps:
        ds = ds.sel(step)
    return ds


BOUND = st.none() | st.integers(0, 5)


@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")  # 37 rows are no shard
@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "file": st.sampled_from([1, 2, 4, 3])
            | st.builds(slice, BOUND, BOUND)
            | st.lists(st.sampled_from([1, 2, 4, 9])),
            "event": st.sampled_from([0, 1, 2]) | st.builds(slice, BOUND, BOUND) | st.lists(st.sampled_from([0, 1])),
            "tpc": st.sampled_from([1, 5]) | st.builds(slice, BOUND, BOUND) | st.lists(st.sampled_from([1, 5])),
        },
    ),
    st.sampled_from(["together", "in steps", "dask", "loaded"]),
)
def test_any_labels(path, labels, how):
    ds = xr.open_dataset(path, engine="larstore", chunks={"voxel": 37} if how == "dask" else None)
    ds = ds.load() if how == "loaded" else ds
    expected = [k for k in COUNTS if all(matches(k[KEYS.index(n)], v) for n, v in labels.items())]
    numbers = [(name, x) for name, v in labels.items() if not isinstance(v, slice) for x in np.atleast_1d(v)]
    absent = any(x not in {k[KEYS.index(name)] for k in COUNTS} for name, x in numbers)
    may_be_empty = any(isinstance(v, slice) or v == [] for v in labels.values())
    steps = [{name: label} for name, label in labels.items()] if how == "in steps" else [labels]
    if absent or not (expected or may_be_empty):
        with pytest.raises(KeyError, match="no image with"):
            in_steps(ds, steps)
        return
    if not expected and how == "in steps":
        steps = [labels]  # what a step leaves may lack the number of the next
    check(in_steps(ds, steps), path, expected)


def test_only_the_rows_of_the_chosen_images_are_read(path, monkeypatch):
    seen = []
    real = larstore.Store.read_rows
    monkeypatch.setattr(larstore.Store, "read_rows", lambda s, p, a, b: seen.append((p, a, b)) or real(s, p, a, b))
    part = larstore.open(path).select().to_xarray().sel(file=2, tpc=5)
    assert part.sizes["voxel"] == 22 + 25
    assert seen == []
    _ = part.charge.values
    assert {p for p, _, _ in seen} == {"voxels/charge"}
    assert sum(b - a for _, a, b in seen) == 22 + 25 + 21  # and the image between them, which is nearer than a chunk


def test_rows_far_apart_are_read_one_by_one(path, monkeypatch):
    monkeypatch.setattr(larstore.xarray, "CHUNK_ROWS", 2)
    store, seen = larstore.open(path), []
    real = larstore.Store.read_rows
    monkeypatch.setattr(larstore.Store, "read_rows", lambda s, p, a, b: seen.append(b - a) or real(s, p, a, b))
    part = store.select().to_xarray().sel(tpc=5)
    found = part.charge.values
    assert seen == [len(image) for image in store.select(tpcs=[5]) if len(image)]
    np.testing.assert_array_equal(found, np.concatenate([image.charge for image in store.select(tpcs=[5])]))
    every = store.select().to_xarray().charge
    rows = [3, 90, 4, 4, 200, 0]
    np.testing.assert_array_equal(every[rows, [2, 0]], every.values[np.ix_(rows, [2, 0])])


@pytest.mark.parametrize(
    "by", [{"voxel": slice(3, None)}, {"image": [0, 2]}, {"true_voxel": 1}, {"image": 0}, {"voxel": [1, 1], "image": 1}]
)
def test_after_indexing_by_position_nothing_is_selected(ds, by):
    """Rows and images may not belong together any more; a wrong row would be worse than none."""
    parted = ds.isel(by)
    for name, values in ds.isel(by).data_vars.items():
        np.testing.assert_array_equal(values, ds[name].isel(by, missing_dims="ignore"))
    np.testing.assert_array_equal(parted.image_of_voxel, ds.image_of_voxel.isel(by, missing_dims="ignore"))
    for later in (parted, parted.isel(voxel=slice(2)), (parted + parted) / 2, parted.load().copy()):
        with pytest.raises(StoreError, match=r"sel\(file=1\): images and rows .*Fix: first sel, then isel"):
            later.sel(file=1)


def test_groups_of_rows(ds):
    sums = ds.charge.groupby("image_of_voxel").sum().sel(plane="w")
    filled = ds.voxel_count.values > 0
    np.testing.assert_allclose(sums, ds.charge_sum_w.values[filled], rtol=1e-4)
    assert sums.image_of_voxel.values.tolist() == np.flatnonzero(filled).tolist()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ({"file": "a"}, {}, r"sel\(file='a'\): Fix: give a whole number"),
        ({"tpc": [[1]]}, {}, r"sel\(tpc=\[\[1\]\]\): Fix: give a whole number"),
        ({"file": slice(1, 4, 2)}, {}, r"Fix: give a whole number, a list of them, or slice\(first, last\)"),
        ({"file": 2}, {"method": "nearest"}, r"sel\(file=2\): Fix: select exact numbers of file, event, tpc"),
        ({"image_of_voxel": 2}, {}, r"sel\(image_of_voxel=2\): Fix: select exact numbers of file, event, tpc"),
    ],
)
def test_wrong_labels_are_one_line(ds, labels, options, message):
    with pytest.raises(StoreError, match=message) as error:
        ds.sel(labels, **options)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_not_there_is_a_key_error(ds):
    with pytest.raises(KeyError, match="no image with file=9"):
        ds.sel(file=[1, 9])
    with pytest.raises(KeyError, match="no image with file=4, event=1, tpc=5"):
        ds.sel(file=4, event=1, tpc=5)
    with pytest.raises(KeyError, match="no image with tpc=5"):
        ds.sel(file=4, event=1).sel(tpc=5)


def test_equal_indexes_align_and_others_do_not(ds, path):
    again = xr.open_dataset(path, engine="larstore")
    both = ds + again
    np.testing.assert_array_equal(both.voxel_count, 2 * ds.voxel_count)
    assert "file" in both.xindexes
    assert ds.xindexes["file"].equals(again.xindexes["file"])
    assert not ds.xindexes["file"].equals(ds.sel(file=2).xindexes["file"])
    assert not ds.xindexes["file"].equals(ds.xindexes["plane"])


def test_the_engine_drops_keys_and_takes_samples(path):
    with xr.open_dataset(path, engine="larstore", drop_variables=["file", "live"]) as ds:
        assert not {"file", "live"} & set(ds.variables)
        assert "event" in ds.coords
        assert list(ds.xindexes) == ["plane", "axis"]
    with pytest.raises(StoreError, match="no input of sample 'muon'"):
        xr.open_dataset(path, engine="larstore", sample="muon")


def test_it_can_be_written_and_read_again(ds, tmp_path):
    ds.sel(file=2).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as again:
        xr.testing.assert_identical(
            again.load().drop_indexes(["plane", "axis"]), ds.sel(file=2).load().drop_indexes(list(ds.xindexes))
        )
