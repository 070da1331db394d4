"""A store at a URL reads as the same one on disk: over HTTP with ranges, from memory://, in training, and read only."""

import copy
import json
import multiprocessing
import shutil
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

import larstore
from larstore import maintenance_cli, store_cli
from larstore.cleaning import clean, removable
from larstore.errors import DamageError, StoreError, UnreadableError
from larstore.locations import local_path, place_of
from larstore.maintenance import copy_images
from larstore.provenance import provenance_of
from larstore.testing import make_geometry, make_store
from larstore.unlocking import unlock
from tests.store.range_server import serving
from tests.store.whole_stores import add_scores

SHARED = {"shard_rows": 64, "chunk_rows": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four files in a store with truth columns, pixels and a prediction."""
    path = tmp_path_factory.mktemp("served") / "run.zarr"
    make_store(path, 4, 1, n_voxels=100, truth_columns=("pdg",), pixels=True, **SHARED)
    return add_scores(path, lambda image: np.arange(len(image), dtype=np.float32)).parent


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture
def in_memory(folder):
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(folder / "run.zarr"), "/larstore-test/run.zarr", recursive=True)
    yield "memory://larstore-test/run.zarr"
    filesystem.rm("/larstore-test", recursive=True)


def content(store):
    """Everything of a store."""
    found = [store.index.to_csv(), store.inputs.to_csv(), store.failures.to_csv(), store.geometry.hash]
    for image in store.select().read(0, len(store), "net"):
        found += [
            image.key,
            image.coords.tobytes(),
            image.charge.tobytes(),
            image.live.tobytes(),
            image.truth.tobytes(),
        ]
        found += [image.score("net").tobytes(), image.pixels.charge.tobytes(), image.truth_columns["pdg"].tobytes()]
    return [*found, store.select().to_pandas().to_csv(), provenance_of(store)]


@pytest.fixture(scope="module")
def expected(folder):
    return content(larstore.open(folder / "run.zarr"))


def test_http_reads_the_same(server, expected):
    store = larstore.open(server.url("run.zarr"))
    assert content(store) == expected
    assert content(copy.copy(store)) == expected  # as a worker process gets it
    assert repr(store).startswith(f"<Store {server.url('run.zarr')}: 4 images")
    assert larstore.verify(server.url("run.zarr")).ok
    assert larstore.verify(server.url("run.zarr")).notes == []


def test_memory_reads_the_same(in_memory, expected):
    assert content(larstore.open(in_memory)) == expected
    assert larstore.verify(in_memory).ok


def test_only_what_is_needed_is_asked_for(server):
    """No directory is listed; a shard's index is fetched once, and only the chunks that hold the image."""
    store = larstore.open(server.url("run.zarr/"))
    assert dict(server.requests) == {"/run.zarr/zarr.json": 1}
    image = store.image(2, 0, 1)
    server.requests.clear()
    _ = image.coords, image.coords
    start, stop = image.summary("voxel_start"), image.summary("voxel_start") + len(image)
    shards = range(start // 64, -(-stop // 64))
    assert {path for path in server.requests if "/c/" in path} == {
        *(f"/run.zarr/voxels/coords/c/{shard}/0" for shard in shards),
        *(path for path in server.requests if "/index/" in path),
    }
    chunks = -(-stop // 16) - start // 16
    asked = sum(n for path, n in server.requests.items() if "coords" in path)
    assert len(shards) < asked <= len(shards) + chunks
    assert all(path.endswith("zarr.json") or "/c/" in path for path in server.requests)


def test_ranges_are_in_flight_together(server):
    """Four requests wait for each other: fewer at a time would never be answered."""
    store = larstore.open(server.url("run.zarr"))
    part = store.select()
    _ = [part.column(name) for name in ("voxel_start", "voxel_count", "truth_start", "truth_count", "truth_columns")]
    barrier = threading.Barrier(4)
    met = threading.Event()

    def meet():
        if not met.is_set():
            barrier.wait(timeout=20)
            met.set()

    server.meet = meet
    part.read(0, 4)
    assert server.most >= 4


def test_xarray_opens_a_url(server, folder, in_memory):
    expected = xr.open_dataset(folder / "run.zarr", engine="larstore").load()
    for url in (server.url("run.zarr"), in_memory):
        found = xr.open_dataset(url, engine="larstore")
        assert float(found.charge[5, 1]) == float(expected.charge[5, 1])
        xr.testing.assert_identical(found.load(), expected)
        xr.testing.assert_identical(
            xr.open_dataset(url, engine="larstore", files=(1, 2)).sel(file=2).load(), expected.sel(file=2).load()
        )


def batches(stream, n_workers):
    from torch.utils.data import DataLoader

    context = multiprocessing.get_context("spawn") if n_workers else None
    loader = DataLoader(stream, batch_size=None, num_workers=n_workers, multiprocessing_context=context)
    found = {batch["number"]: batch for batch in loader}
    return [(batch["keys"], batch["coords"].tolist(), batch["features"].tolist()) for _, batch in sorted(found.items())]


@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_from_a_url(server, folder, n_workers):
    train = pytest.importorskip("train", reason="needs torch")
    found = []
    for place in (folder / "run.zarr", server.url("run.zarr")):
        stream = train.ImageStream(larstore.open(place).select(), batch_size=2, seed=3)
        found.append(batches(stream, n_workers if place != folder / "run.zarr" else 0))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_what_a_path_makes_of_a_url():
    """Typer and pathlib drop the second slash."""
    assert str(place_of("http://host/run.zarr/")) == "http://host/run.zarr"
    assert str(place_of(Path("http://host:80/a/run.zarr"))) == "http://host:80/a/run.zarr"
    assert str(place_of(Path("s3://bucket/run.zarr"))) == "s3://bucket/run.zarr"
    assert place_of("file:///data/run.zarr") == Path("/data/run.zarr")
    assert place_of("a:b/run.zarr") == Path("a:b/run.zarr")
    assert place_of("run.zarr") == Path("run.zarr")


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert "Fix:" in text
    return text


def test_no_store_no_server_no_such_protocol(server):
    for url, reason in {
        server.url("nothing.zarr"): "not a larstore store (no zarr.json in it)",
        "http://127.0.0.1:9/run.zarr": "cannot read",
        "nonsense://run.zarr": "cannot read from such a URL",
    }.items():
        with pytest.raises(StoreError) as error:
            larstore.open(url)
        assert reason in one_line(error)
        assert url in str(error.value)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_refuses(server, status):
    store = larstore.open(server.url("run.zarr"))
    server.mode = status
    with pytest.raises(StoreError) as error:
        larstore.open(server.url("run.zarr"))
    assert str(status) in one_line(error)
    with pytest.raises(UnreadableError) as error:
        _ = store.index
    assert str(status) in one_line(error)


def test_not_found_is_asked_for_again(server, expected):
    server.mode = "late"
    assert content(larstore.open(server.url("run.zarr"))) == expected


def test_a_server_without_ranges_is_refused_not_misread(server):
    store = larstore.open(server.url("run.zarr"))
    image = store.image(0, 0, 1)
    server.mode = "whole"
    with pytest.raises(UnreadableError) as error:
        _ = image.coords
    assert "the server knows no range requests" in one_line(error)


def test_damage_at_a_url(folder, tmp_path):
    shutil.copytree(folder / "run.zarr", tmp_path / "run.zarr")
    shard = tmp_path / "run.zarr/voxels/live/c/0"
    data = shard.read_bytes()
    with serving(tmp_path) as server:
        for what in (None, b"", data[:40], b"\0" * len(data), data[:30] + b"\xff" + data[31:]):
            shard.unlink() if what is None else shard.write_bytes(what)
            with pytest.raises(DamageError, match=r"voxels/live, .*shard 0.*; images .*\(0, 0, 1\)") as error:
                _ = larstore.open(server.url("run.zarr")).image(0, 0, 1).live
            one_line(error)
            assert not larstore.verify(server.url("run.zarr")).ok
            shard.parent.mkdir(exist_ok=True)


def test_options_reach_fsspec(server, tmp_path):
    """A store through a cache of fsspec's, in the directory that it was told."""
    options = {"simplecache": {"cache_storage": str(tmp_path)}}
    assert len(larstore.open(f"simplecache::{server.url('run.zarr')}", options)) == 4
    assert len(list(tmp_path.iterdir())) > 4
    with pytest.raises(StoreError, match="cannot read"):
        larstore.open(server.url("run.zarr"), {"no_such_option": 1})


@pytest.mark.parametrize(("command", "option"), [("info", ["--json"]), ("index", ["--csv"]), ("verify", ["--json"])])
def test_commands_read_a_url(server, folder, command, option):
    app = typer.Typer()
    store_cli.register(app)
    found = []
    for place in (server.url("run.zarr"), str(folder / "run.zarr")):
        done = CliRunner().invoke(app, [command, place, *option])
        assert done.exit_code == 0, done.output
        found.append(done.stdout.partition("\n")[2] if command == "index" else json.loads(done.stdout))
    if command == "verify":
        assert found[0].pop("path") == server.url("run.zarr")
        del found[1]["path"]
    assert found[0] == found[1]


def test_compact_and_repair_read_a_url(server, folder, tmp_path):
    app = typer.Typer()
    maintenance_cli.register(app)
    url = server.url("run.zarr")
    done = CliRunner().invoke(app, ["compact", url, "-o", str(tmp_path / "a.zarr")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].endswith(" bytes now; how many it had at the URL is not known")
    assert CliRunner().invoke(app, ["repair", url, "-o", str(tmp_path / "b.zarr")]).exit_code == 0
    for name in ("a.zarr", "b.zarr"):
        assert larstore.diff(folder / "run.zarr", tmp_path / name) == []


def test_writers_refuse_a_url(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = server.url("run.zarr")
    geometry = make_geometry(n_wires=1)
    for write in (
        lambda: larstore.create(url, geometry=geometry, provenance={}),
        lambda: larstore.StoreWriter(url),
        lambda: larstore.PredictionWriter(url, "other", {"checkpoint_sha256": "a"}),
        lambda: local_path(place_of(url)),
        lambda: copy_images(larstore.open(url).select(), f"{url}2"),
        lambda: list(unlock(Path(url))),  # as the command line has it, with one slash
        lambda: clean(Path(url)),
        lambda: removable(Path(url)),
    ):
        with pytest.raises(StoreError) as error:
            write()
        assert f"{url}" in one_line(error)
        assert "a URL can only be read" in one_line(error)
    assert list(tmp_path.iterdir()) == []
