"""`--redo`: images made again take the place of the old ones, unit by unit."""

import numpy as np
import pytest

import larstore
from larstore.testing import make_image
from larstore.verification import verify
from preprocess import runner
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.plan import make_plan
from preprocess.runner import run
from tests.preprocess.commands import larstore_command

DETECTOR = "protodune-sp-2021"


def write_npz(path, seed, events=3):
    """Events whose three planes are lit in a few places."""
    rng = np.random.default_rng(seed)
    waveforms = np.zeros((events, 64, 2560), np.float32)
    for waveform in waveforms:
        waveform[rng.integers(0, 64, 400), rng.integers(0, 2560, 400)] = rng.uniform(0.1, 5, 400)
    np.savez(path, *waveforms)


def charges(path):
    """Key -> charges of all images."""
    return {image.key: image.charge.tobytes() for image in larstore.open(path).select()}


def test_a_store_that_another_run_makes_meanwhile_is_continued(tmp_path, monkeypatch):
    """Both find none and make one; what is said of it then is said by the lock."""
    write_npz(tmp_path / "a_1_wire-TPC1.npz", 1)
    config = RunConfig(inputs=(str(tmp_path),), output=tmp_path / "run.zarr", detector=DETECTOR)

    def twice(*arguments):
        create(*arguments)
        create(*arguments)

    create = runner._create_output
    monkeypatch.setattr(runner, "_create_output", twice)
    with make_cluster("local", 1) as client:
        assert run(config, client).images == 3


def test_changed_inputs_are_made_again(tmp_path):
    for number in (1, 2, 3):
        write_npz(tmp_path / f"a_{number}_wire-TPC1.npz", number)
    config = RunConfig(inputs=(str(tmp_path),), output=tmp_path / "run.zarr", detector=DETECTOR)
    with make_cluster("local", 1) as client:
        run(config, client)
        before = charges(config.output)
        assert len(before) == 9
        write_npz(tmp_path / "a_2_wire-TPC1.npz", 20, events=2)  # another content, and an event less
        (tmp_path / "a_3_wire-TPC1.npz").write_bytes(b"no archive any more")
        store = larstore.open(config.output)
        plan = make_plan(config.model_copy(update={"files": (1, 2)}), load_detector(DETECTOR), store, redo=True)
        assert sorted(unit.file for unit in plan.units) == [1, 2]
        summary = run(config.model_copy(update={"files": (2, 3)}), client, redo=True)
        assert (summary.units_done, summary.units_failed) == (1, 1)
        after = charges(config.output)
        old = {key: charge for key, charge in before.items() if key[0] != 2}
        assert {key: charge for key, charge in after.items() if key[0] != 2} == old  # also of the unit that failed now
        assert [key for key in after if key[0] == 2] == [(2, 0, 1), (2, 1, 1)]
        assert after[2, 0, 1] != before[2, 0, 1]
        fresh = config.model_copy(update={"output": tmp_path / "fresh.zarr", "files": (1, 2)})
        run(fresh, client)
        assert charges(fresh.output) == {key: charge for key, charge in after.items() if key[0] != 3}
    store = larstore.open(config.output)
    assert "a_3_wire" in store.failures["error"][0]
    assert verify(config.output).ok
    assert store.inputs["path"].value_counts()[str(tmp_path / "a_2_wire-TPC1.npz")] == 2  # both contents, with sha256


def test_a_commit_takes_images_away_and_brings_others(tmp_path):
    path = larstore.testing.make_store(tmp_path / "a.zarr", n_files=1, n_events=3)
    new = make_image(0, 0, n_voxels=50, seed=9)
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(1), [new])
        writer.commit([receipt], gone=[(0, 2, 1)])
        assert writer.attributes["commit"] == 2
        assert (0, 2, 1) not in writer.keys
        with pytest.raises(larstore.errors.StoreError, match=r"no image \(0, 2, 1\) to delete"):
            writer.commit([], gone=[(0, 2, 1)])
    store = larstore.open(path)
    assert store.index.index.tolist() == [(0, 0, 1), (0, 1, 1)]
    assert np.array_equal(store.image(0, 0, 1).charge, new.charge)
    assert verify(path).ok


def test_the_command_names_the_way(tmp_path):
    write_npz(tmp_path / "a_1_wire-TPC1.npz", 1, events=1)
    base = ["preprocess", tmp_path, "-o", tmp_path / "run.zarr", "--detector", DETECTOR, "--workers", 1]
    assert larstore_command(*base).returncode == 0
    write_npz(tmp_path / "a_1_wire-TPC1.npz", 2, events=2)
    refused = larstore_command(*base)
    assert refused.returncode == 1
    assert "Fix: make its images again with --redo" in refused.stderr
    shown = larstore_command(*base, "--redo", "--dry-run")
    assert "0 units are done, 1 to do" in " ".join(shown.stdout.split())
    assert larstore_command(*base, "--redo").returncode == 0
    assert len(larstore.open(tmp_path / "run.zarr")) == 2
