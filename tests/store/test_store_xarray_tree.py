"""The whole store as a DataTree: images, pixels, inputs, failures, wires and predictions, labelled and lazy."""

import json

import numpy as np
import pytest
import xarray as xr

import larstore
from larstore.errors import StoreError
from larstore.testing import make_store


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(
        tmp_path_factory.mktemp("tree") / "run.zarr", 2, 2, tpcs=(1, 5), pixels=True, truth_columns=("pdg",)
    )


@pytest.fixture
def tree(path):
    return xr.open_datatree(path, engine="larstore")


def test_groups(tree, path):
    assert set(tree.groups) == {"/", "/images", "/pixels", "/inputs", "/failures", "/geometry"}
    assert tree.attrs["units"] == "electrons"
    assert json.loads(tree.attrs["provenance"]) == larstore.open(path).attributes["provenance"]
    xr.testing.assert_identical(tree["images"].to_dataset(), xr.open_dataset(path, engine="larstore"))


def test_pixels_are_those_of_the_images(tree, path):
    pixels, at, point = tree["pixels"].to_dataset(), 0, 0
    for image, n, m in zip(
        larstore.open(path).select(), pixels.pixel_count.values, pixels.point_count.values, strict=True
    ):
        rows, points = pixels.isel(pixel=slice(at, at + n)), pixels.isel(point=slice(point, point + m))
        assert np.array_equal(rows["coords"].values, image.pixels.coords)
        assert np.array_equal(rows["charge"].values, image.pixels.charge)
        assert np.array_equal(points["truth_value"].values, image.pixels.truth_value)
        assert np.array_equal(points["truth_pdg"].values, image.pixels.truth_columns["pdg"])
        at, point = at + n, point + m
    assert pixels["charge"].attrs["units"] == "electrons"


def test_tables_and_wires(tree, path):
    store = larstore.open(path)
    assert tree["inputs/path"].values.tolist() == store.inputs["path"].tolist()
    assert tree["geometry/tail"].sel(axis="z").values.tolist() == store.geometry.wires["tail"][:, 2].tolist()
    assert tree["geometry"].attrs["hash"] == store.geometry.hash
    assert json.loads(tree["geometry"].attrs["tpc_5"])["n_y"] == store.geometry.tpcs[5].n_y


def test_a_selection_of_it(path):
    tree = xr.open_datatree(path, engine="larstore", files=(1, 1), tpcs=[5], drop_variables="live")
    assert set(tree["images/file"].values) == {1}
    assert tree["pixels"].sizes["image"] == tree["images"].sizes["image"] == 2
    assert "live" not in tree["images"]
    assert "live" not in tree["pixels"]


def test_nothing_is_read_before_it_is_asked_for(path, monkeypatch):
    read = []
    monkeypatch.setattr(larstore.store.Store, "read_rows", lambda self, name, low, high: read.append(name))
    tree = xr.open_datatree(path, engine="larstore", chunks={})
    assert tree["pixels/charge"].chunks is not None
    assert read == []


def test_predictions(tmp_path):
    path = make_store(tmp_path / "run.zarr")
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a", "config": {"b": 1}}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, np.zeros(len(image), np.float32)) for image in images])
        writer.commit()
    tree = xr.open_datatree(path, engine="larstore")
    assert tree["predictions/net"].attrs["checkpoint_sha256"] == "a"
    assert json.loads(tree["predictions/net"].attrs["config"]) == {"b": 1}
    assert tree["images/score_net"].sizes == {"voxel": 400}
    assert "pixels" not in tree
    below = xr.open_groups(path, engine="larstore", group="predictions")
    assert set(below) == {"/", "/net"}
    assert below["/net"].attrs["checkpoint_sha256"] == "a"


@pytest.mark.parametrize("options", [{}, {"chunks": {}}, {"files": (1, 1), "drop_variables": ["live", "file"]}])
def test_groups_as_a_dictionary(path, options):
    tree = xr.open_datatree(path, engine="larstore", **options)
    found = xr.open_groups(path, engine="larstore", **options)
    assert set(found) == set(tree.groups)
    for name, part in found.items():
        xr.testing.assert_identical(part, tree[name].to_dataset())
    assert (found["/images"].chunks != {}) == ("chunks" in options)


def test_one_group(path, tree):
    for name in ("images", "/pixels", "geometry/", "/"):
        expected = tree[name].to_dataset()
        xr.testing.assert_identical(xr.open_dataset(path, engine="larstore", group=name), expected)
        below = xr.open_groups(path, engine="larstore", group=name)
        xr.testing.assert_identical(below["/"], expected)
        assert (len(below) > 1) == (name == "/")
    assert xr.open_datatree(path, engine="larstore", group="pixels").groups == ("/",)


def test_a_group_that_is_not_there(path):
    for opened in (xr.open_dataset, xr.open_groups, xr.open_datatree):
        with pytest.raises(StoreError, match=r"run\.zarr: no group 'voxel'\. Fix: one of images, geometry, .*pixels$"):
            opened(path, engine="larstore", group="voxel")
