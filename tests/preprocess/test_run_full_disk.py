"""`larstore preprocess` onto a disk that is full: one line, and with room again the same command completes."""

import numpy as np
import pytest

import larstore
from tests.preprocess.commands import larstore_command
from tests.small_disks import fill, small_disk


def write_npz(path, seed):
    rng = np.random.default_rng(seed)
    waveform = np.zeros((64, 2560), np.float32)
    waveform[rng.integers(0, 64, 400), rng.integers(0, 2560, 400)] = rng.uniform(0.1, 5, 400)
    np.savez(path, waveform)


def preprocess(inputs, store):
    return larstore_command("preprocess", inputs, "-o", store, "--detector", "protodune-sp-2021", "--workers", 1)


@pytest.mark.fault(
    "the store's disk is full: at creation, while blocks are written, at a commit",
    "one line that says so, exit code 1; what is there is sound. With room again the same command completes, and "
    "the store equals that of an undisturbed run",
)
@pytest.mark.slow
def test_a_run_onto_a_full_disk(tmp_path):
    """Full at creation, while blocks are written, and at the first commit."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    for i in range(3):
        write_npz(inputs / f"a_{i}_wire-TPC1.npz", i)
    quiet = preprocess(inputs, tmp_path / "quiet.zarr")
    assert quiet.returncode == 0, quiet.stderr
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        store = disk / "run.zarr"
        codes = []
        for free in (0, 300_000, 600_000, 0, 12_288, 24_576):  # pages: the store's directory is made at the third
            ballast = fill(disk, free)
            done = preprocess(inputs, store)
            ballast.unlink()
            codes.append(done.returncode)
            (line,) = (line for line in done.stderr.splitlines() if line.startswith("larstore: "))
            assert "(No space left on device). Fix: check free space" in line
            assert store.exists() == (len(codes) > 2)
            assert not store.exists() or larstore.verify(store).ok
        assert codes == [1] * 6
        assert preprocess(inputs, store).returncode == 0
        assert larstore.diff(store, tmp_path / "quiet.zarr") == []
        assert larstore.open(store).failures.empty
