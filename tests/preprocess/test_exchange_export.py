"""NuML-like HDF5, Bee JSON, and the two subcommands."""

import json
import os
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, StoreError
from larstore.format import UNKNOWN_NUMBER
from larstore.testing import add_images, make_image, make_store
from preprocess.exchange.cli import export_command, import_xy_command
from preprocess.exchange.events import by_event
from preprocess.exchange.export_bee import export_bee
from preprocess.exchange.export_numl import export_numl

ALL = ("collected", "pdg", "track")


@pytest.fixture
def store(tmp_path):
    """Two files of two events with TPCs 1 and 3, a third file without truth columns, and a prediction of file 0."""
    path = make_store(tmp_path / "run.zarr", 2, 2, (1, 3), n_voxels=60, truth_columns=ALL)
    add_images(path, [make_image(2, 0, 1, 60), make_image(2, 1, 1, 60, truth=False)])
    opened = larstore.open(path)
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "0" * 64}) as writer:
        for shard, images in writer.groups(opened.select(files=(0, 0))):
            writer.write(shard, [(image, (np.arange(len(image)) % 2).astype(np.float32)) for image in images])
        writer.commit()
    return larstore.open(path)


def test_numl_tables_hold_every_voxel(store, tmp_path):
    path = export_numl(store.select(), tmp_path / "out.h5", "net")
    with h5py.File(path) as file:
        events = file["event_table/event_id"][:]
        keys = np.hstack([file["event_table/file"][:], file["event_table/event"][:]])
        assert keys.tolist() == [[f, e] for f in range(3) for e in range(2)]
        for table, count in (("voxel_table", "voxel_count"), ("truth_table", "truth_count")):
            rows = file[f"{table}/event_id"][:]
            index, n = file[f"{table}/event_id.seq_cnt"][:].T
            assert_array_equal(rows, np.repeat(events[index], n, axis=0))
            assert {len(file[table][name]) for name in file[table] if not name.endswith("seq_cnt")} == {len(rows)}
            assert len(rows) == store.index[count].sum()
        start = 0
        for image in store.select():
            rows = slice(start, start + len(image))
            start += len(image)
            voxels = {name: file[f"voxel_table/{name}"][rows] for name in file["voxel_table"] if "seq_cnt" not in name}
            assert_array_equal(voxels["voxel"], image.coords)
            assert_array_equal(voxels["charge"], image.charge)
            assert_allclose(voxels["position"], image.position(), rtol=1e-6)
            assert_array_equal(voxels["score"][:, 0], image.score("net"))
            assert_array_equal(voxels["collected"][:, 0], image.collected)
            assert set(voxels["tpc"][:, 0]) == {image.key[2]}
            if image.truth is not None:
                assert_array_equal(voxels["truth"][:, 0], image.truth)
        tracks = np.concatenate(
            [
                image.truth_columns.get("track", np.full(len(image.truth_voxels[0]), UNKNOWN_NUMBER))
                for image in store.select()
                if image.truth_voxels is not None
            ]
        )
        assert_array_equal(file["truth_table/track"][:, 0], tracks)
        assert file["truth_table/value"][:, 0].sum(dtype=float) == pytest.approx(np.nansum(store.index["truth_sum"]))
        assert file.attrs["detector"] == "testing"


def test_events_have_the_frames_numbers_where_these_tell_them_apart(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 2, (1, 3))
    selection = larstore.open(path).select()
    assert [event.numbers for event in by_event(selection)] == [(27409, 1, 100), (27409, 1, 101)]
    assert [len(event.images) for event in by_event(selection)] == [2, 2]
    add_images(path, [make_image(5, 0)])  # the same run, subrun and event as file 0's
    numbers = [event.numbers for event in by_event(larstore.open(path).select())]
    assert numbers == [(0, 0, 0), (0, 0, 1), (5, 0, 0)]


def test_bee_has_a_file_for_each_set_and_event(store, tmp_path):
    path = export_bee(store.select(files=(0, 2), tpcs=[1, 3]), tmp_path / "out.zip", "net", 0.5)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        documents = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    assert sorted(documents) == sorted(
        f"data/{n}/{n}-{name}.json" for n in range(6) for name in ("net", "tiled", "truth") if (n, name) != (5, "truth")
    )
    for name, document in documents.items():
        assert {len(document[key]) for key in ("x", "y", "z", "q", "nq")} == {len(document["x"])}, name
    images = [store.image(0, 0, tpc) for tpc in (1, 3)]
    tiled, kept, truth = (documents[f"data/0/0-{name}.json"] for name in ("tiled", "net", "truth"))
    position = np.concatenate([image.position() for image in images])
    assert_allclose(np.transpose([tiled[axis] for axis in "xyz"]), position, atol=0.00501)
    mean = np.concatenate([image.charge.mean(axis=1) for image in images])
    assert_allclose(tiled["q"], mean, atol=0.51)
    assert kept["x"] == [x for image in range(2) for x in tiled["x"][image * 60 : image * 60 + 60][1::2]]
    assert truth["q"] == [round(float(v)) for image in images for v in image.truth_voxels[1]]
    assert (tiled["runNo"], tiled["subRunNo"], tiled["eventNo"], tiled["type"]) == ("0", "0", "0", "tiled")
    assert documents["data/4/4-net.json"]["x"] == []  # not predicted


def test_bee_documents_have_the_members_of_wire_cells_own(store, tmp_path):
    folder = os.environ.get("LARSTORE_TEST_DATA")
    if folder is None:
        pytest.skip("LARSTORE_TEST_DATA is not set: no Bee file of Wire-Cell's at hand")
    documents = []
    for path in (
        Path(folder) / "depos" / "protodune-sp-truthDepo-6evt-bee.zip",
        export_bee(store.select(), tmp_path / "out.zip"),
    ):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if "truth" in n)
            documents.append(json.loads(archive.read(name)))
            assert re.fullmatch(r"data/(\d+)/\1-\w+\.json", name)
    theirs, ours = ({key: type(value) for key, value in document.items()} for document in documents)
    assert theirs == ours


def test_what_cannot_be_exported(store, tmp_path):
    with pytest.raises(StoreError, match="no images to export"):
        export_numl(store.select(files=(9, 9)), tmp_path / "a.h5")
    with pytest.raises(StoreError, match="no images to export"):
        export_bee(store.select(files=(9, 9)), tmp_path / "a.zip")
    with pytest.raises(StoreError, match="no prediction 'none'"):
        export_numl(store.select(), tmp_path / "a.h5", "none")
    with pytest.raises(StoreError, match="is the name of another set"):
        export_bee(store.select(), tmp_path / "a.zip", "truth")
    assert not list(tmp_path.glob("*a.*"))  # nothing half-written
    (tmp_path / "there").touch()
    for export in (export_numl, export_bee):
        with pytest.raises(ConfigError, match="exists already"):
            export(store.select(), tmp_path / "there")
        with pytest.raises(ConfigError, match=r"Fix: another output, or free space"):
            export(store.select(), tmp_path / "there" / "below")


def test_the_same_store_gives_the_same_zip(store, tmp_path):
    paths = [export_bee(store.select(), tmp_path / f"{i}.zip") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def run(*arguments):
    app = typer.Typer()
    app.command("export")(export_command)
    app.command("import-xy")(import_xy_command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_commands(store, tmp_path):
    for kind, name in (("numl", "out.h5"), ("bee", "out.zip")):
        result = run("export", store.path, "-o", tmp_path / name, "--to", kind, "--files", "0", "--prediction", "net")
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(tmp_path / name)
        assert "4 images exported" in result.stderr
    result = run("export", store.path, "-o", tmp_path / "xy", "--to", "xy", "--tpcs", "1", "--events", "0:0")
    expected = [str(tmp_path / "xy" / f"batch0-larstore_{n}_xy-TPC1.npz") for n in range(3)]
    assert result.stdout.split() == expected
    result = run(
        "import-xy", tmp_path / "xy" / "batch0-larstore_0_xy-TPC1.npz", "-o", tmp_path / "in.zarr",
        "--detector", "protodune-sp-2021", "--downsample", "8,4,4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    back = larstore.open(tmp_path / "in.zarr")
    (image,) = back.select()
    assert_array_equal(image.coords, store.image(0, 0, 1).coords)
    for wrong in (["--tpcs", "one"], ["--files", "a:b"]):
        assert run("export", store.path, "-o", tmp_path / "x", "--to", "bee", *wrong).exit_code == 2
    assert run("import-xy", "x.npz", "-o", tmp_path / "y", "--detector", "d", "--downsample", "8,4").exit_code == 2
