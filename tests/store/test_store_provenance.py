"""info --provenance tells where everything came from, to people and to machines."""

import json

import numpy as np
import typer
import yaml
from typer.testing import CliRunner

import larstore
from larstore import store_cli
from larstore.maintenance import compact
from larstore.records import InputFile
from larstore.testing import add_images, make_image, make_store

app = typer.Typer()
store_cli.register(app)
RECORDED = {"versions": {"larstore": "1.2.3", "numba": "0.6"}, "config": {"threshold": 3.5, "inputs": ["raw"]}}


def run(*arguments):
    return CliRunner().invoke(app, ["info", *map(str, arguments)], env={"COLUMNS": "60"})


def make(path):
    path = make_store(path, n_files=2, n_events=2, n_voxels=40, provenance=RECORDED)
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "c" * 64, "config": {"seed": 3}}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, np.ones(len(image), np.float32)) for image in images])
        writer.commit()
    return path


def test_as_json(tmp_path):
    path = make(tmp_path / "a.zarr")
    found = json.loads(run(path, "--provenance", "--json").stdout)
    assert found["provenance"] == RECORDED
    assert found["geometry_hash"] == larstore.open(path).geometry.hash
    assert found["commits"] == {"1": 2, "2": 2}
    assert found["input_files"][1] == {
        "path": "input-1.npz", "file": 1, "size": 1001, "sha256": f"{1:064x}", "sample": "testing", "images": 2
    }  # fmt: skip
    net = found["prediction_attributes"]["net"]
    assert (net["checkpoint_sha256"], net["config"], net["commit"]) == ("c" * 64, {"seed": 3}, 3)
    assert "input_files" not in json.loads(run(path, "--json").stdout)


def test_as_text(tmp_path):
    path = make(tmp_path / "a.zarr")
    images = [make_image(number, 0, 1, 3, input=f"{number}.npz") for number in range(2, 25)]
    add_images(path, images, [InputFile(f"{n}.npz", n, 7, f"{n:064x}") for n in range(2, 25)])
    done = run(path, "--provenance")
    text = done.stdout[done.stdout.index("provenance:") :]
    found = yaml.safe_load(text[: text.index("input_files:")])
    assert found["provenance"] == RECORDED
    assert found["prediction_attributes"]["net"]["checkpoint_sha256"] == "c" * 64
    assert f"-      2          1,001 {1:064x} input-1.npz" in text
    assert f"{19:064x} 19.npz" in text
    assert f"{20:064x}" not in text
    assert text.endswith("# 5 more: --json lists all\n")
    assert "provenance:" not in run(path).stdout


def test_a_copy_tells_its_origin(tmp_path):
    path = make(tmp_path / "a.zarr")
    compact(path, tmp_path / "b.zarr")
    history = json.loads(run(tmp_path / "b.zarr", "--provenance", "--json").stdout)["provenance"]["history"]
    assert history[0]["sources"] == [{"store": str(path), "commit": 3}]


def test_an_image_of_no_input(tmp_path):
    path = make_store(tmp_path / "a.zarr", 1, 1)
    add_images(path, [make_image(9, 0, 1, 4)])
    found = json.loads(run(path, "--provenance", "--json").stdout)
    assert [row["images"] for row in found["input_files"]] == [1]
    assert found["commits"] == {"1": 1, "2": 1}
