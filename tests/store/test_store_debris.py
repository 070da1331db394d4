"""Debris: found whatever left it, removed only when it is old and nobody writes; what is committed stays."""

import os
import random
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore import cleaning, fs, maintenance_cli
from larstore.debris import find, lock_of, shards_held
from larstore.errors import LockedError, StoreError
from larstore.locks import Lock
from larstore.records import InputFile
from larstore.root import read_root
from larstore.testing import add_images, make_geometry, make_image
from larstore.workshop import LOCK
from tests.store.crash_replay import booted
from tests.store.crash_scenarios import new_store, predict

app = typer.Typer()
maintenance_cli.register(app)


def run(*arguments, input=None):
    return CliRunner().invoke(app, ["clean", *map(str, arguments)], input=input)


def names(path, found=None):
    found = find(path, read_root(path)) if found is None else found
    return [d.path.relative_to(path).as_posix() for d in found]


def age(path, days):
    for file in (path, *path.rglob("*")):
        at = file.stat().st_mtime - days * 86400
        os.utime(file, (at, at))


@pytest.fixture
def path(tmp_path):
    """Blocks 0 and 2 … 3 are committed, 0 in part replaced and deleted; 1 and 4 are not."""
    path = tmp_path / "a.zarr"
    new_store(path)
    add_images(path, [make_image(0, e, 1, 10) for e in (0, 1, 2)], [InputFile("a", 0, 1, "0" * 64)])
    with larstore.StoreWriter(path) as writer:
        lost, kept, late = writer.reserve(), writer.reserve(2), writer.reserve()
        larstore.write_block(path, lost, [make_image(1, 0, 1, 20)])
        writer.commit([larstore.write_block(path, kept, [make_image(0, 0, 1, 50)])])
        larstore.write_block(path, late, [make_image(1, 1, 1, 20)])
        writer.delete([(0, 1, 1)])
    return path


ARRAYS = ["truth/coords", "truth/value", "voxels/charge", "voxels/coords", "voxels/live", "voxels/truth"]
LEFT = [f"{array}/c/{n}{'/0' * array.endswith(('coords', 'charge'))}" for array in ARRAYS for n in (1, 4)]


def test_blocks_that_nobody_committed(path):
    assert names(path) == LEFT
    assert {d.kind for d in find(path, read_root(path))} == {"shard"}
    before = shutil.copytree(path, path.with_name("before.zarr"))
    old = larstore.open(path)
    assert cleaning.clean(path) == []
    age(path, 8)
    assert names(path, cleaning.clean(path)) == names(before)
    assert names(path) == []
    assert larstore.verify(path).ok
    assert larstore.verify(path).notes == []
    assert larstore.diff(path, before) == []
    assert old.image(0, 0, 1).charge.shape == (50, 3)
    with larstore.StoreWriter(path) as writer:
        assert writer.reserve().first_shard == 5  # a worker of before may still write to 4


def test_an_earlier_commit_stays_readable(path):
    """A reader that opened the store before an image was replaced or deleted."""
    place = path.with_name("b.zarr")
    new_store(place)
    add_images(place, [make_image(0, e, 1, 10) for e in (0, 1)])
    old = larstore.open(place)
    add_images(place, [make_image(0, 0, 1, 50)])
    with larstore.StoreWriter(place) as writer:
        writer.delete([(0, 1, 1)])
    age(place, 8)
    assert cleaning.clean(place) == []
    for e in (0, 1):
        np.testing.assert_array_equal(old.image(0, e, 1).charge, make_image(0, e, 1, 10).charge)


def test_temporary_files_chunks_and_predictions(path):
    predict(path, "p", groups=1)
    done = read_root(path)
    left = [
        ".zarr.json.0123456789abcdef.tmp",
        ".larstore/.images.00000004.0123456789abcdef.tmp",
        "voxels/coords/c/7/.0.0123456789abcdef.tmp",
        "index/file/c/1",
        "inputs/path/c/3",
        "predictions/p/score/c/3",
        "predictions/q/score/c/0",
        "predictions/q/zarr.json",
    ]
    strange = ["notes.txt", "voxels/coords/c/x", "voxels/other/c/9", "index/file/c/.x.tmp", ".larstore/.x.tmp"]
    strange += ["predictions/q/readme", "geometry/plane/c/9", ".larstore/.0123456789abcdef.tmp"]
    assert done.attributes["commit"] == 4
    for name in [*left, *strange]:
        fs.make_directories((path / name).parent)
        (path / name).write_bytes(b"12345")
    (path / "voxels/coords/c/77").symlink_to(path / "zarr.json")
    expected = sorted([*left, *LEFT])
    assert sorted(names(path)) == expected
    locks = {name: lock_of(d.path.relative_to(path)) for name, d in zip(names(path), find(path, done), strict=True)}
    assert [locks[name] for name in left] == ["root", *["images"] * 4, "predictions/p", *["predictions/q"] * 2]
    assert sorted(names(path, cleaning.clean(path, 0))) == expected
    assert all((path / name).exists() for name in strange)
    assert names(path) == []
    predict(path, "p")
    predict(path, "q")
    assert larstore.verify(path).notes == []


def test_nothing_is_removed_beside_a_writer(path):
    found = names(path)
    for name in ("images", "predictions/p"):
        with Lock(path, name, beat=False):
            done = run(path, "--older-than", "0", "--yes")
            assert isinstance(done.exception, LockedError)
            assert f"lock {name} is held" in str(done.exception)
            assert names(path) == found
            assert run(path, "--older-than", "0", "--dry-run").exit_code == 0
    with booted("earlier"):
        dead = larstore.StoreWriter(path).__enter__()
        dead._lock._stop.set()
    assert names(path, cleaning.clean(path, 0)) == found  # its owner is gone


def test_a_lock_that_is_lost_on_the_way_stops_the_cleaning(path, monkeypatch):
    found = names(path)
    removed = []

    def watch(operation):
        if operation.kind == "unlink" and operation.path.relative_to(path).as_posix() in found:
            removed.append(operation.path)
            if len(removed) == 3:
                with booted("later"):  # breaks all our locks
                    Lock(path, "images", beat=False).acquire()

    with fs.observed(watch), pytest.raises(LockedError, match="was lost"):
        cleaning.clean(path, 0)
    assert len(names(path)) == len(found) - 3


def test_the_command(path):
    n = len(LEFT)
    assert run(path).stdout == f"{path}: would remove nothing\n"
    age(path, 3)
    assert run(path, "--dry-run").stdout == f"{path}: would remove nothing\n"
    done = run(path, "--older-than", "2.5", "--dry-run")
    n_bytes = sum(d.n_bytes for d in find(path, read_root(path)))
    *files, last = done.stdout.splitlines()
    assert files == [str(path / name) for name in names(path)]
    assert last == f"{path}: would remove {n} shards: {n_bytes:,} bytes"
    done = run(path, "--older-than", "2.5", input="n\n")
    assert done.exit_code == 1
    assert len(names(path)) == n
    done = run(path, "--older-than", "2.5", input="y\n")
    assert done.stdout.endswith(f"{path}: removed {n} shards: {n_bytes:,} bytes\n")
    assert names(path) == []
    assert isinstance(run(path / "voxels").exception, StoreError)
    assert run(path, "--older-than", "-1").exit_code == 2


@pytest.mark.parametrize("fast", [True, False])
def test_verify_mentions_debris(path, fast):
    report = larstore.verify(path, fast=fast)
    assert report.ok
    (note,) = report.notes
    assert f"{len(LEFT)} file(s), " in note
    assert "larstore clean" in note


def test_shards_held_against_a_slow_oracle():
    rng = random.Random(4)
    for _ in range(200):
        n, size = rng.randrange(8), rng.choice([4, 8])
        start = [rng.choice([-1, rng.randrange(60)]) for _ in range(n)]
        count = [rng.choice([0, 1, rng.randrange(30)]) for _ in range(n)]
        rows = {row for s, c in zip(start, count, strict=True) if s >= 0 for row in range(s, s + c)}
        held = shards_held(np.array(start, np.int64), np.array(count, np.int32), size)
        for shard in range(30):
            assert held(shard) == bool(rows & set(range(shard * size, (shard + 1) * size))), (start, count, shard)


def test_a_store_of_all_kinds_has_no_debris(tmp_path):
    path = tmp_path / "a.zarr"
    settings = {"truth_columns": ["pdg"], "pixels": True}
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8, **settings)
    for file in range(3):
        add_images(path, [make_image(file, e, 1, 30, **settings, truth=e > 0) for e in range(3)])
    predict(path)
    assert names(path) == []


def test_half_made_stores_beside_it(path):
    """Of killed copies and creations; none of a process that may live."""
    kept = [path.with_name(f".a.zarr.{digit * 16}.tmp") for digit in "012"]
    other = [path.with_name(name) for name in (".b.zarr.0123456789abcdef.tmp", ".a.zarr.x.tmp", "a.zarr.tmp")]
    for place in (*kept, *other):
        (place / "store").mkdir(parents=True)
        (place / "store" / "zarr.json").write_bytes(b"12345")
    with booted("earlier"):
        Lock(kept[0], LOCK, beat=False).acquire()  # its process has ended
    alive = Lock(kept[1], LOCK, beat=False).acquire()
    found = [d.path for d in cleaning.removable(path, 0) if d.kind == "half-made store"]
    assert found == kept[:1]
    assert run(path, "--older-than", "0", "--yes").exit_code == 0
    assert [place.exists() for place in (*kept, *other)] == [False, True, True, True, True, True]
    alive.release()
    for place in kept[1:]:
        age(place, 0.5)
    assert run(path, "--older-than", "0", "--yes").stdout == f"{path}: would remove nothing\n"
    for place in kept[1:]:
        age(place, 1)
    assert "removed 2 half-made stores: " in run(path, "--older-than", "0", "--yes").stdout
    assert [place.exists() for place in (*kept, *other)] == [False, False, False, True, True, True]
