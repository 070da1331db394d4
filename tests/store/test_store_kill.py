"""Real SIGKILLs at random moments: the store is whole after each, and at the end equal to that of a quiet run."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

import larstore
from larstore.testing import make_geometry, make_image

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


def new_store(path):
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8)
    return path


def start(path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_killed_writers(tmp_path):
    quiet = new_store(tmp_path / "quiet.zarr")
    begin = time.monotonic()
    assert start(quiet).communicate() == ("", None)
    whole = time.monotonic() - begin
    path = new_store(tmp_path / "killed.zarr")
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
    assert larstore.verify(path).to_dict()["notes"] == []


def test_a_reader_beside_a_writer_never_sees_half_a_commit(tmp_path):
    path = new_store(tmp_path / "a.zarr")
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
