"""What tests of trainings share: a configuration of a deghosting run on a small store, and equality to the last bit."""

import torch


def run_values(store, out, train_i, inference_i, lr=0.01, **train):
    """The values of a configuration, for ``make_config``; ``train`` adds to its block of this name."""
    return {
        "output_dir": str(out),
        "data": {
            "data_path": str(store),
            "train_i": train_i,
            "inference_i": inference_i,
            "threshold": 0,
            "charge": {"transform": "asinh"},
        },
        "model": {"name": "cellnet_binary"},
        "loss": {"name": "BCELoss"},
        "optimizer": {"name": "Adam", "lr": lr},
        "train": {"threads": 1, "accelerator": "cpu", **train},
    }


def assert_same(a, b):
    """Equal bit for bit, however nested."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b
