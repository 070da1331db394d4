"""`larstore redownsample` as a user meets it: stores from a run, stopped and continued, refused where it must be."""

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
from larstore.testing import add_images, make_image, make_store
from preprocess import coordinator, runner
from preprocess import downsampling as module
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.downsampling import redownsample
from preprocess.testing import make_inputs, small_detector
from tests.preprocess.test_redownsample import assert_same_images

COLUMNS = ("collected", "pdg", "track")
STORE = {"shard_rows": 512, "chunk_rows": 64, "truth_columns": COLUMNS, "pixels": True}


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "larstore.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def one_line(done: subprocess.CompletedProcess[str], words: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nothing here outlives its test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path):
    return make_store(tmp_path / "run.zarr", n_files=3, n_events=4, **STORE)


@pytest.mark.slow
def test_a_run_its_redownsampling_and_the_next_run(tmp_path):
    raw = tmp_path / "raw"
    make_inputs(raw, small_detector(tmp_path), n_files=3, n_events=2)
    (raw / "broken_9_wire-TPC1.npz").write_bytes(b"no archive")
    first = ["preprocess", raw, "--detector", tmp_path / "small.yaml", "--workers", 1]
    run, plain, direct, coarse = (tmp_path / f"{name}.zarr" for name in ("run", "plain", "direct", "coarse"))
    for options in ((run, "--save-pix"), (plain,), (direct, "--downsample", "4,2,3")):
        assert call(*first, "-o", *options).returncode == 1  # of the broken file
    assert larstore.diff(run, plain) == []
    assert larstore.verify(run).ok
    done = call("redownsample", run, "-o", coarse, "--downsample", "4,2,3")
    assert done.returncode == 0, done.stderr
    assert "coarse.zarr: 6 images (0 were there before)" in " ".join(done.stdout.split())
    stores = [larstore.open(path) for path in (coarse, direct)]
    assert_same_images(*stores)
    assert larstore.verify(coarse).ok
    for name in ("inputs", "failures"):
        columns = ["file", "tpc", "input", "error"] if name == "failures" else ["path", "file", "size", "sha256"]
        tables = [sorted(map(tuple, getattr(s, name)[columns].to_numpy().tolist())) for s in stores]
        assert tables[0] == tables[1]
        assert tables[0]
    # The new store is one like any other: a run continues it, and refuses other settings.
    settings = (*first, "-o", coarse, "--downsample", "4,2,3")
    assert "3 units are done, 0 to do" in " ".join(call(*settings, "--dry-run").stdout.split())
    one_line(call(*first, "-o", coarse), "holds images with downsample = [4, 2, 3], this run has [8, 4, 4]")
    one_line(call(*settings, "--save-pix"), "save_pix = False, this run has True")
    one_line(call(*settings, "--threshold", 9), "threshold = 1.0, this run has 9.0")
    one_line(call(*first, "-o", run), "save_pix = True, this run has False")
    assert call(*settings).returncode == 1  # the broken file is tried again, nothing else
    assert len(larstore.open(coarse)) == 6


def test_everything_is_carried_over(source, tmp_path):
    broken = [Failure(7, 1, "/in/7.npz", "no archive"), Failure(8, -1, "/in/8.npz", "no file")]
    with larstore.StoreWriter(source) as writer:
        writer.commit([], broken)
    target = tmp_path / "coarse.zarr"
    done = redownsample(source, target, (8, 4, 4))
    assert (done.images, done.images_before, done.voxels, done.pixels) == (12, 0, 1200, 2400)
    found, store = larstore.open(target), larstore.open(source)
    assert_same_images(found, store)  # the test's pixels are made of voxels of (8, 4, 4)
    assert not found.root.pixels
    assert list(found.failures["error"]) == ["no archive", "no file"]
    assert found.inputs.equals(store.inputs)
    assert found.geometry.hash == store.geometry.hash
    assert found.attributes["provenance"] == {
        "made by": "larstore.testing",
        "redownsampled": {
            "store": str(source),
            "commit": 4,
            "downsample": [8, 4, 4],
            "larstore": found.attributes["provenance"]["redownsampled"]["larstore"],
        },
    }
    assert [image.summary("input") for image in found.select()] == [i.summary("input") for i in store.select()]
    root = (target / "zarr.json").read_bytes()
    again = redownsample(source, target, (8, 4, 4))
    assert (again.images, again.images_before) == (0, 12)
    assert (target / "zarr.json").read_bytes() == root
    assert larstore.verify(target).ok


def test_voxels_have_the_new_size(source, tmp_path):
    redownsample(source, tmp_path / "fine.zarr", (1, 2, 3))
    fine = larstore.open(tmp_path / "fine.zarr")
    assert fine.attributes["downsample"] == [1, 2, 3]
    assert fine.attributes["voxel_mm"] == pytest.approx([0.8, 4.0, 6.0])
    assert fine.select().column("voxel_count").sum() > 1200


def test_a_selection_and_then_the_rest(source, tmp_path):
    target = tmp_path / "coarse.zarr"
    with larstore.StoreWriter(source) as writer:
        writer.commit([], [Failure(0, 5, "a", "of file 0"), Failure(2, 1, "b", "of file 2")])
    assert redownsample(source, target, (8, 4, 4), files=(1, 2), tpcs=[1]).images == 8
    assert list(larstore.open(target).failures["error"]) == ["of file 2"]
    assert redownsample(source, target, (8, 4, 4), files=(0, 1)).images == 4
    assert sorted(larstore.open(target).failures["error"]) == ["of file 0", "of file 2"]
    assert sorted(larstore.open(target).inputs["file"]) == [0, 1, 2]
    assert redownsample(source, tmp_path / "none.zarr", (8, 4, 4), tpcs=[3]).images == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_stopped_between_commits_and_run_again(source, tmp_path, monkeypatch, threads):
    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.0)  # a commit for each image
    target, undisturbed = tmp_path / "stopped.zarr", tmp_path / "undisturbed.zarr"

    def stop(done, n_images):
        assert n_images == 12
        if done.images == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        redownsample(source, target, (4, 2, 2), threads=threads, progress=stop)
    assert len(larstore.open(target)) == 5
    assert larstore.verify(target).ok
    done = redownsample(source, target, (4, 2, 2), threads=threads)
    assert (done.images, done.images_before) == (7, 5)
    redownsample(source, undisturbed, (4, 2, 2))
    assert larstore.diff(target, undisturbed) == []


@pytest.mark.slow
def test_killed_and_run_again(tmp_path):
    source = make_store(tmp_path / "run.zarr", n_files=3, n_events=20, n_voxels=400, **STORE)
    rng, target = random.Random(3), tmp_path / "killed.zarr"
    driver = (
        "import sys; from preprocess import downsampling as m; m.BLOCK_SECONDS = 0.0; "
        "m.redownsample(sys.argv[1], sys.argv[2], (4, 2, 2))"
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
        time.sleep(rng.uniform(0.05, 0.6))
        process.kill()
        process.wait(timeout=60)
        sizes.append(len(larstore.open(target)))
        assert larstore.verify(target).ok
    assert sizes == sorted(sizes)
    assert sizes[0] < 60, "the run was over before it was killed"
    redownsample(source, target, (4, 2, 2))
    redownsample(source, tmp_path / "undisturbed.zarr", (4, 2, 2))
    assert len(larstore.open(target)) == 60
    assert larstore.diff(target, tmp_path / "undisturbed.zarr") == []


def test_an_image_without_truth_stays_without(tmp_path):
    source = make_store(tmp_path / "a.zarr", 1, 2, truth=False, **STORE)
    redownsample(source, tmp_path / "b.zarr", (8, 4, 4))
    image = larstore.open(tmp_path / "b.zarr").image(0, 1, 1)
    assert image.truth is None
    assert image.truth_voxels is None
    assert image.truth_columns == {}


def test_other_outputs_are_refused_with_their_values(source, tmp_path):
    target = tmp_path / "coarse.zarr"
    redownsample(source, target, (4, 2, 2))
    with pytest.raises(StoreError, match=r"coarse.zarr: holds images with downsample = \[4, 2, 2\], this makes \[8, 4"):
        redownsample(source, target, (8, 4, 4))
    with pytest.raises(StoreError, match="is the source itself"):
        redownsample(source, source, (8, 4, 4))
    pixels = make_store(tmp_path / "pixels.zarr", 1, 1, **STORE)
    with pytest.raises(StoreError, match="holds images with save_pix = True, this makes False"):
        redownsample(source, pixels, (8, 4, 4))
    tiled = make_store(tmp_path / "tiled.zarr", 1, 1, provenance={"tiling": {"threshold": 3.0}}, **STORE)
    with pytest.raises(StoreError, match=r"holds images with threshold = None, this makes 3\.0"):
        redownsample(tiled, target, (4, 2, 2))


def test_images_of_other_inputs_are_not_taken_for_done(source, tmp_path):
    target = tmp_path / "coarse.zarr"
    redownsample(source, target, (8, 4, 4))
    other = make_store(tmp_path / "other.zarr", 0, 0, **STORE)
    image = make_image(0, 0, 1, input="else.npz", truth_columns=COLUMNS, pixels=True)
    add_images(other, [image], [InputFile("else.npz", 0, 1, "0" * 64)])
    words = r"image \(0, 0, 1\) was made from input-0.npz, the source's from else.npz\. Fix"
    with pytest.raises(StoreError, match=words):
        redownsample(other, target, (8, 4, 4))
    changed = make_store(tmp_path / "changed.zarr", 0, 0, **STORE)
    image = make_image(0, 0, 1, input="input-0.npz", truth_columns=COLUMNS, pixels=True)
    add_images(changed, [image], [InputFile("input-0.npz", 0, 1, "1" * 64)])
    with pytest.raises(StoreError, match=r"from input-0.npz of another content\. Fix"):
        redownsample(changed, target, (8, 4, 4))


def test_sources_without_pixels_are_refused(tmp_path):
    plain = make_store(tmp_path / "plain.zarr", 1, 2)
    some = make_store(tmp_path / "some.zarr", 1, 2, **STORE)
    add_images(some, [make_image(5)])
    for path, words in ((plain, "of 2 of 2 images"), (some, "of 1 of 3 images")):
        with pytest.raises(StoreError, match=rf"keeps no pixels {words}\. Fix: run 'larstore preprocess --save-pix'"):
            redownsample(path, tmp_path / "out.zarr", (8, 4, 4))
    assert not (tmp_path / "out.zarr").exists()
    assert redownsample(some, tmp_path / "out.zarr", (8, 4, 4), files=(0, 0)).images == 2


def test_damage_of_the_source_is_named(source, tmp_path):
    (shard, *_) = sorted(Path(source / "pixels/charge/c").rglob("0"))
    data = bytearray(shard.joinpath("0").read_bytes() if shard.is_dir() else shard.read_bytes())
    data[10] ^= 1
    (shard / "0" if shard.is_dir() else shard).write_bytes(data)
    with pytest.raises(StoreError, match=r"pixels/charge.*checksum does not match; images .*\(0, 0, 1\)"):
        redownsample(source, tmp_path / "out.zarr", (8, 4, 4))
    assert len(larstore.open(tmp_path / "out.zarr")) == 0


def test_as_a_user_types_it(source, tmp_path):
    out = tmp_path / "out.zarr"
    done = call("redownsample", source, "-o", out, "--downsample", "4,2,2", "--files", "1:2", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "8 images (0 were there before)" in " ".join(done.stdout.split())
    np.testing.assert_array_equal(larstore.open(out).select().column("file"), np.repeat([1, 2], 4))
    one_line(call("redownsample", source, "-o", out, "--downsample", "8,4,4"), "this makes [8, 4, 4]. Fix: write to")


def test_wrong_usage_is_told(source, tmp_path):
    app, out = build_app(), tmp_path / "out.zarr"

    def typed(*arguments):
        return CliRunner().invoke(app, ["redownsample", *map(str, arguments)], terminal_width=200)

    assert "redownsample run.zarr -o coarse.zarr --downsample 4,2,2" in typed("--help").stdout
    assert typed(source, "-o", out).exit_code == 2
    wrong = typed(source, "-o", out, "--downsample", "4,x,2")
    assert wrong.exit_code == 2
    assert "write whole numbers" in wrong.stderr
    for value in ("4,0,2", "4,2"):
        error = typed(source, "-o", out, "--downsample", value).exception
        assert isinstance(error, ConfigError)
        assert f"downsample = ({value.replace(',', ', ')}). Fix: give three whole numbers" in str(error)
    plain = make_store(tmp_path / "plain.zarr", 1, 1)
    assert "keeps no pixels of 1 of 1" in str(typed(plain, "-o", out, "--downsample", "4,2,2").exception)
    assert not out.exists()
    shown = CliRunner().invoke(app, ["info", str(source), "--json"]).stdout
    assert '"pixels": 2400' in shown


@pytest.mark.slow
def test_a_run_with_small_blocks_keeps_whole_units(tmp_path, monkeypatch):
    """Blocks overflow and are asked for again; a unit whose third event is bad leaves nothing of the first two."""
    monkeypatch.setattr(coordinator, "PIXEL_SHARDS", 2)
    raw, detector = tmp_path / "raw", small_detector(tmp_path)
    make_inputs(raw, detector, n_files=2, n_events=3)
    random_numbers = np.random.default_rng(0)
    events = [np.where(random_numbers.random((300, 210)) < 0.02, 5.0, 0.0).astype(np.float32) for _ in range(3)]
    events[2][7, 7] = np.nan
    np.savez(raw / "wrong_7_wire-TPC1.npz", *events)
    stores = []
    with make_cluster("local", 1) as client:
        for name, options in (("plain", {}), ("pixels", {"save_pix": True, "shard_rows": 4096, "chunk_rows": 1024})):
            config = RunConfig(
                inputs=(str(raw),), output=tmp_path / f"{name}.zarr", detector=str(tmp_path / "small.yaml"), **options
            )
            summary = runner.run(config, client)
            assert (summary.units_done, summary.units_failed, summary.images) == (2, 1, 6)
            stores.append(larstore.open(config.output))
    assert larstore.diff(*stores) == []
    assert stores[1].select().column("pixel_count").max() > 2 * 4096, "no block overflowed"
    assert list(stores[1].failures["file"]) == [7]
    assert larstore.verify(stores[1].path).ok
