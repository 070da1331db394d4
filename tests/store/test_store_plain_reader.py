"""The format page is enough to write a reader: one in 60 lines, without zarr and larstore, agrees with larstore."""

import ast
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import larstore
from larstore.predictions import PredictionWriter
from larstore.testing import add_images, make_geometry, make_image
from larstore.writer import StoreWriter
from tests.store.plain_reader import PlainStore

HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "stores"
PATHS = {
    "voxel": ("voxels/coords", "voxels/charge", "voxels/live", "voxels/truth"),
    "truth": ("truth/coords", "truth/value"),
    "pixel": ("pixels/coords", "pixels/charge", "pixels/live"),
    "point": ("pixels/truth_coords", "pixels/truth_value"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Several blocks; appended, redone and deleted images; truth columns, pixels, rounded charges, scores."""
    made = tmp_path_factory.mktemp("plain") / "run.zarr"
    larstore.create(
        made, geometry=make_geometry((1, 2)), provenance={"made by": "µ-test"}, shard_rows=512, chunk_rows=64,
        truth_columns=("collected", "pdg"), pixels=True, charge_bits=9,
    )  # fmt: skip
    whole = {"truth_columns": ("collected", "pdg"), "pixels": True, "input": "a.npz"}
    inputs = [larstore.InputFile("a.npz", 0, 10, "0" * 64, "größer")]
    add_images(made, [make_image(0, e, t, n, **whole) for e, n in enumerate((70, 0, 1200, 3)) for t in (1, 2)], inputs)
    add_images(made, [make_image(1, e, 1, 90, truth=False) for e in range(3)])
    with PredictionWriter(made, "half", {"checkpoint_sha256": "ab"}) as writer:
        groups = writer.groups(larstore.open(made).select())
        assert len(groups) >= 2
        for shard, images in groups[:1]:
            writer.write(shard, [(image, np.linspace(0, 1, len(image)).astype(np.float32)) for image in images])
        writer.commit()
    add_images(made, [make_image(0, 2, 1, 400, seed=5, **whole), make_image(2, 0, 2, 33, pixels=True)])
    with StoreWriter(made) as writer:
        writer.delete([(0, 0, 2), (1, 1, 1)])
    return made


@pytest.fixture(scope="module", params=["now", "2026"])
def both(request, path, tmp_path_factory):
    """Larstore's store and the plain one; also of a store that larstore 0.1 wrote."""
    if request.param == "2026":
        path = tmp_path_factory.mktemp("plain-old") / "old.zarr"
        with zipfile.ZipFile(DATA / "version-1.zarr.zip") as archive:
            archive.extractall(path)
    return larstore.open(path), PlainStore(path)


def test_it_is_small_and_plain():
    text = (HERE / "plain_reader.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name
        for node in imports
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert names == {"hashlib", "json", "pathlib", "numpy", "crc32c", "numcodecs"}


def test_images_and_summaries(both):
    store, plain = both
    assert sorted(plain.images) == list(store.index.index)
    for key, row in plain.images.items():
        for name in store.index.columns:
            np.testing.assert_array_equal(plain.index[name][row], store.index.loc[key, name], err_msg=f"{key} {name}")


def test_rows_of_all_arrays(both):
    store, plain = both
    seen = 0
    for key, row in plain.images.items():
        image = store.image(*key)
        columns = [
            name
            for bit, name in enumerate(("collected", "pdg", "track"))
            if plain.index["truth_columns"][row] >> bit & 1
        ]
        assert columns == list(image.truth_columns)
        more = {"truth": [f"truth/{name}" for name in columns], "point": [f"pixels/truth_{name}" for name in columns]}
        for kind, paths in PATHS.items():
            start = plain.index[f"{kind}_start"][row]
            for path in (*paths, *more.get(kind, ())) if start >= 0 else ():
                found = plain.array(key, path, kind)
                expected = store.read_rows(path, int(start), int(start) + len(found))
                assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
                np.testing.assert_array_equal(found, expected, err_msg=f"{key} {path}")
                seen += len(found)
        np.testing.assert_array_equal(plain.array(key, "voxels/charge"), image.charge)
        if image.truth_voxels is not None:
            np.testing.assert_array_equal(plain.array(key, "truth/value", "truth"), image.truth_voxels[1])
    assert seen > 1000


def test_scores(both):
    store, plain = both
    scored = {}
    for name in store.predictions:
        for key in plain.images:
            found = plain.array(key, f"predictions/{name}")
            np.testing.assert_array_equal(found, store.image(*key).score(name))
            scored[key] = np.isfinite(found).all()
    assert set(scored.values()) >= {True}


def test_tables(both):
    store, plain = both
    for name in ("path", "sha256", "sample", "file", "size"):
        assert list(plain.column(f"inputs/{name}")) == store.inputs[name].tolist()
    for name, values in store.geometry.wires.items():
        parts = [name] if values.ndim == 1 else [f"{name}_{axis}" for axis in "xyz"]
        np.testing.assert_array_equal(
            np.stack([plain.column(f"geometry/{part}") for part in parts], -1).reshape(values.shape), values
        )


def test_centimetres(both):
    """The formula of the page, as it stands there."""
    store, plain = both
    for key in plain.images:
        frame = plain.nodes["geometry"]["attributes"]["tpcs"][str(key[2])]
        c = (plain.array(key, "voxels/coords") - np.array(frame["joined_origin"] or (0, 0, 0)) + 0.5) * plain.about[
            "downsample"
        ]
        drift = (c[:, 0] - frame["tick_zero_drift"]) * frame["tick_us"] - 3.0
        x = frame["anode_x_mm"] + frame["drift_sign"] * drift * frame["drift_speed_mm_us"]
        yz = [frame[f"origin_{axis}_mm"] + c[:, i] * frame["pixel_mm"] for i, axis in ((1, "y"), (2, "z"))]
        np.testing.assert_allclose(np.stack([x, *yz], 1) / 10, store.image(*key).position(3.0), rtol=1e-12)


def test_a_redone_image_is_the_new_one(path):
    plain = PlainStore(path)
    assert len(plain.array((0, 2, 1), "voxels/coords")) == 400
    assert (0, 0, 2) not in plain.images
    assert len(plain.images) == 8 + 3 + 1 - 2


def test_rows_that_nobody_wrote_are_no_zeros(path):
    """The end of a block: its chunks are absent."""
    end = larstore.open(path).image(1, 2, 1)
    start = int(end.summary("voxel_start")) + len(end)
    with pytest.raises((RuntimeError, ValueError)):
        PlainStore(path).rows("voxels/charge", start + 64, start + 65)


def test_damage_and_edits_are_seen(path, tmp_path):
    copy = shutil.copytree(path, tmp_path / "damaged.zarr")
    shard = copy / "voxels/charge/c/0/0"
    blob = bytearray(shard.read_bytes())
    blob[40] ^= 1
    shard.write_bytes(blob)
    plain = PlainStore(copy)
    with pytest.raises(AssertionError, match="voxels/charge: checksum does not match"):
        plain.array((0, 0, 1), "voxels/charge")
    shard.write_bytes(blob[: -4 - 16 * 8])  # its index is gone
    with pytest.raises(AssertionError):
        plain.array((0, 0, 1), "voxels/charge")
    root = copy / "zarr.json"
    root.write_text(root.read_text().replace('"electrons"', '"protons"'))
    with pytest.raises(AssertionError):
        PlainStore(copy)
