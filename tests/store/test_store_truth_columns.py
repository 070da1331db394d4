"""Optional truth columns: kept, looked up at voxels, told apart from damage, and absent from stores without them."""

import dataclasses
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

import larstore
from larstore.errors import DamageError, StoreError
from larstore.format import TRUTH_COLUMNS, UNKNOWN_NUMBER
from larstore.testing import add_images, make_geometry, make_image, make_store

ALL = tuple(TRUTH_COLUMNS)


@pytest.fixture
def store(tmp_path):
    """Images of event 0 know all columns, of event 1 pdg alone, of event 2 none; event 3 has no truth."""
    path = tmp_path / "run.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=512, chunk_rows=64, truth_columns=ALL)
    kinds = [ALL, ("pdg",), ()]
    images = [make_image(0, e, 1, 200, truth_columns=kind) for e, kind in enumerate(kinds)]
    add_images(path, [*images, make_image(0, 3, 1, 200, truth=False)])
    return path


def test_what_was_written_is_read(store):
    opened = larstore.open(store)
    assert opened.root.truth_columns == ALL
    for event, kind in enumerate([ALL, ("pdg",), (), ()]):
        expected = make_image(0, event, 1, 200, truth=event != 3, truth_columns=kind).truth_columns
        for image in (opened.image(0, event, 1), opened.select().read(0, 4)[event]):
            assert list(image.truth_columns) == list(kind)
            for name, values in image.truth_columns.items():
                assert values.dtype == TRUTH_COLUMNS[name].dtype
                np.testing.assert_array_equal(values, expected[name])
    assert larstore.verify(store).ok


def test_collected_at_tiled_voxels_equals_a_dictionary(store):
    opened = larstore.open(store)
    image = opened.image(0, 0, 1)
    known = {tuple(c): v for c, v in zip(image.truth_voxels[0], image.truth_columns["collected"], strict=True)}
    expected = np.array([known.get(tuple(c), 0.0) for c in image.coords], np.float32)
    np.testing.assert_array_equal(image.collected, expected)
    np.testing.assert_allclose(image.collected, np.float32(0.8) * image.truth, rtol=1e-6)
    assert (image.collected == 0).any()
    for event in (1, 2, 3):
        assert np.isnan(opened.image(0, event, 1).collected).all()
        assert len(opened.image(0, event, 1).collected) == 200


def test_xarray_fills_what_is_not_known(store):
    with xr.open_dataset(store, engine="larstore") as data:
        counts = data["truth_count"].values
        ends = np.cumsum(counts)
        first, second, third = (slice(e - n, e) for e, n in zip(ends[:3], counts[:3], strict=True))
        pdg, collected = data["truth_pdg"].values, data["truth_collected"].values
        np.testing.assert_array_equal(pdg[second], larstore.open(store).image(0, 1, 1).truth_columns["pdg"])
        assert (pdg[third] == UNKNOWN_NUMBER).all()
        assert np.isfinite(collected[first]).all()
        assert np.isnan(collected[ends[0] :]).all()
        assert data["truth_collected"].attrs["units"] == "electrons"
        assert "truth_columns" not in data


def test_xarray_keeps_the_order_where_rows_touch_around_an_image_without_a_column(tmp_path):
    path = make_store(tmp_path / "a.zarr", n_files=1, n_events=1, truth_columns=ALL)
    with larstore.StoreWriter(path) as writer:  # event 1 lies elsewhere, between rows of 0 and 2 in the selection
        spec = writer.reserve()
        images = [make_image(1, e, 1, truth_columns=ALL) for e in (0, 2)]
        writer.commit([larstore.write_block(path, spec, images)])
    add_images(path, [make_image(1, 1, 1)])
    tracks = [
        larstore.open(path).image(f, e, 1).truth_columns.get("track") for f, e in ((0, 0), (1, 0), (1, 1), (1, 2))
    ]
    assert tracks[2] is None
    n = larstore.open(path).image(1, 1, 1).summary("truth_count")
    tracks[2] = np.full(n, UNKNOWN_NUMBER)
    with xr.open_dataset(path, engine="larstore") as data:
        np.testing.assert_array_equal(data["truth_track"].values, np.concatenate(tracks))


def test_plain_zarr_reads_the_columns(store):
    image = larstore.open(store).image(0, 0, 1)
    array = zarr.open_group(store, mode="r")["truth/track"]
    start = image.summary("truth_start")
    np.testing.assert_array_equal(array[start : start + 5], image.truth_columns["track"][:5])
    assert array.shape == zarr.open_group(store, mode="r")["truth/value"].shape


def test_columns_that_no_image_has_cost_no_shard(tmp_path):
    plain = make_store(tmp_path / "plain.zarr")
    with_pdg = tmp_path / "pdg.zarr"
    larstore.create(with_pdg, geometry=make_geometry(), provenance={}, truth_columns=ALL, shard_rows=512, chunk_rows=64)
    add_images(with_pdg, [make_image(truth_columns=("pdg",))])
    assert [sorted(p.name for p in (with_pdg / f"truth/{name}").iterdir()) for name in ALL] == [
        ["zarr.json"],
        ["c", "zarr.json"],
        ["zarr.json"],
    ]
    assert not (plain / "truth" / "pdg").exists()
    assert "truth_columns" not in larstore.open(plain).index.columns
    assert larstore.open(plain).image(0, 0, 1).truth_columns == {}
    assert np.isnan(larstore.open(plain).image(0, 0, 1).collected).all()
    add_images(plain, [make_image(7, truth_columns=ALL)])  # a store without the columns leaves them out
    assert larstore.open(plain).image(7, 0, 1).truth_columns == {}
    assert larstore.verify(plain).ok
    assert larstore.verify(with_pdg).ok


def test_a_replaced_image_forgets_its_columns(store):
    add_images(store, [make_image(0, 0, 1, 200)])
    assert larstore.open(store).image(0, 0, 1).truth_columns == {}
    with larstore.StoreWriter(store) as writer:
        writer.delete([(0, 1, 1)])
    assert larstore.verify(store).ok


def test_diff_names_the_column(tmp_path):
    paths = []
    for name, columns in (("a", ALL), ("b", ("pdg", "track"))):
        paths.append(make_store(tmp_path / f"{name}.zarr", 1, 1, truth_columns=columns))
    assert larstore.diff(paths[0], paths[0]) == []
    assert larstore.diff(*paths) == ["(0, 0, 1): truth column collected differs"]


@pytest.mark.parametrize("name", ALL)
def test_a_damaged_column_is_an_error_and_is_reported(store, name):
    (shard,) = (store / "truth" / name / "c").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 8] ^= 1
    shard.write_bytes(data)
    report = larstore.verify(store)
    assert any(f"truth/{name}" in problem.what for problem in report.problems)
    with pytest.raises(DamageError, match=f"truth/{name}"):
        [image.truth_columns for image in larstore.open(store).select()]
    shard.unlink()
    with pytest.raises(DamageError, match="missing"):
        _ = larstore.open(store).image(0, 0, 1).truth_columns
    assert larstore.open(store).image(0, 2, 1).truth_columns == {}


def test_a_receipt_without_a_columns_file_is_refused(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1, truth_columns=ALL)
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(), [make_image(5, truth_columns=ALL)])
        kept = {name: value for name, value in receipt.files.items() if "pdg" not in name}
        with pytest.raises(DamageError, match="names other files"):
            writer.commit([dataclasses.replace(receipt, files=kept)])
        writer.commit([receipt])
    assert larstore.open(path).image(5, 0, 1).truth_columns["pdg"].dtype == np.int32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"pdg": t["pdg"].astype(np.int64)}, "truth column pdg is int64"),
        (lambda t: {"track": t["track"][1:]}, "truth column track is int32(32,), expected int32(33,)"),
        (lambda t: {"collected": t["collected"] * np.float32(np.nan)}, "truth column collected holds NaN"),
        (
            lambda t: {"pdg": np.full_like(t["pdg"], UNKNOWN_NUMBER)},
            "truth column pdg holds NaN, infinity or -2147483648",
        ),
        (lambda t: {"colour": t["pdg"]}, "truth column 'colour' is unknown"),
    ],
)
def test_columns_that_the_format_cannot_hold(tmp_path, change, message):
    path = make_store(tmp_path / "a.zarr", 1, 1, truth_columns=ALL)
    image = make_image(9, truth_columns=ALL)
    with pytest.raises(StoreError, match=re.escape(message)):
        add_images(path, [replace(image, truth_columns=change(image.truth_columns))])


def test_columns_need_truth_voxels_and_known_names(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1)
    image = make_image(9, truth_columns=ALL)
    with pytest.raises(StoreError, match="truth_columns without truth_coords"):
        add_images(path, [replace(image, truth_coords=None, truth_value=None)])
    with pytest.raises(StoreError, match="choose among collected, pdg, track"):
        larstore.create(tmp_path / "b.zarr", geometry=make_geometry(), provenance={}, truth_columns=("colour",))


def test_an_index_that_claims_a_column_the_store_lacks_is_reported(store):
    for name in ("collected", "track"):  # as a root edited by hand, and sealed again, would say
        root = larstore.root.read_root(store)
        del root.nodes[f"truth/{name}"]
        (store / "zarr.json").write_bytes(root.sealed())
    assert json.loads((store / "zarr.json").read_text())["attributes"]["larstore"]["commit"] == 1
    report = larstore.verify(store)
    assert any("names a truth column that the store lacks" in p.what for p in report.problems)
