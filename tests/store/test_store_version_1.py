"""A store that larstore 0.1 wrote in November 2026 opens for ever, with what was put into it.

`tests/data/stores/version-1.zarr.zip` is that store and `version-1.npz` its arrays, by image. Never make them anew: a
change that they don't survive needs a new format version, and a reader of this one.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest

import larstore
from larstore.testing import add_images, make_image
from larstore.verification import verify

DATA = Path(__file__).parents[1] / "data" / "stores"
KEYS = [(0, 0, 1), (0, 0, 5), (0, 1, 1), (0, 1, 5), (1, 0, 1), (1, 0, 5), (1, 1, 1)]  # (1, 1, 5) was deleted


@pytest.fixture
def path(tmp_path):
    with zipfile.ZipFile(DATA / "version-1.zarr.zip") as archive:
        archive.extractall(tmp_path / "old.zarr")
    return tmp_path / "old.zarr"


def arrays_of(image):
    """All that the image has, under the names of the file."""
    coords, value = image.truth_voxels or (None, None)
    found = {"coords": image.coords, "charge": image.charge, "live": image.live, "score": image.score("net")}
    found |= {"truth": image.truth, "truth_coords": coords, "truth_value": value, **image.truth_columns}
    if image.summary("pixel_start") >= 0:
        found |= {"pixel_coords": image.pixels.coords, "pixel_charge": image.pixels.charge}
    return {name: values for name, values in found.items() if values is not None}


def expect_what_was_put_in(store):
    with np.load(DATA / "version-1.npz") as file:
        expected = {name: file[name] for name in file.files}
    found = {}
    for key in KEYS:
        found |= {f"{'-'.join(map(str, key))}/{n}": a for n, a in arrays_of(store.image(*key)).items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values), name


def test_it_opens_and_is_whole(path):
    store = larstore.open(path)
    assert list(store.index.index) == KEYS
    expect_what_was_put_in(store)
    assert verify(path).ok
    assert store.failures["error"].tolist() == ["a damaged file"]
    assert store.inputs["path"].tolist() == ["input-0.npz", "input-1.npz"]
    assert store.geometry.hash == store.attributes["geometry_hash"]
    assert store.predictions["net"]["checkpoint_sha256"] == "ab" * 32
    assert (store.root.charge_bits, store.root.truth_columns) == (None, ("collected", "pdg"))


def test_it_grows(path):
    """What is added is encoded as the store's own documents say, not as a new store's would be."""
    image = make_image(9, 0, 1, 400, truth_columns=("pdg",), pixels=True)
    add_images(path, [image])
    store = larstore.open(path)
    expect_what_was_put_in(store)
    assert np.array_equal(store.image(9, 0, 1).charge, image.charge)
    assert verify(path).ok
    layout = store.reader("voxels/charge").layout
    assert (layout.cname, layout.shuffle) == ("zstd", "bitshuffle")
    shard = (path / layout.file(store.image(9, 0, 1).summary("voxel_start") // layout.shard_rows)).read_bytes()
    assert shard[2] >> 5 == 4  # blosc's header: the format of what is inside, zstd
