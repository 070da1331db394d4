"""A byte that changed on disk is reported or makes no difference, wherever it lies and whichever way one reads."""

import importlib.util
import shutil

import fsspec
import numpy as np
import pytest
import xarray as xr

import larstore
from larstore.errors import LarstoreError
from larstore.format import TRUTH_COLUMNS
from larstore.maintenance import copy_images
from larstore.provenance import provenance_of
from larstore.testing import add_images, make_geometry, make_image
from tests.store.whole_stores import add_scores, make_good

DOCUMENT = "zarr.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two images with a prediction."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "run.zarr")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The same with pixels and all truth columns."""
    return make_tiny(tmp_path_factory.mktemp("full") / "run.zarr", truth_columns=tuple(TRUTH_COLUMNS), pixels=True)


def make_tiny(path, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("larstore.creation.TABLE_ROWS", 8)  # of a column's chunk, else most time goes into empty rows
        larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=16, chunk_rows=8, **settings)
    add_images(path, [make_image(0, 0, 1, 12, **settings), make_image(0, 1, 1, 6, **settings)])
    return add_scores(path, lambda image: np.arange(len(image), dtype=np.float32))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Blocks, truth columns, pixels, a prediction, a replaced and a deleted image."""
    path = make_good(tmp_path_factory.mktemp("large") / "run.zarr")
    add_images(path, [make_image(0, 0, 1, 50, seed=7, truth_columns=("pdg",), pixels=True)])
    with larstore.StoreWriter(path) as writer:
        writer.delete([(1, 1, 5)])
    return path


def image_arrays(image):
    """All arrays of an image, each read by itself."""
    found = {name: getattr(image, name) for name in ("coords", "charge", "live", "truth")}
    found |= dict(zip(("truth_coords", "truth_value"), image.truth_voxels, strict=True)) | image.truth_columns
    found["score"] = image.score("net")
    if image.store.root.pixels:
        pixels = image.pixels
        found |= {f"pixel {name}": getattr(pixels, name) for name in ("coords", "charge", "live", "truth_value")}
        found |= {f"point {name}": values for name, values in pixels.truth_columns.items()}
    return {name: values.tobytes() for name, values in found.items()}


def images(store, part):
    return [(image.key, image_arrays(image)) for image in part]


def together(store, part):
    return [(image.key, image_arrays(image)) for image in part.read(0, len(part), "net")]


def lazy(store, part):
    found = xr.open_dataset(str(store.path), engine="larstore")
    return {str(name): found[name].values.tobytes() for name in found.variables if name != "image"}


def tree(store, part):
    """All arrays that xarray finds, at the root and in each group."""
    found = xr.open_datatree(str(store.path), engine="larstore")
    return {
        f"{node.path}/{name}": values.tolist() if (values := node[name].values).dtype == object else values.tobytes()
        for node in found.subtree
        for name in node.variables
        if name != "image"
    }


def awkward(store, part):
    return repr(part.to_awkward().tolist())  # not predicted is NaN, which equals nothing


def pieces(store, part):
    if not store.root.pixels:
        return None
    return [[each.tobytes() for each in piece] for image in part for piece in image.pixel_pieces(8)]


def stream(store, part):
    from train import ImageStream

    batches = ImageStream(part, batch_size=1, seed=1)
    return [{k: v.numpy().tobytes() if hasattr(v, "numpy") else v for k, v in batch.items()} for batch in batches]


def at_url(store, part):
    """The same files in memory, read as those of a server are."""
    filesystem, url = fsspec.filesystem("memory"), "memory://larstore-every-byte/run.zarr"
    try:
        for file in store_files(store.path):
            filesystem.pipe(f"/larstore-every-byte/run.zarr/{file.relative_to(store.path)}", file.read_bytes())
        found = larstore.open(url)
        return together(found, found.select()), found.geometry.hash, found.inputs.to_csv()
    finally:
        filesystem.rm("/larstore-every-byte", recursive=True)


def copied(store, part):
    target = store.path.with_name("copy.zarr")
    try:
        new = copy_images(part, target)
        return together(new, new.select()), new.geometry.hash, new.inputs.to_csv()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def difference(store, part):
    return larstore.diff(store.path.with_name("good.zarr"), store)


WAYS = {
    "open": lambda store, part: (repr(store), store.attributes, store.predictions),
    "index": lambda store, part: store.index.to_csv(),
    "query": lambda store, part: store.select(query="voxel_count > 10", files=(0, 5), tpcs=[1]).keys.to_list(),
    "tables": lambda store, part: (store.inputs.to_csv(), store.failures.to_csv()),
    "geometry": lambda store, part: store.geometry.hash,
    "provenance": lambda store, part: provenance_of(store),
    "position": lambda store, part: part[0].position().tobytes(),
    "images": images,
    "together": together,
    "pandas": lambda store, part: (part.to_pandas().to_csv(), part.to_pandas("truth").to_csv()),
    "lazy": lazy,
}
FURTHER_WAYS = {"tree": tree, "pieces": pieces, "diff": difference, "url": at_url, "copy": copied}
if importlib.util.find_spec("awkward"):
    FURTHER_WAYS["awkward"] = awkward
if importlib.util.find_spec("torch"):
    FURTHER_WAYS["stream"] = stream
EVERY_WAY = WAYS | FURTHER_WAYS
READING = ("images", "together", "pandas", *FURTHER_WAYS)


def look(path, ways=EVERY_WAY):
    """What each way gives, or the error that it raises; anything but a LarstoreError is let through.

    Those that read arrays open the store anew: none finds what another one decoded.
    """
    seen, store = {}, None
    for name in ways:
        try:
            store = larstore.open(path) if store is None or name in READING else store
            way = EVERY_WAY[name]
            seen[name] = way(store, store.select())
        except LarstoreError as error:
            seen[name] = error
    return seen


def compare(expected, path, what, ways=EVERY_WAY):
    """Whether anything was reported. Values that differ from the good store's are an error here."""
    reported = False
    for name, value in look(path, ways).items():
        if isinstance(value, LarstoreError):
            assert "\n" not in str(value), (what, name)
            assert "Fix:" in str(value), (what, name)
            reported = True
        else:
            assert value == expected[name], f"{what}: {name} gives other values without a word"
    return reported


def expect_verified(path, reported, what):
    """``verify`` says nothing only where no way through the store says anything."""
    try:
        report = larstore.verify(path)
    except LarstoreError:
        return
    assert not (report.ok and reported), f"{what}: verify does not see it"


def store_files(path):
    """All files but the locks', which readers do not look at."""
    return sorted(file for file in path.rglob("*") if file.is_file() and ".larstore" not in file.parts)


def flip(path, file, at, mask, verified=True, ways=EVERY_WAY):
    """Flip bits of a byte, compare, and put it back; whether anything was reported. ``verified``: by verify as well."""
    data = file.read_bytes()
    what = f"{file.relative_to(path)} byte {at} of {len(data)} xor {mask}"
    file.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
    try:
        reported = compare(EXPECTED[path], path, what, ways)
        if verified:
            expect_verified(path, reported, what)
    finally:
        file.write_bytes(data)
    return reported


EXPECTED = {}  # path -> what the good store gives


def ready(path):
    if path not in EXPECTED:
        shutil.copytree(path, path.with_name("good.zarr"))
        EXPECTED[path] = look(path)
    assert not [value for value in EXPECTED[path].values() if isinstance(value, LarstoreError)]
    return path


def sampled(path, n, seed):
    """Random (file, byte, mask): first files, then bytes, so that small files have their share."""
    rng = np.random.default_rng(seed)
    files = [file for file in store_files(path) if file.stat().st_size]
    for file in (files[i] for i in rng.integers(len(files), size=n)):
        yield file, int(rng.integers(file.stat().st_size)), int(1 << rng.integers(8))


def test_bits_of_all_files(tiny):
    ready(tiny)
    reported = [flip(tiny, *place, ways=some_ways(n)) for n, place in enumerate(sampled(tiny, 40, seed=0))]
    assert sum(reported) > 10


def test_bits_of_pixels_and_truth_columns(full):
    ready(full)
    files = [file for file in store_files(full) if file.relative_to(full).parts[0] in ("pixels", "truth")]
    files = [file for file in files if file.name != DOCUMENT]
    for n, file in enumerate(files):
        assert flip(full, file, n % file.stat().st_size, 1 << n % 8, verified=n % 4 == 0, ways=some_ways(n))


def some_ways(n):
    """The ways that take little time, and one of the others in turn."""
    further = list(FURTHER_WAYS)
    return [*WAYS, further[n % len(further)]]


PARTS = ("geometry", "index", "predictions", "truth", "voxels", "failures", "inputs", DOCUMENT)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", PARTS)
def test_every_byte(tiny, part):
    check_bytes(tiny, part, step=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", ["index", "predictions", "truth", "voxels", "pixels"])
def test_every_eighth_byte_with_pixels_and_truth_columns(full, part):
    check_bytes(full, part, step=8)


def check_bytes(path, part, step):
    """One mask a byte. Documents in samples: the root's bytes have a test of their own, the others' nobody reads.

    Each byte is read by all the short ways and by one of the others in turn; each eighth one by all of them.
    """
    ready(path)
    rng = np.random.default_rng(len(part))
    reported, data_bytes = 0, 0
    for file in (file for file in store_files(path) if file.relative_to(path).parts[0] == part):
        places = np.arange(int(rng.integers(step)), file.stat().st_size, step)
        if file.name == DOCUMENT:
            places = rng.choice(np.arange(file.stat().st_size), 100 if file.parent == path else 3, replace=False)
        else:
            data_bytes += len(places)
        for n, at in enumerate(places.tolist()):
            ways = EVERY_WAY if n % 8 == 0 else some_ways(n)
            reported += flip(path, file, at, int(rng.integers(1, 256)), verified=n % 8 == 0, ways=ways)
    assert reported >= data_bytes  # no byte of data is free of a checksum


@pytest.mark.slow
def test_bits_of_a_larger_store(large):
    ready(large)
    places = enumerate(sampled(large, 320, seed=2))
    reported = [flip(large, *place, verified=n % 4 == 0, ways=some_ways(n)) for n, place in places]
    assert sum(reported) > 100


@pytest.mark.parametrize("what", ["deleted", "emptied", "cut", "longer"])
def test_a_file_that_is_gone_or_cut(tiny, what):
    """Each file of data in turn. Each holds rows of live images or of a column, so that nothing may be silent."""
    ready(tiny)
    for file in store_files(tiny):
        if file.name != DOCUMENT:
            data = file.read_bytes()
            if what == "deleted":
                file.unlink()
            else:
                file.write_bytes({"emptied": b"", "cut": data[: len(data) // 2], "longer": data + b"\0"}[what])
            assert compare(EXPECTED[tiny], tiny, f"{file} {what}", some_ways(len(str(file))))
            assert not larstore.verify(tiny).ok, file
            file.write_bytes(data)
    assert larstore.verify(tiny).ok
