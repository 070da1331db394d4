"""The real sparse network in the real training: it learns a small store, and repeats itself bit for bit."""

from importlib.util import find_spec

import pytest
import torch

import larstore
from larstore.errors import ConfigError
from train.config import make_config
from train.fitting.fit import fit
from train.inference.infer import infer
from train.records.folder import RunFolder
from train.resuming.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("network") / "s.zarr", n_files=4, n_voxels=300)


def settings(store, out, name="cellnet_binary", **train):
    binary = name == "cellnet_binary"
    return make_config(
        {
            "output_dir": str(out),
            "seed": 3,
            "trainer": {"name": "one_cycle"},
            "data": {
                "data_path": str(store),
                "train_i": [0, 3],
                "inference_i": [0, 3],
                "threshold": 0 if binary else None,
                "scale": 1 if binary else 0.0001,
                "charge": {"transform": "asinh"},
                "batch_size": 2,
            },
            "model": {
                "name": name,
                "spatial_size": [256, 64, 64],
                "nChannels": 4,
                "nStrides": 2,
                "n_2D": 0,
                "downsample_t": [2, 2],
                "momentum": 0.5,
            },
            "loss": {"name": "BCELoss" if binary else "MSELoss"},
            "optimizer": {"name": "Adam", "lr": 0.03},
            "train": {"n_epochs": 8, "threads": 1, "accelerator": "cpu", **train},
            "metrics": {"ap": "AveragePrecision"} if binary else {"mae": "MeanAbsoluteError"},
        }
    )


def test_learns_repeats_and_predicts(store, tmp_path):
    first = fit(settings(store, tmp_path / "a"))
    rows = first.summaries
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[-1]["valid_ap"] > 0.8
    RunFolder(tmp_path / "b").start({})
    name = "checkpoints/checkpoint_005.pth.tar"
    (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
    resumed = fit(settings(store, tmp_path / "b"), resume=True)
    a, b = (load_checkpoint(result.checkpoint)["state_dict"] for result in (first, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert infer(settings(store, tmp_path / "a"), None, store, "net").images == 8
    for image in larstore.open(store).select():
        score = image.score("net")
        assert 0 <= score.min() < score.max() <= 1


def test_the_number_of_threads_changes_no_bit(store, tmp_path):
    results = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        results.append(fit(settings(store, out, n_epochs=2, threads=threads)))
        assert "backend native on cpu, numba kernels (auto: on cpu)" in (out / "out_0.log").read_text()
    a, b = (load_checkpoint(result.checkpoint)["state_dict"] for result in results)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_backend_that_does_not_train_here_is_refused_before_a_run_is_made(store, tmp_path):
    if find_spec("spconv") is None:
        pytest.skip("package spconv is not installed")
    with pytest.raises(ConfigError, match=r"backend spconv: it trains on CUDA only, on cpu it infers"):
        fit(settings(store, tmp_path / "run", backend="spconv"))
    assert not (tmp_path / "run").exists()


def test_charge_network_learns(store, tmp_path):
    rows = fit(settings(store, tmp_path, "cellnet_charge")).summaries
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[-1]["valid_mae"] < rows[0]["valid_mae"]
