"""Pixels beside voxels: kept as given, told apart from damage, and absent from stores without them."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.block import _shards
from larstore.errors import DamageError, StoreError
from larstore.format import PIXEL_INDEX_COLUMNS, TRUTH_COLUMNS
from larstore.records import InputFile
from larstore.root import read_root
from larstore.testing import add_images, make_geometry, make_image, make_store

ALL = tuple(TRUTH_COLUMNS)
SMALL = {"shard_rows": 512, "chunk_rows": 64}
NAMES = ("coords", "charge", "live", "truth_coords", "truth_value")


@pytest.fixture
def store(tmp_path):
    """Images of event 0 know all truth columns, of event 1 pdg alone; event 2 has no truth, event 3 no pixels."""
    path = tmp_path / "run.zarr"
    larstore.create(
        path, geometry=make_geometry(), provenance={}, shard_rows=2048, chunk_rows=64, truth_columns=ALL, pixels=True
    )
    images = [make_image(0, e, 1, 200, truth_columns=kind, pixels=True) for e, kind in enumerate([ALL, ("pdg",)])]
    add_images(path, [*images, make_image(0, 2, 1, 200, truth=False, pixels=True), make_image(0, 3, 1, 200)])
    return path


def test_what_was_written_is_read(store):
    opened = larstore.open(store)
    assert opened.root.pixels
    for event, kind in enumerate([ALL, ("pdg",), ()]):
        expected = make_image(0, event, 1, 200, truth=event != 2, truth_columns=kind, pixels=True).pixels
        found = opened.image(0, event, 1).pixels
        for name in NAMES:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=event != 2)
        assert list(found.truth_columns) == list(kind)
        for name, values in found.truth_columns.items():
            np.testing.assert_array_equal(values, expected.truth_columns[name], strict=True)
    report = larstore.verify(store)
    assert report.ok, report.problems


def test_without_pixels_the_way_to_them_is_told(store, tmp_path):
    plain = make_store(tmp_path / "plain.zarr", 1, 1)
    for path, event in ((store, 3), (plain, 0)):
        with pytest.raises(StoreError, match=r"keeps no pixels of image \(0, \d, 1\)\. Fix: run .*--save-pix"):
            _ = larstore.open(path).image(0, event, 1).pixels


def test_a_store_without_pixels_says_nothing_of_them_and_leaves_them_out(tmp_path):
    plain = make_store(tmp_path / "plain.zarr", 1, 1)
    offered = make_store(tmp_path / "offered.zarr", 1, 0)
    add_images(offered, [make_image(0, 0, 1, input="input-0.npz", pixels=True)])
    for path in (plain, offered):
        assert not any("pixel" in name or "point" in name for name in read_root(path).nodes)
        assert not (path / "pixels").exists()
        assert not set(PIXEL_INDEX_COLUMNS) & set(larstore.open(path).index.columns)
    shards = [sorted((p / "voxels").rglob("c/*")) for p in (plain, offered)]
    assert [file.read_bytes() for file in shards[0] if file.is_file()] == [
        file.read_bytes() for file in shards[1] if file.is_file()
    ]
    assert larstore.verify(offered).ok


def test_pixels_change_nothing_about_the_voxels(tmp_path):
    paths = [make_store(tmp_path / f"{p}.zarr", truth_columns=ALL, pixels=p) for p in (True, False)]
    assert larstore.diff(*paths) == []
    with xr.open_dataset(paths[0], engine="larstore") as data:
        assert "pixel_start" not in data
        np.testing.assert_array_equal(data["pixel_count"].values, 2 * data["voxel_count"].values)


def test_diff_compares_pixels_that_both_keep(tmp_path):
    paths = [make_store(tmp_path / f"{n}.zarr", 1, 1, pixels=True) for n in "ab"]
    assert larstore.diff(*paths) == []
    image = make_image(0, 0, 1, 100, input="input-0.npz", pixels=True)
    charge = image.pixels.charge.copy()
    charge[0, 0] += 1
    value = image.pixels.truth_value[::-1].copy()
    add_images(paths[1], [replace(image, pixels=replace(image.pixels, charge=charge, truth_value=value))])
    assert larstore.diff(*paths) == [f"(0, 0, 1): pixels' {name} differs" for name in ("charge", "truth_value")]


def test_plain_zarr_reads_pixels(store):
    image = larstore.open(store).image(0, 1, 1)
    group = zarr.open_group(store, mode="r")["pixels"]
    rows = slice(image.summary("pixel_start"), image.summary("pixel_start") + image.summary("pixel_count"))
    np.testing.assert_array_equal(group["coords"][rows], image.pixels.coords)
    np.testing.assert_array_equal(group["charge"][rows], image.pixels.charge)
    start = image.summary("point_start")
    np.testing.assert_array_equal(group["truth_value"][start : start + 5], image.pixels.truth_value[:5])
    assert group["charge"].attrs["units"] == "electrons"


def test_a_block_is_as_long_as_its_pixels_need(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 0, shard_rows=512, chunk_rows=64, pixels=True)
    image = make_image(n_voxels=500, pixels=True)
    with larstore.StoreWriter(path) as writer:
        with pytest.raises(larstore.BlockFull) as full:
            larstore.write_block(path, writer.reserve(), [image])
        assert full.value.needed == 2
        spec = writer.reserve(2)
        writer.commit([larstore.write_block(path, spec, [image])])
        assert writer.reserve().first_shard == spec.first_shard + 2
    assert [len(list((path / name / "c").iterdir())) for name in ("pixels/coords", "voxels/coords")] == [2, 1]
    assert larstore.verify(path).ok


def test_images_are_replaced_and_deleted_with_their_pixels(store):
    add_images(store, [make_image(0, 0, 1, 90, seed=5, pixels=True), make_image(0, 1, 1, 90, seed=5)])
    opened = larstore.open(store)
    expected = make_image(0, 0, 1, 90, seed=5, pixels=True).pixels
    np.testing.assert_array_equal(opened.image(0, 0, 1).pixels.charge, expected.charge)
    with pytest.raises(StoreError, match="keeps no pixels"):
        _ = opened.image(0, 1, 1).pixels
    with larstore.StoreWriter(store) as writer:
        writer.delete([(0, 0, 1)])
    assert larstore.verify(store).ok


@pytest.mark.parametrize("name", [*NAMES, "truth_collected", "truth_pdg", "truth_track"])
def test_damage_is_reported_with_its_images(store, name):
    array = store / "pixels" / name / "c"
    (shard,) = [file for file in array.rglob("*") if file.is_file()]
    data = bytearray(shard.read_bytes())
    data[len(data) // 8] ^= 1
    shard.write_bytes(data)
    report = larstore.verify(store)
    (problem,) = report.problems
    assert f"pixels/{name}" in problem.what
    assert set(problem.images) <= {(0, 0, 1), (0, 1, 1), (0, 2, 1)}
    assert problem.images
    shard.unlink()
    with pytest.raises(DamageError, match=f"pixels/{name}.*missing"):
        _ = larstore.open(store).image(0, 0, 1).pixels
    assert len(larstore.open(store).image(0, 0, 1).charge) == 200


def test_verify_adds_up_pixels_and_points(tmp_path):
    image = make_image(pixels=True)
    for change, words in (
        ({"charge": image.pixels.charge * np.float32(1.001)}, "pixels/charge: shard 1, sums differ"),
        ({"truth_value": image.pixels.truth_value * 1.001}, "pixels/truth_value: shard 1, sum differs"),
    ):
        path = make_store(tmp_path / f"{len(words)}.zarr", 1, 0, pixels=True)
        add_images(path, [replace(image, pixels=replace(image.pixels, **change))])
        (problem,) = larstore.verify(path).problems
        assert words in problem.what


def test_an_index_without_the_columns_is_damage(store):
    root = read_root(store)
    del root.nodes["index/pixel_start"]
    (store / "zarr.json").write_bytes(root.sealed())
    (problem,) = larstore.verify(store).problems
    assert "columns ['pixel_start'] are missing" in problem.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"coords": p.coords[::-1]}, "pixels.coords is not sorted"),
        (lambda p: {"charge": p.charge[1:]}, "pixels.charge is float32(199, 3), expected float32(200, 3)"),
        (lambda p: {"charge": p.charge * np.float32(np.nan)}, "pixels hold NaN"),
        (lambda p: {"live": p.live | np.uint8(8)}, "pixels hold NaN, infinity or unknown planes"),
        (lambda p: {"truth_value": p.truth_value.astype(np.float32)}, "pixels.truth_value is float32"),
        (lambda p: {"truth_value": p.truth_value * np.inf}, "a truth point is not finite"),
        (lambda p: {"truth_coords": p.truth_coords | np.uint16(65535)}, "a truth point is not finite or beyond"),
        (lambda p: {"truth_coords": None}, "voxels and pixels know different truth"),
        (lambda p: {"truth_value": None}, "truth points without values"),
        (lambda p: {"truth_columns": {}}, "voxels and pixels know different truth"),
        (
            lambda p: {"truth_columns": p.truth_columns | {"collected": p.truth_value.astype(np.float32)}},
            "truth points' column collected is float32",
        ),
    ],
)
def test_pixels_that_the_format_cannot_hold(tmp_path, change, message):
    path = make_store(tmp_path / "a.zarr", 1, 0, truth_columns=ALL, pixels=True)
    image = make_image(truth_columns=ALL, pixels=True)
    with pytest.raises(StoreError, match=re.escape(message)):
        add_images(path, [replace(image, pixels=replace(image.pixels, **change(image.pixels)))])
    assert len(larstore.open(path)) == 0


@pytest.fixture(scope="module")
def one_image(tmp_path_factory):
    path = make_store(tmp_path_factory.mktemp("one") / "a.zarr", 1, 1, n_voxels=300, pixels=True, **SMALL)
    return larstore.open(path).image(0, 0, 1)


@settings(max_examples=40, deadline=None)
@given(ticks=st.sampled_from([1, 3, 8, 100, 10**12]), rows=st.integers(1, 700))
def test_pieces_are_the_pixels_cut_between_runs_of_ticks(one_image, ticks, rows):
    pieces = list(one_image.pixel_pieces(ticks, rows))
    pixels = one_image.pixels
    for i, name in enumerate(("coords", "charge", "live")):
        np.testing.assert_array_equal(np.concatenate([piece[i] for piece in pieces]), getattr(pixels, name))
    for one, following in pairwise(pieces):
        assert one[0][-1, 0] // ticks < following[0][0, 0] // ticks
    if ticks == 1 and rows >= 20:  # no tick has as many
        assert max(len(piece[0]) for piece in pieces) <= rows
    points = one_image.truth_points
    np.testing.assert_array_equal(points.truth_value, pixels.truth_value)
    assert len(points.coords) == len(points.charge) == len(points.live) == 0


def test_a_block_is_written_bit_by_bit_and_groups_are_kept_or_dropped(tmp_path):
    """Groups: small, large, dropped while part of it is written, small: the same images as written at once."""
    groups = [[100], [200, 300, 100], [400, 400, 50], [80, 90]]
    images = [
        [make_image(file, event, 1, n, input=f"{file}", pixels=True) for event, n in enumerate(sizes)]
        for file, sizes in enumerate(groups)
    ]
    paths = [make_store(tmp_path / f"{name}.zarr", 0, pixels=True, **SMALL) for name in ("bits", "whole")]
    with larstore.StoreWriter(paths[0]) as writer:
        block = larstore.BlockWriter(paths[0], writer.reserve(20), hold_rows=512)
        for file, group in enumerate(images):
            for image in group:
                block.add(image)
            block.drop() if file == 2 else block.keep()
        receipts = block.finish([InputFile("0", 0, 1, "a" * 64)])
        assert len(receipts) > 2
        assert [len(receipt.inputs) for receipt in receipts] == [0] * (len(receipts) - 1) + [1]
        starts = [receipt.spec.first_shard for receipt in receipts]
        assert starts == sorted(set(starts))
        writer.commit(receipts)
    add_images(paths[1], [image for file, group in enumerate(images) if file != 2 for image in group])
    assert larstore.diff(*paths) == []
    assert len(larstore.open(paths[0])) == 6
    assert larstore.open(paths[0]).image(0, 0, 1).summary("input") == 0
    assert larstore.verify(paths[0]).ok


def test_a_block_written_bit_by_bit_may_be_full(tmp_path):
    path = make_store(tmp_path / "a.zarr", 0, pixels=True, **SMALL)
    with larstore.StoreWriter(path) as writer:
        block = larstore.BlockWriter(path, writer.reserve(2), hold_rows=512)
        block.add(make_image(0, 0, 1, 300, pixels=True))
        with pytest.raises(larstore.BlockFull) as full:
            block.add(make_image(0, 1, 1, 300, pixels=True))
        assert full.value.needed == 6  # two and two, and as much again for what is yet to come
        whole = larstore.BlockWriter(path, writer.reserve(1))
        assert whole.finish([]) == ()
        whole.add(make_image(0, 0, 1, 300, pixels=True))
        whole.keep()
        with pytest.raises(larstore.BlockFull) as full:
            whole.finish([])
        assert full.value.needed == 2


@given(lengths=st.lists(st.integers(0, 9), max_size=8), shard_rows=st.integers(1, 7))
def test_shards_are_slices_of_all_rows(lengths, shard_rows):
    rows = np.arange(sum(lengths))
    found = list(_shards(np.split(rows, np.cumsum(lengths)[:-1]) if lengths else [], shard_rows))
    expected = [rows[i : i + shard_rows] for i in range(0, len(rows), shard_rows)]
    assert [shard.tolist() for shard in found] == [shard.tolist() for shard in expected]
