"""`larstore join` as a user meets it: stopped and continued, incomplete events told, refused where it must be."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import larstore
from larstore.cli import build_app
from larstore.errors import ConfigError, StoreError
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_geometry, make_image
from preprocess import join
from preprocess.joining import joining as module
from preprocess.joining import plan as planning
from tests.preprocess.commands import larstore_command
from tests.preprocess.joined_frames import of_tpcs

COLUMNS = ("collected", "pdg", "track")
TPCS = (1, 5, 9)
SIZES = {"shard_rows": 512, "chunk_rows": 64, "truth_columns": COLUMNS}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nothing here outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_source(path, n_files=2, n_events=3, n_voxels=100, without=(), provenance=None, **options):
    """TPCs side by side, a gap between them; an input for each file and TPC, a commit for each file."""
    geometry = make_geometry(TPCS)
    for i, number in enumerate(TPCS):
        place = {"origin_z_mm": 532.0 * i}
        geometry.tpcs[number] = geometry.tpcs[number].model_copy(update=place)
    larstore.create(path, geometry=geometry, provenance=provenance or {"made by": "a test"}, **SIZES, **options)
    for file in range(n_files):
        names = {tpc: f"in-{file}-TPC{tpc}.npz" for tpc in TPCS}
        keys = [(file, event, tpc) for tpc in TPCS for event in range(n_events)]
        images = [
            make_image(*key, n_voxels, input=names[key[2]], truth_columns=COLUMNS) for key in keys if key not in without
        ]
        add_images(path, images, [InputFile(name, file, 9, f"{tpc:064x}") for tpc, name in names.items()])
    return path


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "run.zarr")


def test_everything_is_carried_over(source, tmp_path):
    with larstore.StoreWriter(source) as writer:
        writer.commit(
            [], [Failure(7, 5, "7.npz", "no archive"), Failure(8, -1, "8.npz", "no file"), Failure(9, 3, "", "other")]
        )
    target = tmp_path / "joined.zarr"
    done = join(source, target, TPCS)
    assert (done.images, done.images_before, done.voxels, done.shared) == (6, 0, 1800, 0)
    assert done.shape == (160, 64, 64 + 133)
    found, store = larstore.open(target), larstore.open(source)
    assert [image.key for image in found.select()] == [(f, e, 1) for f in range(2) for e in range(3)]
    image, parts = found.image(1, 2, 1), [store.image(1, 2, n) for n in TPCS]
    shifted = np.concatenate(
        [p.coords + np.array([0, 0, round(66.5 * i + 0.1)], np.uint16) for i, p in enumerate(parts)]
    )
    order = np.lexsort(shifted[:, ::-1].T)
    np.testing.assert_array_equal(image.coords, shifted[order])
    np.testing.assert_array_equal(image.charge, np.concatenate([p.charge for p in parts])[order])
    assert image.summary("run") == parts[0].summary("run")
    assert list(image.truth_columns) == list(COLUMNS)
    assert sorted(found.inputs["path"]) == sorted(store.inputs["path"])
    assert found.inputs["path"].iloc[image.summary("input")] == "in-1-TPC1.npz"
    assert list(found.failures[["file", "tpc", "error"]].itertuples(index=False, name=None)) == [
        (7, 1, "no archive"), (8, -1, "no file"),
    ]  # fmt: skip
    assert found.attributes["joined"] == [1, 5, 9]
    note = found.attributes["provenance"]["joined"]
    assert (note["store"], note["commit"], note["tpcs"]) == (str(source.resolve()), 3, [1, 5, 9])
    assert found.attributes["provenance"]["made by"] == "a test"
    assert larstore.verify(target).ok
    root = (target / "zarr.json").read_bytes()
    again = join(source, target, [9, 5, 1])
    assert (again.images, again.images_before) == (0, 6)
    assert (target / "zarr.json").read_bytes() == root


def test_a_joined_store_is_copied_and_merged_like_any_other(source, tmp_path):
    for name, files in (("a", (0, 0)), ("b", (1, 1)), ("both", None)):
        join(source, tmp_path / f"{name}.zarr", TPCS, files=files)
    merged = larstore.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "merged.zarr")
    assert larstore.diff(merged, larstore.open(tmp_path / "both.zarr")) == []
    assert merged.attributes["joined"] == [1, 5, 9]
    with pytest.raises(ConfigError, match="joined already"):
        join(merged.path, tmp_path / "twice.zarr", [1, 5])


def test_incomplete_events_are_told_and_left_out_or_kept(tmp_path):
    source = make_source(tmp_path / "run.zarr", without=[(0, 1, 5), (1, 0, 1), (1, 0, 9)])
    done = join(source, tmp_path / "skip.zarr", TPCS)
    assert done.incomplete == [(0, 1, (5,)), (1, 0, (1, 9))]
    assert [i.key[:2] for i in larstore.open(tmp_path / "skip.zarr").select()] == [(0, 0), (0, 2), (1, 1), (1, 2)]
    kept = join(source, tmp_path / "skip.zarr", TPCS, incomplete="keep")
    assert (kept.images, kept.images_before, kept.incomplete) == (2, 4, done.incomplete)
    assert len(larstore.open(tmp_path / "skip.zarr").image(1, 0, 1)) == 100
    join(source, tmp_path / "keep.zarr", TPCS, incomplete="keep")
    assert larstore.diff(tmp_path / "skip.zarr", tmp_path / "keep.zarr") == []
    with pytest.raises(ConfigError, match="Fix: skip or keep"):
        join(source, tmp_path / "keep.zarr", TPCS, incomplete="some")
    none = make_source(tmp_path / "none.zarr", 1, 2, without=[(0, 0, 1), (0, 1, 5)])
    with pytest.raises(StoreError, match=r"no event has images of all TPCs 1,5,9, 2 have some of them\. Fix"):
        join(none, tmp_path / "no.zarr", TPCS)
    assert not (tmp_path / "no.zarr").exists()


def test_images_of_other_frames_are_never_joined(source, tmp_path):
    other = make_image(0, 1, 5, truth_columns=COLUMNS)
    add_images(source, [type(other)(**(vars(other) | {"event_id": 77}))])
    done = join(source, tmp_path / "joined.zarr", TPCS, incomplete="keep")
    assert (done.differing, done.images) == ([(0, 1)], 5)


@pytest.mark.parametrize("threads", [1, 3])
def test_stopped_between_commits_and_run_again(source, tmp_path, monkeypatch, threads):
    monkeypatch.setattr(module, "COMMIT_SECONDS", -1.0)
    monkeypatch.setattr(planning, "MOST_EVENTS", 1)
    target, undisturbed = tmp_path / "stopped.zarr", tmp_path / "undisturbed.zarr"

    def stop(done, n_events):
        assert n_events == 6
        if done.images == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join(source, target, TPCS, threads=threads, progress=stop)
    assert len(larstore.open(target)) == 4
    assert larstore.verify(target).ok
    done = join(source, target, TPCS, threads=threads)
    assert (done.images, done.images_before) == (2, 4)
    monkeypatch.undo()
    join(source, undisturbed, TPCS)
    assert larstore.diff(target, undisturbed) == []


@pytest.mark.slow
def test_killed_and_run_again(tmp_path):
    source = make_source(tmp_path / "run.zarr", n_files=3, n_events=20, n_voxels=400)
    rng, target = random.Random(3), tmp_path / "killed.zarr"
    driver = (
        "import sys; from preprocess.joining import joining as m, plan as p; m.COMMIT_SECONDS = -1.0; "
        "p.MOST_EVENTS = 1; m.join(sys.argv[1], sys.argv[2], (1, 5, 9), threads=2)"
    )
    sizes = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", driver, str(source), str(target)])
        before = len(larstore.open(target)) if target.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if target.exists() and len(larstore.open(target)) > before:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.wait(timeout=60)
        sizes.append(len(larstore.open(target)))
        assert larstore.verify(target).ok
    assert sizes == sorted(sizes)
    join(source, target, TPCS)
    join(source, tmp_path / "undisturbed.zarr", TPCS)
    assert len(larstore.open(target)) == 60
    assert larstore.diff(target, tmp_path / "undisturbed.zarr") == []


def test_other_outputs_are_refused_with_their_values(source, tmp_path):
    target = tmp_path / "joined.zarr"
    join(source, target, [1, 5])
    with pytest.raises(StoreError, match=r"holds images with joined TPCs = \[1, 5\], this makes \[1, 5, 9\]\. Fix"):
        join(source, target, TPCS)
    with pytest.raises(StoreError, match="is the source itself"):
        join(source, source, TPCS)
    tiled = make_source(tmp_path / "tiled.zarr", 1, 1, provenance={"tiling": {"threshold": 3.0}})
    with pytest.raises(StoreError, match=r"holds images with threshold = None, this makes 3\.0"):
        join(tiled, target, [1, 5])
    fine = make_source(tmp_path / "fine.zarr", 1, 1, downsample=(4, 2, 2))
    with pytest.raises(StoreError, match=r"holds images with downsample = \[8, 4, 4\], this makes \[4, 2, 2\]"):
        join(fine, target, [1, 5])
    with pytest.raises(StoreError, match=r"holds images with joined TPCs = \[\], this makes"):
        join(source, make_source(tmp_path / "single.zarr", 1, 1), [1, 5])


def test_images_of_other_inputs_are_not_taken_for_done(source, tmp_path):
    target = tmp_path / "joined.zarr"
    join(source, target, TPCS)
    for name, sha256, words in (
        ("else.npz", "0" * 64, r"image \(0, 0, 1\) was made from other inputs than else\.npz\. Fix"),
        ("in-0-TPC5.npz", "1" * 64, r"image \(0, 0, 1\) was made from another content of in-0-TPC5\.npz\. Fix"),
    ):
        add_images(source, [make_image(0, 0, 5, input=name, truth_columns=COLUMNS)], [InputFile(name, 0, 1, sha256)])
        with pytest.raises(StoreError, match=words):
            join(source, target, TPCS)


def test_a_damaged_image_fails_alone_and_is_tried_again(source, tmp_path):
    store = larstore.open(source)
    row = store.image(1, 1, 5).summary("voxel_start")
    (chunk,) = Path(source / "voxels/charge/c" / str(row // 512)).rglob("0")
    whole = chunk.read_bytes()
    data = bytearray(whole)
    data[100] ^= 1  # of the first chunk: 64 rows of one image or two
    chunk.write_bytes(data)
    target = tmp_path / "joined.zarr"
    done = join(source, target, TPCS)
    assert 0 < len(done.failures) < 6
    assert done.images == 6 - len(done.failures)
    failed = larstore.open(target).failures
    assert (failed["tpc"] == 1).all()
    assert "voxels/charge" in failed["error"].iloc[0]
    assert "event" in failed["error"].iloc[0]
    typed = CliRunner().invoke(build_app(), ["join", str(source), "-o", str(target), "--tpcs", "1,5,9"])
    assert typed.exit_code == 1
    assert f"larstore: {len(done.failures)} event(s) failed: file 1, event " in typed.stderr
    chunk.write_bytes(whole)
    assert join(source, target, TPCS).images == len(done.failures)
    assert len(larstore.open(target).failures) == 0
    assert larstore.verify(target).ok


def test_a_longer_read_out_than_told_is_named(tmp_path):
    geometry = make_geometry((1, 2))
    behind = {"drift_sign": -1, "anode_x_mm": 900.0}
    geometry.tpcs[2] = geometry.tpcs[2].model_copy(update=behind)
    larstore.create(tmp_path / "run.zarr", geometry=of_tpcs(geometry.tpcs), provenance={})
    images = [make_image(0, 0, 1), make_image(0, 0, 2)]
    images[1].coords[-1, 0] = 500
    add_images(tmp_path / "run.zarr", images)
    done = join(tmp_path / "run.zarr", tmp_path / "a.zarr", [1, 2])
    assert done.images == 0
    assert "image (0, 0, 2) reaches from (-" in done.failures[0].error
    assert "x = 500. Fix: --ticks N and a new store" in done.failures[0].error
    assert join(tmp_path / "run.zarr", tmp_path / "b.zarr", [1, 2], ticks=8 * 501).images == 1
    with pytest.raises(StoreError, match=r"holds images with their origins = .* this makes .* Fix: write to another"):
        join(tmp_path / "run.zarr", tmp_path / "a.zarr", [1, 2], ticks=8 * 501)


def test_as_a_user_types_it(tmp_path):
    source = make_source(tmp_path / "run.zarr", without=[(0, 1, 5)])
    out = tmp_path / "joined.zarr"
    done = larstore_command("join", source, "-o", out, "--tpcs", "9,1,5", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "joined.zarr: 5 images (0 were there before), 1,500 voxels (0 on another TPC's" in " ".join(
        done.stdout.split()
    )
    assert "frame of 160 × 64 × 197" in done.stdout
    assert "1 event(s) left out for a missing TPC: (file, event) (0, 1) lacks 5" in " ".join(done.stderr.split())
    done = larstore_command("join", source, "-o", out, "--tpcs", "1,5")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [done.stderr.strip()]
    assert "holds images with joined TPCs = [1, 5, 9], this makes [1, 5]. Fix: write to" in done.stderr


def test_wrong_usage_is_told(source, tmp_path):
    app, out = build_app(), tmp_path / "out.zarr"

    def typed(*arguments):
        return CliRunner().invoke(app, ["join", *map(str, arguments)], terminal_width=200)

    assert "larstore join run.zarr -o joined.zarr --tpcs 1,5,9" in typed("--help").stdout
    assert typed(source, "-o", out).exit_code == 2
    assert typed(source, "-o", out, "--tpcs", "1,x").exit_code == 2
    assert typed(source, "-o", out, "--tpcs", "1,5", "--incomplete", "all").exit_code == 2
    assert "cannot be joined. Fix: two or more" in str(typed(source, "-o", out, "--tpcs", "5").exception)
    assert not out.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "join", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = typed(source, "-o", out, "--tpcs", "1,5")
    assert stopped.exit_code == 130
    assert f"larstore: stopped. {out} keeps what is committed; run it again for the rest" in stopped.stderr
    join(source, out, [1, 5])
    shown = CliRunner().invoke(app, ["info", str(out), "--json"]).stdout
    assert '"joined": [\n  1,\n  5\n ]' in shown


def test_predictions_and_pixels_are_left_out_and_told(tmp_path):
    source = make_source(tmp_path / "run.zarr", 1, 1)
    with larstore.PredictionWriter(source, "net", {"checkpoint_sha256": "0" * 64}) as writer:
        part = larstore.open(source).select()
        for shard, images in writer.groups(part):
            writer.write(shard, [(image, np.zeros(len(image), np.float32)) for image in images])
        writer.commit()
    done = larstore_command("join", source, "-o", tmp_path / "joined.zarr", "--tpcs", "1,5")
    assert done.returncode == 0, done.stderr
    assert f"not joined, only in {source}: net" in " ".join(done.stderr.split())
    assert larstore.open(tmp_path / "joined.zarr").predictions == {}
