"""Copying and compacting: every image bit by bit, nothing else, whole or not at all."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore import fs
from larstore.errors import DamageError, StoreError
from larstore.format import TRUTH_COLUMNS
from larstore.maintenance import compact, copy_images, size_on_disk
from larstore.records import Failure, InputFile
from larstore.row_copying import places
from larstore.testing import add_images, make_geometry, make_image, make_store
from larstore.workshop import workshop
from tests.store.crash_model import Disk

ALL = tuple(TRUTH_COLUMNS)
MOVED = {"voxel_start", "truth_start", "pixel_start", "point_start", "commit", "input"}  # what a copy may change


def predict(path, name, files, checkpoint="a" * 64):
    """Scores that tell the key and the place of each voxel."""
    attributes = {"checkpoint_sha256": checkpoint, "config": {"seed": 1}}
    with larstore.PredictionWriter(path, name, attributes) as writer:
        for shard, images in writer.groups(larstore.open(path).select(files=files)):
            scores = [np.arange(len(i), dtype=np.float32) + 1000 * i.key[0] + 100 * i.key[1] for i in images]
            writer.write(shard, list(zip(images, scores, strict=True)))
        writer.commit()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All that a store can hold: truth columns, none of them, no truth, no pixels, no voxels, replaced, deleted."""
    path = tmp_path_factory.mktemp("copy") / "a.zarr"
    larstore.create(
        path,
        geometry=make_geometry((1, 2)),
        provenance={"versions": {"numpy": "2"}, "tiling": {"threshold": 3}},
        shard_rows=512,
        chunk_rows=64,
        truth_columns=ALL,
        pixels=True,
    )
    for file in range(4):
        name = f"input-{file}.npz"
        images = [
            make_image(file, 0, 1, 300, truth_columns=ALL, pixels=True, input=name),
            make_image(file, 0, 2, 200, truth_columns=("pdg",), pixels=True, input=name),
            make_image(file, 1, 1, 150, truth=False, pixels=True, input=name),
            make_image(file, 1, 2, 0, input=name),
            make_image(file, 2, 1, 90 + file, input=name),
        ]
        inputs = [InputFile(name, file, 1000 + file, f"{file:064x}", "s"), InputFile(f"t{file}", file, 5, f"{file:x}")]
        add_images(path, images, inputs)
    predict(path, "net", (0, 1))
    add_images(path, [make_image(2, 0, 1, 1300, seed=5, truth_columns=ALL, input="input-2.npz")])  # larger than a shard
    with larstore.StoreWriter(path) as writer:
        writer.delete([(3, 0, 1), (3, 0, 2)])
        writer.commit([], [Failure(2, 5, "input-2.npz", "no TPC 5"), Failure(9, -1, "input-9.npz", "not readable")])
    return path


def content(image):
    """All that an image holds, as bytes."""
    found = [image.key, image.coords, image.charge, image.live, image.truth, *(image.truth_voxels or ())]
    found += [*image.truth_columns.items()]
    if image.store.root.pixels and image.summary("pixel_start") >= 0:
        pixels = image.pixels
        found += [pixels.coords, pixels.charge, pixels.live, pixels.truth_coords, pixels.truth_value]
        found += [*pixels.truth_columns.items()]
    found += [image.score(name) for name in sorted(image.store.predictions)]
    return [(str(v.dtype), v.shape, v.tobytes()) if isinstance(v, np.ndarray) else repr(v) for v in found]


def expect_copied(selection, new):
    """The new store holds the selection and nothing else."""
    store = selection.store
    assert new.index.index.tolist() == selection.rows.index.tolist()
    for name in set(store.index_columns.names) - MOVED:
        np.testing.assert_array_equal(new.select().column(name), selection.column(name), strict=True)
    for image, copied in zip(selection, new.select(), strict=True):
        assert content(copied) == content(image), image
        rows = store.inputs.iloc[image.summary("input")], new.inputs.iloc[copied.summary("input")]
        assert rows[0].tolist() == rows[1].tolist()
    assert new.geometry.hash == store.geometry.hash
    kept = {"commit", "images_commit", "provenance", "sha256"}
    assert {k: v for k, v in new.attributes.items() if k not in kept} == {
        k: v for k, v in store.attributes.items() if k not in kept
    }
    report = larstore.verify(new.path)
    assert report.ok, report.problems
    assert report.notes == []


def test_the_whole_store(made, tmp_path):
    store = larstore.open(made)
    new = copy_images(store.select(), tmp_path / "new.zarr")
    expect_copied(store.select(), new)
    assert larstore.diff(made, new.path) == []
    assert new.inputs.equals(store.inputs)
    assert new.failures.drop(columns="commit").equals(store.failures.drop(columns="commit"))
    own = {name: {k: v for k, v in a.items() if k not in ("done", "commit")} for name, a in new.predictions.items()}
    assert own == {"net": {"checkpoint_sha256": "a" * 64, "config": {"seed": 1}}}
    history = new.attributes["provenance"]["history"]
    assert new.attributes["provenance"] == store.attributes["provenance"] | {"history": history}
    assert history[0]["action"] == "copy"
    assert history[0]["sources"] == [{"store": str(made), "commit": store.attributes["commit"]}]
    again = copy_images(new.select(), tmp_path / "again.zarr")
    assert len(again.attributes["provenance"]["history"]) == 2
    assert sorted(os.listdir(tmp_path)) == ["again.zarr", "new.zarr"]


def test_plain_zarr_reads_a_copy(made, tmp_path):
    store = larstore.open(made)
    new = copy_images(store.select(files=(0, 1)), tmp_path / "new.zarr")
    with xr.open_datatree(new.path, engine="zarr", chunks=None, consolidated=True) as tree:
        for image in new.select():
            start = image.summary("voxel_start")
            found = tree["voxels/charge"].to_numpy()[start : start + len(image)]
            assert found.tobytes() == image.charge.tobytes()


@settings(max_examples=5, deadline=None)
@given(part=st.lists(st.integers(0, 17), unique=True, max_size=17))
def test_any_selection(made, tmp_path_factory, part):
    store = larstore.open(made)
    whole = store.select()
    selection = larstore.Selection(store, whole.row_numbers[sorted(part)])
    new = copy_images(selection, tmp_path_factory.mktemp("any") / "new.zarr")
    expect_copied(selection, new)
    of_files = store.inputs[store.inputs["file"].isin(selection.column("file"))]
    assert new.inputs.to_numpy().tolist() == of_files.to_numpy().tolist()  # a file's truth goes along
    assert set(new.failures["file"]) == {2} & set(selection.column("file").tolist())


def test_the_order_of_a_selection_does_not_matter(made, tmp_path):
    store = larstore.open(made)
    backwards = larstore.Selection(store, store.select().row_numbers[::-1])
    expect_copied(store.select(), copy_images(backwards, tmp_path / "new.zarr"))


def test_compact_leaves_behind_what_is_gone(made, tmp_path):
    store = larstore.open(made)
    new = compact(made, tmp_path / "new.zarr")
    expect_copied(store.select(), new)
    assert len(new.index_columns.column("file")) == len(store)
    rows = {kind: int(store.select().column(f"{kind}_count").sum()) for kind in ("truth", "pixel", "point")}
    for kind, arrays in new.root.row_arrays.items():
        for path in arrays:
            written = sorted(int(f.relative_to(new.path / path / "c").parts[0]) for f in new.path.glob(f"{path}/c/*"))
            if kind in rows:
                assert new.root.rows(path) == rows[kind]
                assert written == list(range(-(-rows[kind] // 512)))
            else:  # no image but one larger than a shard lies in two of them
                assert written == list(range(-(-new.root.rows(path) // 512)))
    assert size_on_disk(new.path) < size_on_disk(made)


def test_a_copy_is_continued_and_predicted(made, tmp_path):
    new = copy_images(larstore.open(made).select(files=(0, 1)), tmp_path / "new.zarr").path
    before = {image.key: content(image) for image in larstore.open(new).select()}
    add_images(new, [make_image(7, 0, 1, 700, input="seven")], [InputFile("seven", 7, 1, "7")])
    predict(new, "net", (7, 7))
    predict(new, "other", (0, 7))
    store = larstore.open(new)
    assert len(store.predictions["other"]["done"]) >= 1
    assert np.isfinite(store.image(7, 0, 1).score("net")).all()
    assert {key: content(store.image(*key))[: len(row)] for key, row in before.items()}.keys() == before.keys()
    for key, row in before.items():
        assert content(store.image(*key))[:-1] == row
    assert larstore.verify(new).ok


@given(st.lists(st.integers(0, 25), max_size=60), st.integers(1, 10))
def test_places(counts, shard_rows):
    """No image lies in two shards without need, none overlaps, and none could lie earlier."""
    starts = places(np.array(counts, np.int64), shard_rows).tolist()
    end = 0
    for start, count in zip(starts, counts, strict=True):
        assert start >= end
        if start > end:
            assert start % shard_rows == 0
            assert start - end < shard_rows
            assert end // shard_rows != (end + count - 1) // shard_rows
        if 0 < count <= shard_rows:
            assert start // shard_rows == (start + count - 1) // shard_rows
        end = start + count


def test_an_empty_store(tmp_path):
    path = tmp_path / "a.zarr"
    larstore.create(path, geometry=make_geometry(), provenance={}, shard_rows=64, chunk_rows=8)
    new = compact(path, tmp_path / "b.zarr")
    assert len(new) == 0
    assert larstore.verify(new.path).ok
    add_images(new.path, [make_image(0, 0, 1, 20)])
    assert larstore.verify(new.path).images == 1


def test_targets_that_cannot_be(made, tmp_path):
    whole = larstore.open(made).select()
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for target in (made, tmp_path, file, tmp_path / "link"):
        with pytest.raises(StoreError, match=r"exists already\. Fix:"):
            copy_images(whole, target)
    before = sorted(made.rglob("*"))
    for target in (made / "new.zarr", made / "voxels/deeper/new.zarr", tmp_path / ".." / made.parent.name / "a.zarr/x"):
        with pytest.raises(StoreError, match=r"lies inside the store .*Fix:"):
            copy_images(whole, target)
    assert sorted(made.rglob("*")) == before
    with pytest.raises(StoreError, match=r"cannot create the directory .*Fix:"):
        copy_images(whole, file / "new.zarr")
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_damage_stops_a_copy_and_leaves_nothing(made, tmp_path):
    path = shutil.copytree(made, tmp_path / "a.zarr")
    (path / "pixels/live/c/1").unlink()
    with pytest.raises(DamageError, match=r"pixels/live, shard 1 is missing; images .*Fix:"):
        compact(path, tmp_path / "new.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_an_interrupt_or_error_at_any_operation_leaves_nothing(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1, n_voxels=20, shard_rows=32, chunk_rows=8)
    seen = []
    with fs.observed(seen.append):
        compact(path, tmp_path / "whole.zarr")
    moved = next(i for i, o in enumerate(seen) if o.target == tmp_path / "whole.zarr")
    for stop in sorted({*range(0, moved, 90), moved - 1, moved}):
        left = iter(range(len(seen)))

        def interrupt(operation, stop=stop, left=left):
            if next(left) == stop:
                raise KeyboardInterrupt

        with fs.observed(interrupt), pytest.raises(KeyboardInterrupt):
            compact(path, tmp_path / "new.zarr")
        assert sorted(os.listdir(tmp_path)) == ["a.zarr", "whole.zarr"], seen[stop]


def test_all_of_a_copy_is_durable_before_it_has_its_name(made, tmp_path):
    """Whatever a crash drops of what was not synced when the copy was given its name, the copy has all its files."""
    seen, target = [], tmp_path / "new.zarr"
    with fs.observed(seen.append):
        compact(made, target)
    disk = Disk(tmp_path, {})
    moved = next(i for i, operation in enumerate(seen) if operation.target == target)
    for operation in seen[:moved]:
        disk.apply(operation)
    place = f"{seen[moved].path.relative_to(tmp_path)}/"
    whole = {str(file.relative_to(target)): file.read_bytes() for file in target.rglob("*") if file.is_file()}
    for tree in disk.crashes(30, random.Random(0)):
        files = {
            name.removeprefix(place): data for name, data in tree.items() if name.startswith(place) and data is not None
        }
        assert files == whole
    assert seen[moved + 1] == fs.Operation("fsync_dir", tmp_path)


def test_two_calls_for_one_place_do_not_meet(made, tmp_path):
    """Neither sweeps the other's directory; the first to end wins."""
    target = tmp_path / "new.zarr"
    with workshop(target) as one:
        expect_copied(larstore.open(made).select(), compact(made, target))
        with pytest.raises(StoreError, match=r"exists already\. Fix:"), workshop(target):
            pass
        (one / "store").mkdir()
        with pytest.raises(StoreError, match=r"exists already\. Fix:"):
            fs.move_directory(one / "store", target)
    assert os.listdir(tmp_path) == ["new.zarr"]


COPY = """
import sys
from larstore.maintenance import compact
print("ready", flush=True)
compact(sys.argv[1], sys.argv[2])
print("done", flush=True)
"""


def killed_copies(source, target, times):
    """Kill copies after these times; the target is absent or whole, and the next call sweeps what was left."""
    for seconds in times:
        process = subprocess.Popen([sys.executable, "-c", COPY, source, target], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists():
            assert larstore.diff(source, target) == []
            shutil.rmtree(target)


def test_a_killed_copy_leaves_debris_that_the_next_one_sweeps(made, tmp_path, caplog):
    target = tmp_path / "new.zarr"
    killed_copies(made, target, [0.15])
    assert not target.exists()
    assert len(os.listdir(tmp_path)) <= 1
    (tmp_path / f".new.zarr.{'1' * 16}.tmp").mkdir()  # killed before it had its lock
    foreign = tmp_path / f".new.zarr.{'0' * 16}.tmp"
    (foreign / "index").mkdir(parents=True)
    expect_copied(larstore.open(made).select(), compact(made, target))
    assert sorted(os.listdir(tmp_path)) == [foreign.name, "new.zarr"]
    assert f"{foreign}: left behind by a process that may still run. Fix: remove it" in caplog.text


@pytest.mark.slow
def test_copies_killed_at_random(made, tmp_path):
    rng = random.Random(1)
    killed_copies(made, tmp_path / "new.zarr", [rng.uniform(0, 0.6) for _ in range(25)])
    compact(made, tmp_path / "new.zarr")
    assert os.listdir(tmp_path) == ["new.zarr"]


def test_a_large_image_is_never_in_memory_whole(tmp_path, monkeypatch):
    """What is read at once is a shard at most."""
    path = make_store(tmp_path / "a.zarr", 1, 2, n_voxels=1000, shard_rows=64, chunk_rows=16, pixels=True)
    longest = 0
    read = larstore.Store.read_rows

    def watched(self, name, start, stop):
        nonlocal longest
        longest = max(longest, stop - start)
        return read(self, name, start, stop)

    monkeypatch.setattr(larstore.Store, "read_rows", watched)
    compact(path, tmp_path / "b.zarr")
    assert longest == 64


def test_what_the_arrays_say_of_themselves_is_kept(tmp_path):
    """Codecs of an older version, rounding: a copy is as its source, whatever is the default by now."""
    path = make_store(tmp_path / "a.zarr", 1, 1)
    root = larstore.open(path).root.copy()
    root.nodes["voxels/charge"]["attributes"]["rounded"] = 9
    level = root.nodes["voxels/truth"]["codecs"][0]["configuration"]["codecs"][-2]["configuration"]
    level["clevel"] = 9
    (path / "zarr.json").write_bytes(root.sealed())
    new = compact(path, tmp_path / "b.zarr")
    for name in ("voxels/charge", "voxels/truth"):
        assert new.root.nodes[name] == root.nodes[name]
    assert larstore.diff(path, new) == []
    assert larstore.verify(new.path).notes == []


def test_a_setting_that_a_copy_cannot_have_is_refused(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1)
    root = larstore.open(path).root.copy()
    root.attributes["later"] = "addition"
    (path / "zarr.json").write_bytes(root.sealed())
    with pytest.raises(StoreError, match=r"has later = addition, a copy would have None\. Fix:"):
        compact(path, tmp_path / "b.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_two_contents_of_one_path_stay_apart(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1)
    add_images(path, [make_image(0, 1, 1, 5, input="input-0.npz")], [InputFile("input-0.npz", 0, 7, "f" * 64)])
    store = larstore.open(path)
    new = compact(path, tmp_path / "b.zarr")
    expect_copied(store.select(), new)
    assert new.inputs["sha256"].tolist() == ["0" * 64, "f" * 64]
