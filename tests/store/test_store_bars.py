"""The benchmarks' bars: sizes are those of the files that were written, and limits are printed beside them."""

import os
from dataclasses import replace

import pytest

import larstore
from larstore.testing import make_image

pytest.importorskip("h5py", reason="needs the benchmarks' baselines")
pytest.importorskip("numba", reason="needs the benchmarks' samples")

from tests.benchmarks import bench_index, bench_store
from tests.benchmarks.bars import Bar, bar_table
from tests.benchmarks.store_baselines import NpzFiles
from tests.benchmarks.store_samples import write_store
from tests.benchmarks.store_sizes import KEPT_BITS, files_bar, size_rows, sizes_on_disk


@pytest.fixture
def units():
    image = make_image(n_voxels=20_000)
    return [[replace(image, file=file, event=event) for event in range(4)] for file in range(2)]


def test_a_bar_is_printed_with_ours_and_the_ratio():
    lines = bar_table([Bar("size", "a", 0.9, 0.45, most=True), Bar("speed", "b", 3.5, 1.75)]).splitlines()
    assert lines[2:] == ["| size | a | ≤ 0.9 | 0.45 | 0.5 | yes |", "| speed | b | ≥ 3.5 | 1.75 | 0.5 | **no** |"]


def test_sizes_are_those_of_files(tmp_path, units):
    store, rounded = write_store(tmp_path / "a.zarr", units), write_store(tmp_path / "b.zarr", units, KEPT_BITS)
    npz = NpzFiles(tmp_path / "npz", units)
    size = sizes_on_disk(store, rounded, npz)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(store) for name in names]
    assert size["arrays"] + size["all else"] == sum(map(os.path.getsize, files))
    assert size["coords"] == sum(os.path.getsize(f) for f in files if "/voxels/coords/" in f)
    assert 0 < size["rounded arrays"] < size["arrays"]
    written = sum(path.stat().st_size for path in npz.paths)
    assert 0.95 * written < size["npz"] < written
    rows, bars = size_rows({"made up": size})
    assert [bar.limit for bar in bars] == [0.3, 0.9, 0.6]
    assert rows[0][1] == f"{bars[0].ours:.3f}" == f"{size['coords'] / size['npz coords']:.3f}"


def test_files_of_a_store_keep_to_their_bar(tmp_path, units):
    path = write_store(tmp_path / "a.zarr", units)
    bar = files_bar("a", path, blocks=1)
    assert bar.ours == sum(len(names) for _, _, names in os.walk(path))
    assert bar.limit == 6 * (160_000 / 2_097_152 + 1) + 150
    assert bar.met


@pytest.mark.slow  # a process a step
def test_the_page_of_a_small_index(tmp_path):
    text = bench_index.page([600, 6000], tmp_path)
    for step in (
        "its failures, peak GB",
        'query="voxel_count > 4000", s',
        "larstore info, s",
        "growth of the root, bytes",
    ):
        assert f"| {step} | " in text


def test_the_page_of_a_small_store(tmp_path, units, monkeypatch):
    monkeypatch.setattr(bench_store, "simulated", lambda folder: folder.mkdir() or units)
    monkeypatch.setattr(bench_store, "recorded_data", lambda: None)
    monkeypatch.setattr(bench_store, "writing", lambda folder, parts: [1.0, 0.5])
    text = bench_store.page(tmp_path)
    for bar in ("≥ 0.9", "≥ 3.5", "≥ 0.8", "≥ 100", "≥ 0.5", "≤ 0.3", "≤ 0.9", "≤ 0.6", "≥ 1.7", "≤ 156.5"):
        assert f"| {bar} | " in text
    assert larstore.open(tmp_path / "simulated.zarr").attributes["commit"] > 0
