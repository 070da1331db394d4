"""A store read by obstore, which fsspec uses for a URL once it is registered: as on disk, and errors in one line."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fsspec.registry import _registry

import larstore
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.locations import place_of
from larstore.testing import make_store
from tests.store.range_server import serving

obstore_fsspec = pytest.importorskip("obstore.fsspec", reason="needs obstore")

PLAIN_HTTP = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "bucket"
    make_store(path / "run.zarr", 2, 2, n_voxels=100, shard_rows=64, chunk_rows=16)
    return path


@pytest.fixture
def server(folder):
    with serving(folder.parent) as running:
        yield running


@pytest.fixture
def registered(monkeypatch):
    """obstore reads s3:// and http:// while the test lasts."""
    for scheme in ("s3", "http"):
        monkeypatch.setitem(_registry, scheme, None)  # so that it is put back
        obstore_fsspec.register(scheme)


def s3(server):
    options = {"endpoint": server.url("").rstrip("/"), "region": "here", "skip_signature": True}
    return "s3://bucket/run.zarr", PLAIN_HTTP | options


def http(server):
    return server.url("bucket/run.zarr"), PLAIN_HTTP


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert "Fix:" in text
    return text


@pytest.mark.parametrize("where", [s3, http])
def test_it_reads_the_same(server, folder, registered, where):
    url, options = where(server)
    store, expected = larstore.open(url, options), larstore.open(folder / "run.zarr")
    assert store.index.equals(expected.index)
    assert store.select().to_pandas().equals(expected.select().to_pandas())
    assert store.select().to_pandas("truth").equals(expected.select().to_pandas("truth"))
    assert larstore.verify(place_of(url, options)).ok


@pytest.mark.parametrize("where", [s3, http])
@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_refuses(server, registered, where, status):
    url, options = where(server)
    store = larstore.open(url, options)
    image = store.image(1, 0, 1)
    server.mode = status
    with pytest.raises(StoreError) as error:
        larstore.open(url, options)
    assert str(status) in one_line(error)
    assert "Debug source" not in str(error.value)
    with pytest.raises(UnreadableError) as error:
        _ = image.coords
    assert str(status) in one_line(error)


def test_a_server_without_ranges_is_refused(server, registered):
    url, options = s3(server)
    image = larstore.open(url, options).image(1, 0, 1)
    server.mode = "whole"
    with pytest.raises(UnreadableError) as error:
        _ = image.coords
    assert "cannot be read" in one_line(error)


def test_no_store_and_wrong_options(server, registered):
    url, options = s3(server)
    with pytest.raises(StoreError, match="not a larstore store"):
        larstore.open(url.replace("run", "other"), options)
    with pytest.raises(StoreError, match="'nonsense' is not valid") as error:
        larstore.open(url, {"nonsense": 1})
    one_line(error)
    with pytest.raises(StoreError, match="does not accept any configuration") as error:
        larstore.open(server.url("bucket/run.zarr"), {"headers": {}})
    one_line(error)


def test_damage_is_named(folder, tmp_path, registered):
    shutil.copytree(folder, tmp_path / "bucket")
    shard = tmp_path / "bucket/run.zarr/voxels/live/c/0"
    data = shard.read_bytes()
    with serving(tmp_path) as server:
        url, options = s3(server)
        for what in (None, b"", data[:40], b"\0" * len(data), data[:30] + b"\xff" + data[31:]):
            shard.unlink() if what is None else shard.write_bytes(what)
            with pytest.raises(DamageError, match=r"voxels/live, .*shard 0.*; images .*\(0, 0, 1\)") as error:
                _ = larstore.open(url, options).image(0, 0, 1).live
            assert ("is missing" in one_line(error)) == (what is None)


READ = """
import pickle, sys
print(int(pickle.load(sys.stdin.buffer).select().read(0, 1)[0].coords.sum()))
"""


def test_another_process_reads_it_with_obstore_too(server, folder, registered):
    url, options = s3(server)
    data = pickle.dumps(larstore.open(url, options))
    done = subprocess.run([sys.executable, "-c", READ], input=data, capture_output=True, check=True)
    assert int(done.stdout) == int(np.sum(larstore.open(folder / "run.zarr").select()[0].coords, dtype=np.int64))
