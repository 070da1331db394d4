"""Selections as pandas tables and Awkward arrays, against the images one by one."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import StoreError
from larstore.testing import add_images, make_geometry, make_image


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Seven images, some without voxels, without truth or with truth columns; a prediction of one file."""
    path = tmp_path_factory.mktemp("tables") / "a.zarr"
    geometry, columns = make_geometry((1, 5)), ("collected", "pdg", "track")
    larstore.create(path, geometry=geometry, provenance={}, shard_rows=64, chunk_rows=16, truth_columns=columns)
    add_images(path, [make_image(2, e, 1, n, truth_columns=("pdg",)) for e, n in enumerate([30, 0, 90])])
    add_images(path, [make_image(0, 0, 5, 50), make_image(0, 1, 1, 20, truth=False), make_image(0, 1, 5, 1)])
    add_images(path, [make_image(1, 0, 1, 40, truth_columns=columns)])
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a"}) as writer:
        for shard, images in writer.groups(larstore.open(path).select(files=(2, 2))):
            writer.write(shard, [(i, i.charge[:, 0] / 2) for i in images])
        writer.commit()
    return larstore.open(path)


def voxels_by_hand(selection):
    """Rows of the voxel table, image by image."""
    for image in selection:
        truth = np.full(len(image), np.nan) if image.truth is None else image.truth
        yield from (
            (*image.key, *xyz, *charge, live, true, score)
            for xyz, charge, live, true, score in zip(
                image.coords.tolist(),
                image.charge.tolist(),
                image.live.tolist(),
                truth.tolist(),
                image.score("net").tolist(),
                strict=True,
            )
        )


def truth_by_hand(selection):
    for image in selection:
        if image.truth_voxels is None:
            continue
        coords, value = image.truth_voxels
        unknown = {"collected": np.nan, "pdg": -(2**31), "track": -(2**31)}
        known = image.truth_columns
        about = [known.get(name, np.full(len(value), fill)).tolist() for name, fill in unknown.items()]
        for xyz, true, *rest in zip(coords.tolist(), value.tolist(), *about, strict=True):
            yield (*image.key, *xyz, true, *rest)


VOXEL_COLUMNS = ["x", "y", "z", "charge_u", "charge_v", "charge_w", "live", "truth", "score_net"]
TRUTH_COLUMNS = ["x", "y", "z", "truth_value", "truth_collected", "truth_pdg", "truth_track"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), unique=True))
def test_one_row_a_voxel(store, positions):
    part = store.select().take(np.array(positions, np.int64))  # in any order
    for rows, names, by_hand in (("voxels", VOXEL_COLUMNS, voxels_by_hand), ("truth", TRUTH_COLUMNS, truth_by_hand)):
        table = part.to_pandas(rows)
        assert list(table.columns) == names
        assert table.index.names == ["file", "event", "tpc"]
        expected = pd.DataFrame(list(by_hand(part)), columns=["file", "event", "tpc", *names])
        found = table.reset_index()
        assert len(found) == len(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name].to_numpy(float), expected[name].to_numpy(float), name)


def test_types_stay_and_keys_find_images(store):
    table = store.select().to_pandas()
    types = {"x": "uint16", "charge_v": "float32", "live": "uint8", "truth": "float32", "score_net": "float32"}
    assert {name: str(table[name].dtype) for name in types} == types
    image = store.image(1, 0, 1)
    np.testing.assert_array_equal(table.loc[1, 0, 1][["x", "y", "z"]], image.coords)
    sums = table["charge_w"].astype(float).groupby(level=["file", "event", "tpc"]).sum()
    filled = store.select(query="voxel_count > 0").rows["charge_sum_w"]
    np.testing.assert_allclose(sums, filled, rtol=1e-12)
    assert sums.index.tolist() == filled.index.tolist()


def test_images_are_the_index(store):
    part = store.select(files=(0, 1))
    pd.testing.assert_frame_equal(part.to_pandas("images"), store.index.loc[0:1])
    with pytest.raises(StoreError, match=r"to_pandas\(rows='pixel'\): Fix: use one of images, voxels, truth"):
        part.to_pandas("pixel")


def stand_in():
    """As much of awkward as is used, with lists and dictionaries."""
    ak = ModuleType("awkward")

    def unflatten(records, counts):
        ends = np.cumsum(counts)
        return [records[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]

    def zip_(fields, depth_limit=None):
        assert len({len(values) for values in fields.values()}) == 1
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]

    ak.unflatten, ak.zip, ak.to_list = unflatten, zip_, list
    return ak


@pytest.fixture(params=["stand-in", "installed"])
def ak(request, monkeypatch):
    if request.param == "installed":
        return pytest.importorskip("awkward", reason="the package awkward is optional")
    monkeypatch.setitem(sys.modules, "awkward", stand_in())
    return sys.modules["awkward"]


def test_one_record_an_image(store, ak):
    for part in (store.select(), store.select(query="voxel_count > 900")):
        records = ak.to_list(part.to_awkward())
        assert len(records) == len(part)
        for field, names, by_hand in (
            ("voxels", VOXEL_COLUMNS, voxels_by_hand),
            ("truth_voxels", TRUTH_COLUMNS, truth_by_hand),
        ):
            found = [
                (record["file"], record["event"], record["tpc"], *(voxel[name] for name in names))
                for record in records
                for voxel in record[field]
            ]
            expected = np.array(list(by_hand(part)), float)
            np.testing.assert_array_equal(np.array(found, float), expected)
        assert [len(record["voxels"]) for record in records] == part.column("voxel_count").tolist()
        assert [record["charge_sum_u"] for record in records] == part.column("charge_sum_u").tolist()


def test_awkward_is_optional(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "awkward", None)
    with pytest.raises(StoreError, match=r"^to_awkward needs the package awkward\. Fix: pip install awkward$"):
        store.select().to_awkward()
