"""What a step is made of: accumulated batches, clipped gradients, precision, frozen normalisation."""

import pytest
import torch

from larstore.errors import ConfigError
from train.config import make_config
from train.fitting.fit import fit
from train.fitting.module import ImageModule
from train.processes.distributed import check_precision
from train.resuming.checkpoint import load_checkpoint
from train.sparse import spconv
from train.sparse.layers import InputLayer


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_of_store):
    return copy_of_store(tmp_path_factory.mktemp("steps") / "s.zarr", n_files=3, n_voxels=150)


def settings(store, out, batch_size=1, lr=0.3, **train):
    return make_config(
        {
            "output_dir": str(out),
            "seed": 3,
            "trainer": {"name": "one_cycle"},
            "data": {
                "data_path": str(store),
                "train_i": [0, 2],
                "threshold": 0,
                "charge": {"transform": "asinh"},
                "batch_size": batch_size,
            },
            "model": {
                "name": "cellnet_binary",
                "spatial_size": [256, 64, 64],
                "nChannels": 4,
                "nStrides": 2,
                "n_2D": 0,
                "downsample_t": [2, 2],
            },
            "loss": {"name": "BCELoss"},
            "optimizer": {"name": "SGD", "lr": lr},
            "train": {"n_epochs": 2, "accelerator": "cpu", "threads": 1, **train},
        }
    )


def weights(result):
    return load_checkpoint(result.checkpoint)["state_dict"]


def test_accumulated_batches_are_a_step(store, tmp_path):
    """Of equal numbers of voxels, so that their mean is the joint batch's; statistics would be of each."""
    joint = fit(settings(store, tmp_path / "a", batch_size=2, batch_norm="frozen"))
    parts = fit(settings(store, tmp_path / "b", accumulate=2, batch_norm="frozen"))
    for name, tensor in weights(joint).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-4, atol=1e-6)
    names = ("train_loss", "lr")  # the rate follows steps, not batches
    for a, b in zip(joint.summaries, parts.summaries, strict=True):
        assert [a[name] for name in names] == pytest.approx([b[name] for name in names], abs=1e-6)
    # Frozen: the statistics are those of a new network, its weights are not.
    found = weights(parts)
    statistics = [name for name in found if "running_" in name]
    assert statistics
    assert all(torch.equal(found[name], torch.full_like(found[name], name.endswith("var"))) for name in statistics)
    scales = [tensor for name, tensor in found.items() if name.replace("running_mean", "weight") in found]
    assert any(not torch.equal(tensor, torch.ones_like(tensor)) for tensor in scales)


@pytest.mark.parametrize(("algorithm", "most"), [("value", lambda g: g.abs().max()), ("norm", torch.linalg.norm)])
def test_clipped_gradients(store, tmp_path, monkeypatch, algorithm, most):
    seen = []

    def look(self, *_):
        seen.append(float(most(torch.cat([p.grad.flatten() for p in self.model.parameters()]))))

    monkeypatch.setattr(ImageModule, "on_train_batch_end", look)
    fit(settings(store, tmp_path / "free", n_epochs=1))
    limit = min(seen) / 2
    assert limit > 1e-3
    seen.clear()
    fit(settings(store, tmp_path / "c", n_epochs=1, gradient_clip=limit, gradient_clip_algorithm=algorithm))
    assert seen[0] == pytest.approx(limit, rel=1e-3)
    assert max(seen) < limit * 1.001


def test_precision(store, tmp_path):
    whole = fit(settings(store, tmp_path / "a"))
    mixed = fit(settings(store, tmp_path / "b", precision="bf16-mixed", gradient_clip=10.0))
    losses = [[row["train_loss"] for row in run.summaries] for run in (whole, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {tensor.dtype for tensor in weights(mixed).values()} == {torch.float32}
    for wrong, message in (
        ({"precision": "16-mixed"}, r"16-mixed needs a GPU\. Fix: bf16-mixed or 32$"),
        ({"distributed_backend": "nccl"}, r"nccl needs GPUs\. Fix: auto, or gloo$"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(settings(store, tmp_path / "c", **wrong))
    assert not (tmp_path / "c").exists()


def test_backends_that_have_one_type():
    def net(backend):
        layer = InputLayer(8)
        layer.convolve = backend.convolve
        return layer

    config = settings("s.zarr", "x", precision="bf16-mixed")
    with pytest.raises(ConfigError, match=r"bf16-mixed: spconv computes in float16\. Fix: 16-mixed, or .*native"):
        check_precision(config, net(spconv))
    check_precision(settings("s.zarr", "x", precision="16-mixed"), net(spconv))
