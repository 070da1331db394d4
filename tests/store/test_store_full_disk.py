"""Real disks that are full or read-only: one line, the store as before, and with room again it goes on."""

import os
import random
import re

import numpy as np
import pytest

import larstore
from larstore.errors import StoreError
from larstore.maintenance import copy_images
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_image
from tests.small_disks import fill, remount, small_disk
from tests.store.crash_scenarios import new_store, predict

PAGE = 4096


@pytest.fixture
def path(tmp_path):
    with small_disk(tmp_path / "disk", "size=8m,nr_inodes=2000") as place:
        new_store(place / "a.zarr")
        add_images(place / "a.zarr", [make_image(0, e, 1, 30) for e in (0, 1)], [InputFile("a", 0, 1, "0" * 64)])
        yield place / "a.zarr"


def append(path):
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(2), [make_image(1, 0, 1, 40)])
        writer.commit([receipt], [Failure(3, 1, "c", "no wires")])


def copy(path):
    copy_images(larstore.open(path).select(), path.with_name("copy.zarr"))


@pytest.mark.parametrize(("action", "step"), [(append, 1), (predict, 1), (copy, 7)])
def test_a_full_disk(action, step, path):
    """With no page left, one, two, …: fails at each of them, until it comes through."""
    before, lines = larstore.open(path), []
    n_before = before.attributes["commit"]
    for pages in range(0, 800, step):
        ballast = fill(path.parent, pages * PAGE)
        try:
            action(path)
            break
        except StoreError as error:
            lines.append(str(error))
        finally:
            report = larstore.verify(path)
            assert report.ok, report.problems
            assert not [file for file in path.parent.rglob("*.tmp") if file.is_file()]
            ballast.unlink()
        if larstore.open(path).attributes["commit"] == n_before:
            assert larstore.diff(path, before) == []
    assert len(lines) > 8
    for line in lines:
        assert re.fullmatch(rf"{path.parent}/.* \(No space left on device\)\. Fix: check free space.*", line)
    assert larstore.verify(path).ok
    done = larstore.open(path)
    if action is append:
        np.testing.assert_array_equal(done.image(1, 0, 1).charge, make_image(1, 0, 1, 40).charge)
    elif action is predict:
        assert all(np.isfinite(image.score("p")).all() for image in done.select())
    else:
        assert larstore.diff(path, path.with_name("copy.zarr")) == []


def test_no_names_left(path):
    """Files are counted too."""
    rng, outcomes = random.Random(1), []
    for n in range(12):
        free = os.statvfs(path).f_favail
        names = [path.parent / f"x{i}" for i in range(free - rng.randrange(60))]
        for name in names:
            name.touch()
        try:
            add_images(path, [make_image(10 + n, 0, 1, 40)])
            outcomes.append("done")
        except StoreError as error:
            outcomes.append(str(error))
        for name in names:
            name.unlink()
        assert larstore.verify(path).ok
    assert 0 < outcomes.count("done") < len(outcomes)
    assert all(line == "done" or "(No space left on device)" in line for line in outcomes)
    add_images(path, [make_image(9, 0, 1, 40)])


def test_a_read_only_disk(path):
    """Reading works, writing is one line, and a writer that is caught by it leaves the store as it was."""
    reference = larstore.open(path)
    with larstore.StoreWriter(path) as writer:
        receipt = larstore.write_block(path, writer.reserve(), [make_image(1, 0, 1, 20)])
        remount(path.parent, "ro")
        for action in (
            lambda: writer.commit([receipt]),
            writer.reserve,
            lambda: larstore.write_block(path, receipt.spec, [make_image(1, 1, 1, 20)]),
            lambda: predict(path),
            lambda: copy(path),
            lambda: new_store(path.with_name("new.zarr")),
        ):
            with pytest.raises(StoreError, match=r"^/[^\n]* \(Read-only file system\)\. Fix: [^\n]*$"):
                action()
        assert larstore.verify(path).ok
        assert larstore.diff(path, reference) == []
        remount(path.parent, "rw")
        writer.commit([receipt])
    assert len(larstore.open(path)) == 3
