"""Rows of several arrays read at once, in threads and in runs of chunks, beside what plain zarr reads."""

import shutil

import crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import larstore
from larstore import reading
from larstore.codecs import MOST_LOCKED, checksum
from larstore.errors import DamageError
from larstore.shards import MISSING, decode_index
from larstore.testing import make_store

ARRAYS = ("voxels/coords", "voxels/charge", "voxels/live", "voxels/truth")
ROWS = 6 * 700


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two blocks of five shards, of which the images fill four and a half."""
    return make_store(
        tmp_path_factory.mktemp("reading") / "a.zarr",
        n_files=2,
        n_events=6,
        n_voxels=700,
        shard_rows=960,
        chunk_rows=64,
    )


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_rows_are_those_that_zarr_reads(path, data):
    begin = data.draw(st.sampled_from([0, 5 * 960]))
    start = data.draw(st.integers(0, ROWS))
    stop = data.draw(st.integers(start, ROWS))
    store, plain = larstore.open(path), zarr.open_group(path, mode="r")
    for _ in range(2):  # what was kept of the first time serves the second
        found = store.read_arrays(ARRAYS, begin + start, begin + stop)
        for name in ARRAYS:
            expected = plain[name][begin + start : begin + stop]
            assert found[name].dtype == expected.dtype
            assert found[name].flags.c_contiguous
            assert np.array_equal(found[name], expected)


def test_chunks_that_lie_apart_in_their_file(path, tmp_path):
    """Another writer may leave gaps or another order in a shard; the format allows it."""
    copy = tmp_path / "b.zarr"
    shutil.copytree(path, copy)
    layout = larstore.open(copy).reader("voxels/truth").layout
    file = copy / layout.file(0)
    data = file.read_bytes()
    body = len(data) - layout.index_bytes
    index = decode_index(layout, data[body:], body)
    parts, moved, at = [], index.copy(), 0
    for number in reversed(range(layout.chunks)):
        offset, size = index[number].tolist()
        assert offset != MISSING
        parts += [data[offset : offset + size], b"gap"]
        moved[number] = at, size
        at += size + 3
    table = moved.tobytes()
    file.write_bytes(b"".join([*parts, table, checksum(table)]))
    for start, stop in ((0, 960), (10, 700), (63, 65)):
        one, other = (larstore.open(p).read_rows("voxels/truth", start, stop) for p in (path, copy))
        assert np.array_equal(one, other)


def test_an_error_in_a_thread_is_the_readers(path, tmp_path):
    copy = tmp_path / "c.zarr"
    shutil.copytree(path, copy)
    layout = larstore.open(copy).reader("voxels/charge").layout
    file = copy / layout.file(1)
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    store = larstore.open(copy)
    with pytest.raises(DamageError, match=r"array voxels/charge, chunk 0 of shard 1: checksum does not match; images"):
        store.read_arrays(ARRAYS, 0, 4000)
    with pytest.raises(DamageError, match="lie outside the array's"):
        store.read_arrays(ARRAYS, 0, 10**9)
    assert len(store.read_rows("voxels/charge", 0, 960)) == 960


def test_few_chunks_are_read_without_threads(path, monkeypatch):
    monkeypatch.setattr(reading, "pool", None)
    store = larstore.open(path)
    assert len(store.read_rows("voxels/charge", 10, 100)) == 90
    with pytest.raises(TypeError):
        store.read_arrays(ARRAYS, 0, 960)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_chunk_is_read_once_by_any_number_of_threads(path, monkeypatch, threads):
    taken = []
    fill = reading._Piece.fill

    def noted(piece, run):
        taken.extend((piece.reader.layout.path, number) for number in run)
        fill(piece, run)

    monkeypatch.setattr(reading._Piece, "fill", noted)
    monkeypatch.setattr(reading, "n_threads", lambda: threads)
    plain = zarr.open_group(path, mode="r")
    for start, stop in ((0, ROWS), (100, 1000), (70, 400)):
        taken.clear()
        found = larstore.open(path).read_arrays(ARRAYS, start, stop)
        numbers = range(start // 64, -(-stop // 64))
        assert sorted(taken) == sorted((name, number) for name in ARRAYS for number in numbers)
        for name in ARRAYS:
            assert np.array_equal(found[name], plain[name][start:stop])


@pytest.mark.parametrize("size", [0, 9, MOST_LOCKED, MOST_LOCKED + 1])
def test_a_checksum_is_the_same_with_and_without_pythons_lock(size):
    data = np.random.default_rng(size).bytes(size)
    for mode in (0, 1):
        assert checksum(data) == crc32c.crc32c(data, 0, mode).to_bytes(4, "little")


def test_the_checksum_is_that_of_the_standard():
    assert checksum(b"123456789") == (0xE3069283).to_bytes(4, "little")
