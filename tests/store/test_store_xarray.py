"""The xarray engine: gaps closed, lazy, labelled, CF contiguous ragged."""

import numpy as np
import pytest
import xarray
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import larstore
from larstore.testing import add_images, make_geometry, make_image


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("xarray") / "a.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=64, chunk_rows=16)
    add_images(path, [make_image(1, e, 1, n) for e, n in enumerate([30, 0, 90])])
    add_images(path, [make_image(0, 0, 1, 50), make_image(0, 1, 1, 20, truth=False)])
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a"}) as writer:
        for shard, images in writer.groups(larstore.open(path).select(files=(1, 1))):
            writer.write(shard, [(i, i.charge[:, 0]) for i in images])
        writer.commit()
    return path


def test_the_engine_gives_the_ragged_array(path):
    with xarray.open_dataset(path, engine="larstore") as ds:
        store = larstore.open(path)
        assert ds.sizes == {"image": 5, "voxel": 190, "true_voxel": ds.truth_count.sum(), "plane": 3, "axis": 3}
        assert ds.voxel_count.attrs["sample_dimension"] == "voxel"
        assert ds.charge.attrs["units"] == "electrons"
        assert list(ds.plane.values) == ["u", "v", "w"]
        assert list(zip(ds.file.values, ds.event.values, ds.tpc.values, strict=True)) == [i.key for i in store.select()]
        ends = np.cumsum(ds.voxel_count.values)
        for image, end, count in zip(store.select(), ends, ds.voxel_count.values, strict=True):
            rows = slice(int(end - count), int(end))
            np.testing.assert_array_equal(ds["coords"][rows], image.coords)
            np.testing.assert_array_equal(ds.charge.sel(plane="v")[rows], image.charge[:, 1])
            np.testing.assert_array_equal(ds.score_net[rows], image.score("net"))
            if image.truth is None:
                assert np.isnan(ds.truth[rows]).all()
            else:
                np.testing.assert_array_equal(ds.truth[rows], image.truth)
        ds.load()


def test_it_reads_only_what_is_asked_for(path, monkeypatch):
    seen = []
    real = larstore.Store.read_rows
    monkeypatch.setattr(larstore.Store, "read_rows", lambda s, p, a, b: seen.append((p, a, b)) or real(s, p, a, b))
    ds = larstore.open(path).select().to_xarray()
    assert seen == []
    _ = ds.charge[5:7].values
    assert [(p, b - a) for p, a, b in seen] == [("voxels/charge", 2)]


def test_selection_arguments(path):
    ds = xarray.open_dataset(path, engine="larstore", files=(1, 1), query="voxel_count > 0", drop_variables="live")
    assert ds.sizes["voxel"] == 120
    assert "live" not in ds


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_index_equals_numpys(path, data):
    ds = larstore.open(path).select().to_xarray()
    full = np.concatenate([image.charge for image in larstore.open(path).select()])
    bound = st.none() | st.integers(-200, 200)
    step = st.none() | st.sampled_from([-7, -1, 1, 3])
    row = st.one_of(
        st.builds(slice, bound, bound, step), st.integers(-190, 189), st.lists(st.integers(0, 189), max_size=5)
    )
    column = st.sampled_from([slice(None), 1, slice(0, 2), [2, 0]])
    key = data.draw(st.tuples(row, column))
    if isinstance(key[0], slice) and key[0].step is not None and key[0].step < 0:
        assume(len(range(190)[key[0]]) > 0)  # xarray itself fails on an empty slice with a negative step
    if isinstance(key[0], list) and isinstance(key[1], list):  # xarray indexes outer, numpy pointwise
        expected = full[np.ix_(np.array(key[0], int), key[1])]
    else:
        expected = full[np.array(key[0], int) if isinstance(key[0], list) else key[0]][..., key[1]]
    np.testing.assert_array_equal(ds.charge[key].values, expected)


def test_plain_zarr_engine_opens_every_group(path):
    for group in ("voxels", "truth", "index", "inputs", "geometry", "predictions/net"):
        with xarray.open_dataset(path, engine="zarr", group=group) as ds:
            ds.load()
    tree = xarray.open_datatree(path, engine="zarr")
    assert tree["predictions/net/score"].sizes == tree["voxels/live"].sizes


def test_the_engine_is_found_by_name_only_for_our_stores(path, tmp_path):
    backend = larstore.xarray.LarstoreBackend()
    assert backend.guess_can_open(path)
    assert not backend.guess_can_open(tmp_path)
    assert not backend.guess_can_open(3)
    assert "larstore" in xarray.backends.list_engines()


def test_a_column_that_no_image_has_is_its_fill(tmp_path):
    larstore.create(tmp_path / "a.zarr", geometry=make_geometry(), provenance={}, truth_columns=("pdg", "track"))
    add_images(tmp_path / "a.zarr", [make_image(0, 0, 1, 50, truth_columns=("pdg",))])
    ds = larstore.open(tmp_path / "a.zarr").select().to_xarray()
    assert len(ds.truth_track) == len(ds.truth_pdg) > 0
    assert set(ds.truth_track.values.tolist()) == {-(2**31)}
    assert ds.truth_track[3] == -(2**31)
    assert -(2**31) not in ds.truth_pdg.values


def test_dask_reads_a_shard_at_once(path):
    with xarray.open_dataset(path, engine="larstore", chunks={}) as ds:
        assert ds.chunks["voxel"] == (64, 64, 62)
        assert ds.chunks["true_voxel"][0] == min(64, ds.sizes["true_voxel"])
        assert ds.charge.chunks[1] == (3,)
        expected = xarray.open_dataset(path, engine="larstore").load()
        xarray.testing.assert_identical(ds.compute(), expected)
        chosen = {"file": 1, "event": [0, 2]}
        xarray.testing.assert_identical(ds.sel(chosen).compute(), expected.sel(chosen))


def test_other_chunks_on_request(path, recwarn):
    with xarray.open_dataset(path, engine="larstore", chunks={"voxel": 128}) as ds:
        assert ds.chunks["voxel"] == (128, 62)
    assert not recwarn


def test_what_xarray_opened_can_be_saved(path, tmp_path):
    ds = xarray.open_dataset(path, engine="larstore", chunks={}, drop_variables="image_of_voxel")
    ds.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as saved:
        np.testing.assert_array_equal(saved.charge, ds.charge)


def test_sums_have_units(path):
    ds = larstore.open(path).select().to_xarray()
    assert {ds[f"charge_sum_{plane}"].attrs["units"] for plane in "uvw"} == {"electrons"}
    assert ds.truth_sum.attrs["units"] == "electrons"
    assert "units" not in ds.n_bad_channels.attrs
