"""The replay of crashes believes what is announced: here each announced sync is a real one, of its file, in order."""

import os
import stat

import pytest

import larstore
from larstore import fs
from larstore.records import Failure, InputFile
from larstore.testing import add_images, make_image
from tests.store.crash_scenarios import new_store, predict

KINDS = {"fsync": stat.S_ISREG, "fsync_dir": stat.S_ISDIR}


def create(path):
    new_store(path.with_name("new.zarr"), truth_columns=["pdg"], pixels=True)


def append(path):
    with larstore.StoreWriter(path) as writer:
        images = [make_image(1, 0, 1, 40, input="b")]
        receipt = larstore.write_block(path, writer.reserve(2), images, [InputFile("b", 1, 1, "1" * 64)])
        writer.commit([receipt], [Failure(3, 1, "c", "no wires")])


@pytest.fixture
def events(monkeypatch):
    """(who, kind of sync, path, size of the file), as syncs are announced and as the system is asked for them."""
    seen, written = [], {}

    def announced(operation):
        if operation.kind == "write":
            written[operation.path] = len(operation.data)
        elif operation.kind in KINDS:
            size = written[operation.path] if operation.kind == "fsync" else None
            seen.append(("announced", operation.kind, os.path.realpath(operation.path), size))

    def fsync(descriptor):
        status = os.fstat(descriptor)
        (kind,) = (kind for kind, fits in KINDS.items() if fits(status.st_mode))
        size = status.st_size if kind == "fsync" else None
        seen.append(("real", kind, os.readlink(f"/proc/self/fd/{descriptor}"), size))

    monkeypatch.setattr(os, "fsync", fsync)
    with fs.observed(announced):
        yield seen


@pytest.mark.parametrize("action", [create, append, predict], ids=lambda a: a.__name__)
def test_each_announced_sync_is_made(action, tmp_path, events):
    """One by one, with nothing between; a file is whole by then."""
    path = tmp_path / "a.zarr"
    new_store(path)
    add_images(path, [make_image(0, e, 1, 20, input="a") for e in (0, 1)], [InputFile("a", 0, 1, "0" * 64)])
    events.clear()
    action(path)
    told, made = events[::2], events[1::2]
    assert [("real", *event[1:]) for event in told] == made
    assert {event[0] for event in told} == {"announced"}
    assert {event[1] for event in told} == set(KINDS)
