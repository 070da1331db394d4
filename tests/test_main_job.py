"""The main job by its commands, on simulated events and on two files that nobody here made."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
import yaml
import zarr

import larstore

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("LARSTORE_TEST_DATA")
REAL = {
    # frame, detector, TPC, tag: lit samples above 2000 electrons and mask rows are facts of the files
    "sp": ("pdsp-sim-sp-0.29.3.tar.bz2", "protodune-sp", 1, None),
    "hd": ("protodunehd-sp-frames-anode1.tar.bz2", str(ROOT / "configs/detectors/protodune-hd.yaml"), 2, "gauss1"),
}
SMALL_NET = {
    "data": {"threshold": 0, "charge": {"transform": "asinh", "scale": 0.001}, "batch_size": 1},
    "model": {
        "name": "cellnet_binary",
        "spatial_size": [1024, 1024, 512],
        "nChannels": 4,
        "nStrides": 2,
        "n_2D": 0,
        "downsample_t": [2, 2],
    },
    "loss": {"name": "BCELoss"},
    "optimizer": {"name": "Adam", "lr": 0.01},
    "train": {"n_epochs": 2},
}


def command(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "larstore.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of simulated events, and the configuration of a small network trained on it."""
    folder = tmp_path_factory.mktemp("main")
    few = ["--set", "muons=1", "--set", "beam_tracks=1", "--set", "showers=0"]
    command("simulate", "-o", folder / "raw", "--events", 4, "--events-per-file", 2, "--seed", 5, *few)
    store = folder / "run.zarr"
    command("preprocess", folder / "raw", "-o", store, "--detector", "protodune-sp", "--threshold", 2000)
    config = folder / "train.yaml"
    data = SMALL_NET["data"] | {"data_path": str(store), "train_i": [0, 1]}
    config.write_text(yaml.safe_dump(SMALL_NET | {"output_dir": str(folder / "run"), "data": data}))
    command("train", config)
    return store, config


@pytest.mark.slow
def test_plain_zarr_and_xarray_read_the_store(trained):
    store, config = trained
    command("infer", config, "--store", store, "--name", "network")
    image = larstore.open(store).select()[0]
    row = larstore.open(store).index.iloc[0]
    rows = slice(int(row.voxel_start), int(row.voxel_start + row.voxel_count))
    root = zarr.open(store, mode="r")
    np.testing.assert_array_equal(root["voxels/coords"][rows], image.coords)
    np.testing.assert_array_equal(root["predictions/network/score"][rows], image.score("network"))
    tree = xarray.open_datatree(store, engine="zarr")
    np.testing.assert_array_equal(tree["voxels"]["charge"][rows].values, image.charge)
    np.testing.assert_array_equal(tree["index"]["file"].values, zarr.open(store, mode="r")["index/file"][:])
    assert larstore.verify(store).ok


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="LARSTORE_TEST_DATA is not set")
@pytest.mark.parametrize("name", REAL)
def test_files_that_nobody_here_made(trained, tmp_path, name):
    _, config = trained
    file, detector, tpc, tag = REAL[name]
    store, page = tmp_path / "real.zarr", tmp_path / "event.html"
    chosen = ["--tag", tag] if tag else []
    shown = command(
        "preprocess", f"{DATA}/frames/{file}", "-o", store, "--detector", detector, "--tpcs", tpc, "--truth", "none",
        "--threshold", 2000, *chosen,
    )  # fmt: skip
    if name == "hd":
        assert "mask rows of channels outside" in shown
        assert larstore.open(store).index["n_bad_channels"].tolist() == [15]
    command("infer", config, "--store", store, "--name", "network")
    (image,) = larstore.open(store).select()
    assert image.truth is None
    assert len(image.coords) > 10_000
    assert np.isfinite(image.score("network")).all()
    # The planes see the same charge, within the 10 % or so by which their gains differ.
    sums = image.charge.sum(axis=0)
    assert sums.max() / sums.min() < 1.2
    command("view", store, *image.key, "--prediction", "network", "-o", page)
    assert "plotly" in page.read_text(encoding="utf-8")
    command("evaluate", store, "--prediction", "network", "-o", tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "evaluate.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="LARSTORE_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("anode", "options", "says"),
    [
        (1, [], "1536 channels 476 … 3071 are not those of one anode of protodune-sp. Fix: choose its detector"),
        # All of its channels exist in the wrong detector as well.
        (0, ["--tag", "gauss0"], "u 476/800, v 476/800, w 408/480, other face 176/480. Fix: choose its detector"),
    ],
)
def test_a_frame_that_does_not_fit_the_detector(tmp_path, anode, options, says):
    frame, store = f"pdvd_protodune-sp-frames-anode{anode}.tar.bz2", tmp_path / "run.zarr"
    command = [sys.executable, "-m", "larstore.cli", "preprocess", f"{DATA}/frames/{frame}", "-o", str(store), *options]
    command += ["--truth", "none", "--detector", "protodune-sp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1
    assert frame in done.stderr
    assert says in done.stderr
    (error,) = larstore.open(store).failures["error"]
    assert says in error
