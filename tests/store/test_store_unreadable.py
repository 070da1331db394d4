"""A file that cannot be read is not damage: it is told as such, and repair throws nothing away for it."""

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import store_cli
from larstore.errors import DamageError, UnreadableError
from larstore.maintenance import copy_images
from larstore.repairing import repair
from larstore.testing import make_store
from tests.store.range_server import serving
from tests.store.whole_stores import add_scores

FILES = ["zarr.json", "index/file/c/0", "inputs/path/c/0", "geometry/tpc/c/0", "voxels/charge/c/0/0"]
FILES += ["truth/value/c/0", "predictions/net/score/c/0", "voxels/charge/zarr.json"]
CODES = [errno.EACCES, errno.EMFILE, errno.ESTALE, errno.EIO, errno.EPERM]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Four images in two shards."""
    path = make_store(
        tmp_path_factory.mktemp("unreadable") / "a.zarr", 2, 2, n_voxels=40, shard_rows=128, chunk_rows=32
    )
    return add_scores(path, lambda image: np.zeros(len(image), np.float32))


@pytest.fixture
def closed(path, monkeypatch):
    """Opening, or reading, of one file fails with an error."""
    opened, real = set(), (os.open, os.pread, os.preadv)
    file, code, reading = None, 0, False

    def refuse():
        raise OSError(code, os.strerror(code))

    def open_(name, *arguments, **options):
        chosen = file is not None and os.fspath(name) == os.fspath(path / file)
        if chosen and not reading:
            refuse()
        descriptor = real[0](name, *arguments, **options)
        (opened.add if chosen else opened.discard)(descriptor)
        return descriptor

    def failing(read):
        def call(descriptor, *arguments):
            return refuse() if file is not None and descriptor in opened else read(descriptor, *arguments)

        return call

    def close(name, error, while_reading=False):
        nonlocal file, code, reading
        file, code, reading = name, error, while_reading

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pread", failing(real[1]))
    monkeypatch.setattr(os, "preadv", failing(real[2]))
    return close


def use(path):
    store = larstore.open(path)
    return [image.score("net") for image in store.select().read(0, len(store), "net")], store.geometry, store.inputs


@pytest.mark.parametrize("file", FILES)
def test_reading(path, closed, file):
    """One line with the file and the reason, and never DamageError."""
    for code in CODES:
        closed(file, code)
        if file == "voxels/charge/zarr.json":  # the root's copy counts
            use(path)
            report = larstore.verify(path)
            assert report.ok
            assert [os.strerror(code) in note for note in report.notes] == [True]
            continue
        with pytest.raises(UnreadableError) as error:
            use(path)
        line = str(error.value)
        assert line.startswith(f"{path / file}: ")
        assert f"({os.strerror(code)})" in line
        assert "Fix: check" in line
        assert "\n" not in line
        assert not isinstance(error.value, DamageError)
        again = pickle.loads(pickle.dumps(error.value))  # noqa: S301 - as it comes from a worker
        assert (type(again), str(again)) == (type(error.value), line)


@pytest.mark.parametrize("while_reading", [False, True])
def test_verify_and_repair(path, closed, tmp_path, while_reading):
    for file, shard, n_images in [("voxels/charge/c/0/0", 0, 2), ("predictions/net/score/c/0", 0, 2)]:
        closed(file, errno.EACCES, while_reading)
        (problem,) = larstore.verify(path).problems
        assert problem.unreadable
        assert (problem.shard, len(problem.images)) == (shard, n_images)
        with pytest.raises(UnreadableError, match=r"repaired: .*shard 0 cannot be read \(Permission") as error:
            repair(path, tmp_path / "b.zarr")
        assert ".." not in str(error.value)
        assert "remove first" in str(error.value)
        with pytest.raises(UnreadableError):
            copy_images(larstore.open(path).select(), tmp_path / "b.zarr")
        assert os.listdir(tmp_path) == []
    closed(None, 0)
    assert repair(path, tmp_path / "b.zarr").dropped == []


def test_beside_damage(path, closed, tmp_path):
    """Both are told; repair waits until all can be read."""
    closed("voxels/charge/c/0/0", errno.EACCES)
    live = path / "voxels/live/c/0"
    data = live.read_bytes()
    live.write_bytes(data[:30])
    try:
        problems = larstore.verify(path).problems
        assert sorted((p.array, p.unreadable) for p in problems) == [("voxels/charge", True), ("voxels/live", False)]
        with pytest.raises(UnreadableError):
            repair(path, tmp_path / "b.zarr")
    finally:
        live.write_bytes(data)


@pytest.mark.parametrize("file", ["index/file/c/0", "voxels/charge/c/0/0"])
def test_from_the_command_line(path, closed, file):
    app = typer.Typer()
    store_cli.register(app)
    closed(file, errno.ESTALE)
    done = CliRunner().invoke(app, ["verify", str(path)])
    assert done.exit_code == 1
    assert done.stdout.startswith(f"could not be read: {path / file}: ")
    assert "damage" not in done.stdout.partition("Fix:")[0]
    assert done.stdout.endswith("1 problem(s), 1 of them could not be read\n")
    found = json.loads(CliRunner().invoke(app, ["verify", str(path), "--json"]).stdout)
    assert (found["ok"], [problem["unreadable"] for problem in found["problems"]]) == (False, [True])


def test_what_is_no_file_is_damage(path, tmp_path):
    """A directory, or a file in the place of a directory: it was looked at, and there is no such file."""
    for name in ("voxels/charge/c/0/0", "voxels/charge/c"):
        broken = shutil.copytree(path, tmp_path / "a.zarr")
        place = broken / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.write_bytes(b"") if name.endswith("c") else place.mkdir()
        with pytest.raises(DamageError):
            use(broken)
        assert not larstore.verify(broken).unreadable
        shutil.rmtree(broken)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_server_that_refuses(path, tmp_path, status):
    pytest.importorskip("aiohttp", reason="needs larstore[remote]")
    with serving(path.parent) as server:
        store = larstore.open(server.url(path.name))
        _ = store.select().column("voxel_start"), store.select().column("voxel_count")
        server.mode = status
        with pytest.raises(UnreadableError, match=rf"cannot be read \({status}"):
            store.read_rows("voxels/charge", 0, 4)
        with pytest.raises(UnreadableError, match=rf"\({status}"):
            larstore.open(server.url(path.name))
        server.mode, server.refused = "ranges", {f"/{path.name}/voxels/live/c/0": status}
        (problem,) = larstore.verify(server.url(path.name)).problems
        assert (problem.unreadable, problem.array, problem.shard) == (True, "voxels/live", 0)
        with pytest.raises(UnreadableError, match="cannot be repaired"):
            repair(server.url(path.name), tmp_path / "b.zarr")
        server.refused = {f"/{path.name}/voxels/live/c/0": 404}
        (problem,) = larstore.verify(server.url(path.name)).problems
        assert not problem.unreadable
