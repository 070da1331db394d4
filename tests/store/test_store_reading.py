"""Rows of several arrays read at once, in threads and in runs of chunks, beside what plain zarr reads."""

import shutil
import threading

import crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc

import larstore
from larstore import pieces, reading
from larstore.codecs import (
    MOST_LOCKED,
    CorruptError,
    alone,
    check_packed,
    checksum,
    join,
    pack,
    room_to_join,
    unpack_joined,
)
from larstore.errors import DamageError
from larstore.format import COORDS, sharded_document
from larstore.root import read_root
from larstore.shards import MISSING, decode_index
from larstore.testing import add_images, make_image, make_store

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
    fill = pieces.Piece.fill

    def noted(piece, run):
        taken.extend((piece.reader.layout.path, number) for number in run)
        fill(piece, run)

    monkeypatch.setattr(pieces.Piece, "fill", noted)
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


CODECS = [("zstd", "shuffle"), ("lz4hc", "shuffle"), ("lz4", "bitshuffle"), ("lz4hc", "noshuffle"), ("zlib", "shuffle")]


def chunks_in_memory(parts, cname, shuffle, block=0):
    """Encoded chunks one after the other behind the room that joining them takes, and where each lies."""
    memory, places = bytearray(room_to_join(len(parts))), []
    for part in parts:
        blob = pack(part, part.itemsize, cname, 3, shuffle, block or part.nbytes)
        places.append((len(memory), len(blob)))
        memory += blob
    for start, size in places:
        check_packed(memoryview(memory), start, size, parts[0].nbytes)
    return memoryview(memory), places


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize(("cname", "shuffle"), CODECS)
def test_joined_chunks_unpack_as_one(cname, shuffle, n):
    rng = np.random.default_rng(n)
    parts = [np.sort(rng.integers(0, 300, 4096).astype(np.uint16)) for _ in range(n)]
    memory, places = chunks_in_memory(parts, cname, shuffle)
    joined, out = join(memory, places, parts[0].nbytes), np.empty((n, 4096), np.uint16)
    unpack_joined(joined, out)
    assert np.array_equal(out, parts)
    for start, size in places:  # they are as they were
        check_packed(memory, start, size, parts[0].nbytes)


def test_chunks_that_cannot_be_joined():
    parts = [np.repeat(np.arange(64, dtype=np.float32), 256) for _ in range(3)]
    noise = np.random.default_rng(0).integers(0, 2**32, 64 * 256, dtype=np.uint32).view(np.float32)
    n_bytes = noise.nbytes
    assert join(*chunks_in_memory(parts, "zstd", "shuffle"), n_bytes) is not None
    assert join(*chunks_in_memory(parts, "zstd", "shuffle", n_bytes // 2), n_bytes) is None  # two blocks each
    assert join(*chunks_in_memory([*parts, noise], "zstd", "shuffle"), n_bytes) is None  # one is stored as it is
    memory, places = chunks_in_memory(parts, "zstd", "shuffle")
    memory[places[1][0] + 3] = 2  # another typesize
    assert join(memory, places, n_bytes) is None
    memory, places = chunks_in_memory(parts, "zstd", "shuffle")
    for inside in (0, 19, places[2][1] - 4, 2**31):  # a block outside its chunk
        memory[places[2][0] + 16 : places[2][0] + 20] = inside.to_bytes(4, "little")
        assert join(memory, places, n_bytes) is None


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_rows_are_read_to_room_of_any_type_and_layout(path, data):
    start = data.draw(st.integers(0, ROWS))
    stop = data.draw(st.integers(start, ROWS))
    spare = data.draw(st.integers(0, 2))  # columns of the room beside those that are filled
    kinds = data.draw(st.tuples(st.sampled_from(["u2", "i8"]), *[st.sampled_from(["f4", "f8"])] * 2))
    names = ("voxels/coords", "voxels/charge", "voxels/truth")
    store, plain = larstore.open(path), zarr.open_group(path, mode="r")
    for _ in range(2):
        rooms = [np.full((stop - start + 2, 3 + spare), 7, kind) for kind in kinds[:2]]
        rooms.append(np.full((stop - start + 2) * (1 + spare), 7, kinds[2]))
        out = [room[1:-1, :3] for room in rooms[:2]] + [rooms[2][:: 1 + spare][1:-1]]
        found = store.read_arrays(names, start, stop, out)
        for name, room in zip(names, out, strict=True):
            np.testing.assert_array_equal(room, plain[name][start:stop])
            assert found[name] is room
        for room in rooms[:2]:  # nothing beside them
            assert (room[:, 3:] == 7).all()
            assert (room[[0, -1]] == 7).all()
        assert (rooms[2].reshape(-1, 1 + spare)[:, 1:] == 7).all()
        assert (rooms[2].reshape(-1, 1 + spare)[[0, -1]] == 7).all()


def test_of_joined_chunks_the_damaged_one_is_named(path, tmp_path):
    """One that has the right checksum and does not unpack, as a faulty writer would make it."""
    copy = tmp_path / "d.zarr"
    shutil.copytree(path, copy)
    layout = larstore.open(copy).reader("voxels/coords").layout
    file = copy / layout.file(0)
    data = bytearray(file.read_bytes())
    offset, size = decode_index(layout, bytes(data[-layout.index_bytes :]))[3].tolist()
    body = data[offset : offset + size - 4]
    body[24:] = bytes(len(body) - 24)
    data[offset : offset + size] = body + checksum(bytes(body))
    file.write_bytes(data)
    store = larstore.open(copy)
    with pytest.raises(DamageError, match="array voxels/coords, chunk 3 of shard 0: does not decompress"):
        store.read_rows("voxels/coords", 0, 512)
    with pytest.raises(DamageError, match="array voxels/coords, chunk 3 of shard 0: does not decompress"):
        larstore.open(copy).read_arrays(["voxels/coords"], 20, 500, [np.empty((480, 3), np.int64)])
    assert len(store.read_rows("voxels/coords", 256, 512)) == 256


def test_a_chunk_of_new_stores_has_one_block(path):
    for name in ("voxels/coords", "voxels/charge", "voxels/truth", "truth/coords"):
        layout = larstore.open(path).reader(name).layout
        assert layout.blocksize == layout.chunk_bytes
        assert zarr.open_group(path, mode="r")[name].shape[0] == layout.rows
    document = sharded_document(COORDS, 3, 16_384, 16_384)
    for wrong in (-1, 2**40, "1", None, 1.5):
        document["codecs"][0]["configuration"]["codecs"][2]["configuration"]["blocksize"] = wrong
        with pytest.raises(ValueError, match="blocksize"):
            reading.ShardReader(path, larstore.shards.parse_layout("x", document), lambda a, b: "")


def test_a_store_with_blocks_as_blosc_thinks_best_grows(tmp_path):
    """What earlier versions wrote."""
    path = make_store(tmp_path / "old.zarr", n_files=1, n_events=1, n_voxels=700, shard_rows=960, chunk_rows=64)
    root = read_root(path)
    for name in root.nodes:
        if name.startswith(("voxels/", "truth/")):
            root.nodes[name]["codecs"][0]["configuration"]["codecs"][-2]["configuration"]["blocksize"] = 0
    (path / "zarr.json").write_bytes(root.sealed())
    image = make_image(7, 0, 1, 900)
    add_images(path, [image])
    found = larstore.open(path).image(7, 0, 1)
    assert np.array_equal(found.charge, image.charge)
    assert larstore.open(path).reader("voxels/charge").layout.blocksize == 0


def test_what_a_user_does_to_an_array_is_not_read_again(path):
    """The rest of a large image's last chunk is kept, where the next one begins; the image's own rows are not."""
    store, plain = larstore.open(path), zarr.open_group(path, mode="r")["voxels/charge"]
    for start, stop in ((0, 1000), (1000, 2030), (2000, 3000), (990, 1010), (1020, 1030), (1000, 2030)):
        for _ in range(2):
            found = store.read_rows("voxels/charge", start, stop)
            assert np.array_equal(found, plain[start:stop])
            found[:] = -1


def test_the_rest_of_the_last_chunk_is_decoded_once(path, monkeypatch):
    taken = []
    fill = pieces.Piece.fill
    monkeypatch.setattr(pieces.Piece, "fill", lambda piece, run: taken.extend(run) or fill(piece, run))
    store = larstore.open(path)
    for start, stop in ((0, 1000), (1000, 2000), (2000, 2010)):
        store.read_rows("voxels/live", start, stop)
    assert sorted(taken) == list(range(-(-2000 // 64)))


def test_a_few_rows_hold_few_bytes(path):
    found = larstore.open(path).read_rows("voxels/charge", 100, 110)
    assert (found if found.base is None else found.base).nbytes == found.nbytes


def test_numcodecs_is_as_it_was_afterwards():
    before, seen = blosc.use_threads, []
    with alone():
        assert blosc.use_threads is False
        thread = threading.Thread(target=lambda: seen.append(blosc._get_use_threads()))
        thread.start()
        thread.join()
    assert blosc.use_threads is before
    assert seen == [False]
    with pytest.raises(CorruptError), alone():
        raise CorruptError
    assert blosc.use_threads is before
