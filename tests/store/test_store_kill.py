"""Real SIGKILLs at random moments: the store is whole after each, and at the end equal to that of a quiet run."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

import larstore
from larstore.cleaning import clean
from larstore.testing import make_image
from tests.store.crash_scenarios import new_store
from tests.store.killed_writers import Expected, context, received, write

WRITER = """
import sys
import larstore
from larstore.records import InputFile
from larstore.testing import make_image

path = sys.argv[1]
with larstore.StoreWriter(path) as writer:
    print("ready", flush=True)
    for file in range(12):
        images = [make_image(file, event, 1, 25 + file, input=f"{file}") for event in range(2)]
        images = [image for image in images if image.key not in writer.keys]
        if images:
            inputs = [InputFile(str(file), file, 1, f"{file:064x}")]
            writer.commit([larstore.write_block(path, writer.reserve(3), images, inputs)])
"""


def made(path):
    new_store(path)
    return path


def start(path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_killed_writers(tmp_path):
    quiet = made(tmp_path / "quiet.zarr")
    begin = time.monotonic()
    assert start(quiet).communicate() == ("", None)
    whole = time.monotonic() - begin
    path = made(tmp_path / "killed.zarr")
    rng, kept, killed = random.Random(3), [0], 0
    for _ in range(40):
        process = start(path)
        try:
            process.wait(rng.uniform(0, whole / 6))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate()
        report = larstore.verify(path)
        assert report.ok, report.problems
        kept.append(report.images)
        if kept[-1] == 24:
            break
    assert killed >= 2
    assert kept == sorted(kept)
    assert start(path).communicate() == ("", None)
    assert larstore.diff(path, quiet) == []
    assert all("no commit holds" in note for note in larstore.verify(path).notes)


def test_a_reader_beside_a_writer_never_sees_half_a_commit(tmp_path):
    path = made(tmp_path / "a.zarr")
    process = start(path)
    seen = []
    while process.poll() is None:
        store = larstore.open(path)
        part = store.select()
        for image in part.read(0, len(part)):
            expected = make_image(*image.key, n_voxels=25 + image.key[0])
            np.testing.assert_array_equal(image.coords, expected.coords)
            np.testing.assert_array_equal(image.charge, expected.charge)
            np.testing.assert_array_equal(image.truth_voxels[1], expected.truth_value)
        assert len(store.inputs) == len(part) // 2
        seen.append(len(part))
    process.communicate()
    assert process.returncode == 0
    assert seen == sorted(seen)
    assert all(n % 2 == 0 for n in seen)
    assert seen


def kill_writers(path, kills, seed):
    """Kill writers one after the other; the store is what the living have said of it after each."""
    new_store(path)
    rng, expected, steps, flying_kinds = random.Random(seed), Expected(), 0, set()
    for n in range(kills):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=write, args=(path, there, seed * 1000 + n), daemon=True)
        process.start()
        there.close()
        told = [here.recv() for _ in range(rng.choice([1, 1, 1, 3, 5]))]  # it has begun a step
        process.join(rng.uniform(0, 0.15))
        assert process.is_alive()
        process.kill()
        process.join()
        told += received(here)
        steps += told.count("done")
        flying = expected.after(told)
        flying_kinds |= {flying[0]} if flying else set()
        expected.check(path, flying)
        report = larstore.verify(path)
        assert report.ok, report.problems
    assert all("no commit holds" in note or "mends it" in note for note in report.notes)
    clean(path, 0)
    expected.check(path, None)
    assert larstore.verify(path).ok
    return steps, flying_kinds


def test_some_killed_writers(tmp_path):
    steps, flying = kill_writers(tmp_path / "a.zarr", 12, seed=1)
    assert steps
    assert flying


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_killed_writers(tmp_path):
    steps, flying = 0, set()
    for seed in range(2, 10):  # stores stay small
        done = kill_writers(tmp_path / f"{seed}.zarr", 26, seed)
        steps, flying = steps + done[0], flying | done[1]
    assert steps > 50  # a slow machine gets less far before it is stopped
    assert flying == {"write", "delete", "predict"}
