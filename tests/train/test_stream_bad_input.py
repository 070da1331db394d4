"""What may happen to a store while it is streamed, and selections that hold nothing."""

import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pytest

import larstore
from larstore import testing
from larstore.errors import ConfigError, DamageError, StoreError
from tests.store.range_server import serving
from train.config import make_config
from train.streaming.loaders import make_loader
from train.streaming.stream import ImageStream, StreamLoader
from train.streaming.transforms import Noise

COMMIT = """
import sys
from larstore import testing
testing.add_images(sys.argv[1], [testing.make_image(file, 0, 1, 80, seed=9) for file in map(int, sys.argv[2:])])
"""


def content(batch):
    return batch["keys"], batch["coords"].tolist(), batch["features"].tolist(), batch["target"].tolist()


@pytest.fixture
def make_store(copy_of_store):
    """make_store(path, …) -> path: six files of an image."""
    size = {"n_files": 6, "n_events": 1, "n_voxels": 70, "shard_rows": 128, "chunk_rows": 32}
    return lambda path, **options: copy_of_store(path, **size | options)


@pytest.mark.parametrize(("workers", "method"), [(0, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)])
def test_commits_of_others_change_nothing(make_store, tmp_path, workers, method):
    """Another process adds images and replaces one in the middle of an epoch: the stream keeps to what it opened."""

    def loader(path):
        stream = ImageStream(larstore.open(path).select(), seed=3, transforms=[Noise(0, 9)])
        return StreamLoader(stream, workers, method, read_ahead_mb=1e-3)

    undisturbed = [content(b) for one in [loader(make_store(tmp_path / "a.zarr"))] for _ in range(2) for b in one]
    path, seen = make_store(tmp_path / "b.zarr"), []
    disturbed = loader(path)
    for epoch in range(2):
        for i, batch in enumerate(disturbed):
            seen.append(content(batch))
            if i == 2 and epoch == 0:
                files = ["0", "10"]
                subprocess.run([sys.executable, "-c", COMMIT, str(path), *files], check=True, timeout=120)
    assert seen == undisturbed
    assert len(larstore.open(path)) == 7


def test_a_store_that_was_replaced_or_removed(make_store, tmp_path):
    path = make_store(tmp_path / "s.zarr")
    loader = StreamLoader(ImageStream(larstore.open(path).select(), shuffle=False), read_ahead_mb=0)
    assert len(list(loader)) == 6
    shutil.move(path, tmp_path / "old.zarr")
    with pytest.raises(StoreError, match=r"s\.zarr: not a larstore store.*Fix:"):
        list(loader)
    larstore.create(
        path,
        geometry=testing.make_geometry(),
        provenance={"made by": "larstore.testing"},
        shard_rows=128,
        chunk_rows=32,
    )
    for files in (range(6), [6]):  # a newer commit, with other images in the same rows
        testing.add_images(path, [testing.make_image(file, 0, 1, 70, seed=5) for file in files])
    with pytest.raises(
        StoreError,
        match=r"s\.zarr: was replaced by another store since it was opened: another index/charge_sum_u.*Fix:",
    ):
        list(loader)
    shutil.rmtree(path)
    make_store(path, n_files=2)
    with pytest.raises(StoreError, match=r"another commit \(1 then, 1 now\)"):
        list(loader)
    shutil.rmtree(path)
    shutil.move(tmp_path / "old.zarr", path)
    batches = iter(StreamLoader(ImageStream(larstore.open(path).select(), shuffle=False), read_ahead_mb=0))
    next(batches)
    shutil.rmtree(path / "voxels")  # the first shards are open, and can be read to their end
    with pytest.raises(DamageError, match=r"s\.zarr/voxels/\w+.*missing.*images .*\([1-5], 0, 1\)"):
        list(batches)


def settings(path, **data):
    data = {"data_path": [str(path)], "train_i": [[0, 5]], **data}
    return make_config({"output_dir": "out", "data": data, "model": {"name": "cellnet_binary"}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tpcs": [7]}, r"s\.zarr: no image of TPCs \[7\], the store has 1\. Fix: correct data\.tpcs"),
        (
            {"train_i": [[50, 60]]},
            r"no image in files \[50, 60\], TPCs all; the store has files 0 to 2\. Fix: .*train_i",
        ),
        ({"train_i": [[50, 60]], "tpcs": [1, 9]}, r"files \[50, 60\], TPCs \[1, 9\]; the store has"),
    ],
)
def test_a_part_that_holds_nothing_is_named_with_what_there_is(make_store, tmp_path, data, message):
    path = make_store(tmp_path / "s.zarr", n_files=3)
    with pytest.raises(ConfigError, match=message):
        make_loader(settings(path, **data), "train")
    other = make_store(tmp_path / "other.zarr", n_files=1)
    config = settings(path, data_path=[str(other), str(path)], train_i=[[0, 5], *data.get("train_i", [[0, 5]])], **{
        key: [[1], value] for key, value in data.items() if key == "tpcs"
    })  # fmt: skip
    with pytest.raises(ConfigError, match=rf"^.*{message}"):
        make_loader(config, "train")


def test_an_unknown_tpc_beside_known_ones(make_store, tmp_path):
    path = make_store(tmp_path / "s.zarr", n_files=3)
    with pytest.raises(ConfigError, match=r"s\.zarr: has no image of TPC 7\. Fix: data\.tpcs among 1"):
        make_loader(settings(path, tpcs=[[1, 7]]), "train")


def test_a_store_without_images(tmp_path):
    larstore.create(tmp_path / "s.zarr", geometry=testing.make_geometry(), provenance={})
    with pytest.raises(ConfigError, match="the store holds no image"):
        make_loader(settings(tmp_path / "s.zarr"), "train")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_remote_stores_stream_the_same(make_store, tmp_path, workers):
    """Over HTTP with ranges, reading ahead or in workers; from memory:// in this process, where alone it is."""
    make_store(tmp_path / "s.zarr")

    def epochs(place, n_workers):
        stream = ImageStream(larstore.open(place).select(), batch_size=2, seed=3, full_y=True, transforms=[Noise(0, 9)])
        return [content(b) for one in [StreamLoader(stream, n_workers)] for _ in range(2) for b in one]

    expected = epochs(tmp_path / "s.zarr", 0)
    assert len(expected) == 6
    with serving(tmp_path) as server:
        assert epochs(server.url("s.zarr"), workers) == expected
    if not workers:
        filesystem = fsspec.filesystem("memory")
        filesystem.put(str(tmp_path / "s.zarr"), "/larstore-stream/s.zarr", recursive=True)
        try:
            assert epochs("memory://larstore-stream/s.zarr", 0) == expected
        finally:
            filesystem.rm("/larstore-stream", recursive=True)


def test_an_image_is_not_read_twice_from_a_server(make_store, tmp_path):
    """Of each shard the index once, of each chunk its bytes once an epoch."""
    make_store(tmp_path / "s.zarr", n_voxels=96)  # whole chunks
    with serving(tmp_path) as server:
        stream = ImageStream(larstore.open(server.url("s.zarr")).select(), batch_size=6, shuffle=False)
        (batch,) = stream
        assert len(batch["keys"]) == 6
        chunks = np.ceil(96 / 32)
        for name in ("coords", "charge", "truth"):
            asked = sum(n for path, n in server.requests.items() if f"voxels/{name}/c/" in path)
            assert asked <= 6 * (1 + chunks)
        assert not any("live" in path and "/c/" in path for path in server.requests)
