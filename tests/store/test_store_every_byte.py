"""A byte that changed on disk is reported or makes no difference, wherever it lies and whichever way one reads."""

import numpy as np
import pytest
import xarray as xr

import larstore
from larstore.errors import LarstoreError
from larstore.provenance import provenance_of
from larstore.testing import add_images, make_geometry, make_image
from tests.store.whole_stores import add_scores, make_good

DOCUMENT = "zarr.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two images with a prediction; without truth columns and pixels, of which the code is the same."""
    path = tmp_path_factory.mktemp("tiny") / "run.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("larstore.creation.TABLE_ROWS", 8)  # of a column's chunk, else most time goes into empty rows
        larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=16, chunk_rows=8)
    add_images(path, [make_image(0, 0, 1, 12), make_image(0, 1, 1, 6)])
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
READING = ("images", "together", "pandas")


def look(path):
    """What each way gives, or the error that it raises; anything but a LarstoreError is let through.

    Those that read arrays open the store anew: none finds what another one decoded.
    """
    seen, store = {}, None
    for name, way in WAYS.items():
        try:
            store = larstore.open(path) if store is None or name in READING else store
            seen[name] = way(store, store.select())
        except LarstoreError as error:
            seen[name] = error
    return seen


def compare(expected, path, what):
    """Whether anything was reported. Values that differ from the good store's are an error here."""
    reported = False
    for name, value in look(path).items():
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


def flip(path, file, at, mask, verified=True):
    """Flip bits of a byte, compare, and put it back; whether anything was reported. ``verified``: by verify as well."""
    data = file.read_bytes()
    what = f"{file.relative_to(path)} byte {at} of {len(data)} xor {mask}"
    file.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
    try:
        reported = compare(EXPECTED[path], path, what)
        if verified:
            expect_verified(path, reported, what)
    finally:
        file.write_bytes(data)
    return reported


EXPECTED = {}  # path -> what the good store gives


def ready(path):
    EXPECTED.setdefault(path, look(path))
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
    reported = [flip(tiny, *place) for place in sampled(tiny, 40, seed=0)]
    assert sum(reported) > 10


PARTS = ("geometry", "index", "predictions", "truth", "voxels", "failures", "inputs", DOCUMENT)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_byte(tiny, part):
    """One mask a byte. Documents in samples: the root's bytes have a test of their own, the others' nobody reads."""
    ready(tiny)
    rng = np.random.default_rng(PARTS.index(part))
    reported, data_bytes = 0, 0
    for file in (file for file in store_files(tiny) if file.relative_to(tiny).parts[0] == part):
        places = np.arange(file.stat().st_size)
        if file.name == DOCUMENT:
            places = rng.choice(places, 100 if file.parent == tiny else 3, replace=False)
        else:
            data_bytes += len(places)
        for at in places.tolist():
            reported += flip(tiny, file, at, int(rng.integers(1, 256)), verified=at % 8 == 0)
    assert reported >= data_bytes  # no byte of data is free of a checksum


@pytest.mark.slow
def test_bits_of_a_larger_store(large):
    ready(large)
    places = enumerate(sampled(large, 320, seed=2))
    reported = [flip(large, *place, verified=number % 4 == 0) for number, place in places]
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
            assert compare(EXPECTED[tiny], tiny, f"{file} {what}")
            assert not larstore.verify(tiny).ok, file
            file.write_bytes(data)
    assert larstore.verify(tiny).ok
