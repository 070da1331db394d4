"""Files stay open between reads: bounded in number, closed with their store, and never in the way of what is true."""

import errno
import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import larstore
from larstore import kept_files
from larstore.errors import DamageError, LarstoreError
from larstore.testing import make_store

N_FILES = 12


@pytest.fixture
def path(tmp_path):
    """24 images in many shards of each array."""
    return make_store(tmp_path / "a.zarr", N_FILES, 2, n_voxels=40, shard_rows=64, chunk_rows=32)


def shards_open(path):
    """The shards of a store that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # that of the list itself
            continue
        if name.startswith(str(path)) and "/c/" in name:
            found.append(name)
    return found


def arrays(store):
    return [(image.coords.copy(), image.charge.copy(), image.truth.copy()) for image in store.select()]


def same(found, expected):
    for ours, others in zip(found, expected, strict=True):
        for a, b in zip(ours, others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_as_many_as_allowed_stay_open_and_none_after_the_store(path, monkeypatch):
    expected = arrays(larstore.open(path))
    gc.collect()
    monkeypatch.setattr(kept_files, "MOST_OPEN", 5)
    store = larstore.open(path)
    rng = np.random.default_rng(0)
    for i in rng.integers(len(store), size=200).tolist():
        image = store.select()[i]
        same([(image.coords, image.charge, image.truth)], expected[i : i + 1])
        assert 0 < len(shards_open(path)) <= 5
    del store, image
    gc.collect()
    assert shards_open(path) == []


def test_a_file_that_is_used_outlives_those_that_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_files, "MOST_OPEN", 3)
    opened = []
    real = kept_files.open_plain
    monkeypatch.setattr(kept_files, "open_plain", lambda path: opened.append(path.name) or real(path))
    files = {}
    for name in "abcdefgh":
        (tmp_path / name).write_bytes(name.encode() * 10)
        files[name] = kept_files.KeptFile(tmp_path / name)
    room = bytearray(4)
    for name in "bcdefgh":
        for used in ("a", name):
            assert files[used].read_into(memoryview(room), 0) == 4
            assert room == used.encode() * 4
    assert opened == list("abcdefgh")  # each once


def test_threads_that_close_each_others_files_read_what_is_there(path, monkeypatch):
    expected = arrays(larstore.open(path))
    monkeypatch.setattr(kept_files, "MOST_OPEN", 1)
    store, wrong = larstore.open(path), []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for i in rng.integers(len(store), size=60).tolist():
                image = store.select()[i]
                same([(image.coords, image.charge, image.truth)], expected[i : i + 1])
        except (AssertionError, OSError, LarstoreError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_server_that_forgot_what_was_open_is_asked_again(path, monkeypatch):
    expected, store = arrays(larstore.open(path)), larstore.open(path)
    monkeypatch.setattr(kept_files, "MOST_OPEN", 1000)
    same(arrays(store), expected)
    for array in ("voxels/coords", "voxels/charge", "voxels/truth"):
        store.reader(array)._chunks.clear()
        store.reader(array)._next = None
    known, real, refused = set(), os.preadv, []

    def stale(descriptor, *arguments):
        if descriptor not in known:  # open since before the server was started anew
            known.add(descriptor)
            refused.append(descriptor)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(descriptor, *arguments)

    def opened(file):
        descriptor, size = open_plain(file)
        known.add(descriptor)
        return descriptor, size

    open_plain = kept_files.open_plain
    monkeypatch.setattr(os, "preadv", stale)
    monkeypatch.setattr(kept_files, "open_plain", opened)
    same(arrays(store), expected)
    assert refused


def test_a_restored_shard_is_read_by_the_store_that_found_the_damage(path):
    store = larstore.open(path)
    expected = store.select()[0].charge.copy()
    file = path / "voxels/charge/c/0/0"
    whole = file.read_bytes()
    damaged = path / "damaged"
    damaged.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    damaged.replace(file)
    fresh = larstore.open(path)
    with pytest.raises(DamageError, match="chunk 0 of shard 0"):
        _ = fresh.select()[0].charge
    restored = path / "restored"
    restored.write_bytes(whole)
    restored.replace(file)
    np.testing.assert_array_equal(fresh.select()[0].charge, expected)


def test_a_process_that_is_granted_few_files_keeps_few(path):
    """64 files granted: 8 are kept, and everything can be read."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "import sys, larstore; from larstore import kept_files\n"
        "store = larstore.open(sys.argv[1])\n"
        "print(kept_files.MOST_OPEN, sum(len(image.charge) for image in store.select()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8", str(int(larstore.open(path).select().column("voxel_count").sum()))]
