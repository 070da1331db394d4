"""A flipped bit or a missing file is an error that names array and image, or harmless; never a wrong number."""

import json
import shutil

import numpy as np
import pytest

import larstore
from larstore.commit import lagging_children
from larstore.errors import DamageError, LarstoreError, StoreError
from larstore.records import InputFile
from larstore.root import parse_root, read_root
from larstore.testing import add_images, make_geometry, make_image
from tests.store.whole_stores import add_scores

SHARDED = ("voxels/coords", "voxels/charge", "voxels/live", "voxels/truth", "truth/coords", "truth/value")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two shards of four small chunks; the second image spans them."""
    path = tmp_path_factory.mktemp("damage") / "small.zarr"
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8)
    add_images(path, [make_image(0, 0, 1, 20), make_image(0, 1, 1, 30)])
    return add_scores(path, lambda image: np.arange(len(image), dtype=np.float32))


@pytest.fixture
def small(made, tmp_path):
    return shutil.copytree(made, tmp_path / "small.zarr")


def content(path):
    """Everything that a reader can learn about the images."""
    store = larstore.open(path)
    found = [store.geometry.hash, store.inputs.to_csv(), store.failures.to_csv(), store.index.to_csv()]
    for image in store.select():
        found += [image.coords.tobytes(), image.charge.tobytes(), image.live.tobytes(), image.score("net").tobytes()]
        found += [image.truth.tobytes(), *(part.tobytes() for part in image.truth_voxels)]
    for image in store.select().read(0, 2, "net"):
        found += [image.coords.tobytes(), image.charge.tobytes(), image.score("net").tobytes()]
    return found


def files(path, pattern):
    return sorted(file for file in path.glob(pattern) if file.is_file())


def flip_every_byte(path, file, step=1, offset=0):
    """Flip one bit of every ``step``-th byte in turn; returns how many flips were reported and how many harmless."""
    expected, data = content(path), file.read_bytes()
    messages, harmless = [], 0
    for i in range(offset, len(data), step):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        file.write_bytes(damaged)
        try:
            found = content(path)
        except LarstoreError as error:
            messages.append(str(error))
        else:
            assert found == expected, f"byte {i} of {file} changed what is read"
            harmless += 1
    file.write_bytes(data)
    assert all("Fix:" in message and len(message.splitlines()) == 1 for message in messages)
    return len(messages), harmless


@pytest.mark.parametrize("array", [*SHARDED, "predictions/net/score"])
def test_every_byte_of_a_shard(small, array):
    file = files(small, f"{array}/c/0*/**/*")[0] if array.endswith("coords") or array.endswith("charge") else None
    file = file or small / array / "c" / "0"
    reported, harmless = flip_every_byte(small, file, step=4, offset=len(array) % 4)
    assert reported >= file.stat().st_size // 4
    assert harmless == 0  # every byte of a shard's used chunks and of its index is covered by a checksum


@pytest.mark.slow
@pytest.mark.parametrize("array", [*SHARDED, "predictions/net/score"])
def test_really_every_byte_of_all_shards(small, array):
    for file in files(small, f"{array}/c/**/*"):
        assert flip_every_byte(small, file)[1] == 0


def test_every_byte_of_tables(small):
    for file in [*files(small, "index/*/c/0")[:4], small / "index/voxel_start/c/0", small / "geometry/tail_x/c/0"]:
        reported, harmless = flip_every_byte(small, file, step=11)
        assert reported > 0
        assert harmless == 0


def check_root_flips(small, step):
    file = small / "zarr.json"
    data = file.read_bytes()
    expected = json.loads(data)
    head = data.index(b'"consolidated_metadata"')
    messages = []
    for i in sorted({*range(0, len(data), step), *range(0, head, max(1, step // 16))}):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        try:
            found = parse_root(bytes(damaged), file)
        except StoreError as error:
            messages.append(str(error))
        else:
            assert found.document == expected  # white space
    assert len(messages) > len(data) // step // 2
    assert all("zarr.json" in message and len(message.splitlines()) == 1 for message in messages)


def test_bytes_of_the_root(small):
    check_root_flips(small, 48)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_byte_of_the_root(small):
    check_root_flips(small, 1)


@pytest.mark.parametrize("array", SHARDED)
def test_a_deleted_shard_is_damage_that_names_its_images(small, array):
    store = larstore.open(small)
    shutil.rmtree(small / array / "c" / "1", ignore_errors=True)
    (small / array / "c" / "1").unlink(missing_ok=True)
    name = {"truth/coords": "truth_voxels", "truth/value": "truth_voxels"}.get(array, array.partition("/")[2])
    if array.startswith("truth/"):  # 22 + 33 truth voxels would be needed to reach shard 1; 0 is missing then
        shutil.rmtree(small / array / "c", ignore_errors=True)
    with pytest.raises(DamageError, match=rf"array {array}, shard \d is missing; images .*\(0, 1, 1\).*Fix:"):
        getattr(store.image(0, 1, 1), name)
    report = larstore.verify(small)
    assert not report.ok
    assert any(array in str(p) and "(0, 1, 1)" in str(p) for p in report.problems)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


def test_a_deleted_chunk_is_damage(small):
    """A valid shard that lacks a chunk inside an image, as a tool that skips empty chunks would write it."""
    from larstore.codecs import checksum
    from larstore.shards import layout_of

    layout = layout_of("voxels/charge", read_root(small).nodes["voxels/charge"])
    file = small / layout.file(0)
    data = bytearray(file.read_bytes())
    index = data[-layout.index_bytes : -4]
    index[16:32] = b"\xff" * 16
    file.write_bytes(data[: -layout.index_bytes] + index + checksum(bytes(index)))
    store = larstore.open(small)
    with pytest.raises(DamageError, match=r"chunk 1 of shard 0 is missing; images .*\(0, 0, 1\)"):
        _ = store.image(0, 0, 1).charge
    assert [str(p) for p in larstore.verify(small).problems if "chunk 1 of shard 0" in str(p)]


def test_a_truncated_shard_is_damage(small):
    file = small / "voxels/live/c/0"
    data = file.read_bytes()
    for size in (0, 3, 20, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(DamageError, match="voxels/live"):
            _ = larstore.open(small).image(0, 0, 1).live


@pytest.mark.parametrize("pattern", ["index/file/c/0", "inputs/path/c/0", "geometry/head_y/c/0"])
def test_a_deleted_table_file_is_damage(small, pattern):
    add_images(small, [make_image(5, 0, 1, 5)], [InputFile("a", 5, 1, "a" * 64)])
    (small / pattern).unlink()
    column = pattern.rpartition("/c/")[0]
    store = larstore.open(small)
    with pytest.raises(DamageError, match=f"column {column} is missing.*Fix:"):
        _ = store.index, store.inputs, store.geometry
    assert not larstore.verify(small, fast=True).ok


def test_wrong_geometry_is_damage(small):
    frames = read_root(small)
    frames.nodes["geometry"]["attributes"]["tpcs"]["1"]["anode_x_mm"] = 0.0
    (small / "zarr.json").write_bytes(frames.sealed())
    with pytest.raises(DamageError, match="geometry_hash"):
        _ = larstore.open(small).geometry
    assert any("geometry_hash" in str(p) for p in larstore.verify(small).problems)


def test_verify_finds_what_checksums_do_not(small):
    """Documents and chunks that are valid in themselves but do not belong together."""
    from larstore.shards import encode_shard, layout_of
    from larstore.table import _encode

    root = read_root(small)
    layout = layout_of("voxels/charge", root.nodes["voxels/charge"])
    (small / layout.file(0)).write_bytes(encode_shard(layout, np.ones((32, 3), np.float32)))
    assert any("sums differ" in str(p) for p in larstore.verify(small).problems)
    layout = layout_of("voxels/coords", root.nodes["voxels/coords"])
    (small / layout.file(0)).write_bytes(encode_shard(layout, np.zeros((32, 3), np.uint16)))
    problems = [p for p in larstore.verify(small).problems if "not sorted" in str(p)]
    assert [p.images for p in problems] == [[(0, 0, 1)], [(0, 1, 1)]]  # of shard 0, and of 0 and 1
    start = small / "index/voxel_start/c/0"
    before = start.read_bytes()
    start.write_bytes(_encode(root.nodes["index/voxel_start"], np.array([0, 19])))
    assert any("overlap" in str(p) for p in larstore.verify(small, fast=True).problems)
    start.write_bytes(_encode(root.nodes["index/voxel_start"], np.array([0, 21])))
    assert any("outside" in str(p) for p in larstore.verify(small, fast=True).problems)
    with pytest.raises(DamageError, match="outside the array"):
        _ = larstore.open(small).image(0, 1, 1).coords
    start.write_bytes(before)


def test_lagging_children_are_noted_and_mended(small):
    (small / "voxels/coords/zarr.json").write_text("{}")
    (small / "index/file/zarr.json").unlink()
    report = larstore.verify(small)
    assert report.ok
    assert len(report.notes) == 2
    with larstore.StoreWriter(small):
        pass
    assert lagging_children(small, read_root(small)) == []


def test_a_damaged_root_is_reported(small):
    data = (small / "zarr.json").read_bytes()
    (small / "zarr.json").write_bytes(data.replace(b'"electrons"', b'"positrons"'))
    with pytest.raises(DamageError, match="sha256 does not match"):
        larstore.open(small)
    assert not larstore.verify(small).ok


def test_a_newer_format_is_refused(small):
    root = read_root(small)
    root.attributes["format_version"] = 2
    (small / "zarr.json").write_bytes(root.sealed())
    for provenance, version in [
        ({}, None),
        ({"versions": {"larstore": "2.1.0.dev3"}}, "2.1.0.dev3"),
        ({"versions": {"larstore": "2'; rm -r x"}}, None),
        ({"versions": {"larstore": [2]}}, None),
        ({"versions": "2"}, None),
    ]:
        root.attributes["provenance"] = provenance
        (small / "zarr.json").write_bytes(root.sealed())
        with pytest.raises(StoreError, match="format version 2, this larstore reads up to 1") as error:
            larstore.open(small)
        wanted = "--upgrade larstore" if version is None else f"'larstore>={version}'"
        assert str(error.value).endswith(f". Fix: pip install {wanted}")


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_what_is_no_format_version(small, version):
    root = read_root(small)
    root.attributes["format_version"] = version
    (small / "zarr.json").write_bytes(root.sealed())
    with pytest.raises(DamageError, match="format_version"):
        larstore.open(small)


def test_a_chunk_that_unpacks_to_more_than_it_may_is_refused():
    from larstore.codecs import CorruptError, pack, unpack

    blob = pack(bytes(10_000_000), 1, "zstd", 1, "noshuffle")
    with pytest.raises(CorruptError, match="10000000 bytes where 100"):
        unpack(blob, 100)
