"""Networks by name: what they accept, what they refuse, what survives a file."""

import pytest
import torch

from larstore.errors import ConfigError
from train.models import MODELS, build_model

NET = {"name": "cellnet_binary", "spatial_size": [16, 16, 16], "nChannels": 4, "nStrides": 2, "n_2D": 0}
COORDS = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 2, 0], [15, 15, 15, 1], [14, 15, 15, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "cellnet_bianry"},
            "'cellnet_bianry' is unknown. Fix: did you mean cellnet_binary\\? one of cellnet, cellnet_b",
        ),
        ({"nChanels": 4}, "nChanels is no argument of cellnet_binary. Fix: did you mean nChannels\\? one of s"),
        ({"nHiddenLayers": 1}, "nHiddenLayers is no argument of cellnet_binary"),
        ({"nStrides": None}, "nStrides is missing"),
        ({"nStrides": 0}, "nStrides = 0 makes no net"),
        ({"spatial_size": [16, 16]}, r"\[16, 16\] is no size along x, y, z"),
        ({"spatial_size": 16.5}, "16.5 is no size along x, y, z"),
        ({"conv_kernel": 0}, r"\[0, 0, 0\] is no size along x, y, z"),
        ({"nChannels": "16"}, "nChannels = '16' makes no net"),
        ({"downsample": 2}, "downsample = 2 is no filter and stride"),
        ({"downsample": [2]}, r"downsample = \[2\] is no filter and stride"),
        ({"spatial_size": [16, 15, 16]}, r"spatial_size = \[16, 15, 16\] is not covered.*Fix: \[16, 16, 16\]"),
        ({"nStrides": 4}, r"spatial_size = \[16, 16, 16\] is not covered.*Fix: \[64, 16, 16\]"),
        ({"nStrides": 3, "n_2D": 1, "downsample": [3, 2]}, r"Fix: \[16, 19, 19\]"),
    ],
)
def test_wrong_model_blocks(change, message):
    block = {key: value for key, value in (NET | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        build_model(block)


@pytest.mark.parametrize("name", [*MODELS, "SparseCellNet", "BinarySparseCellNet", "ChargeSparseCellNet"])
@pytest.mark.parametrize(
    "change", [{}, {"n_2D": 1, "reps": 1}, {"spatial_size": 19, "downsample": [3, 2], "downsample_t": [3, 2]}]
)
def test_every_model_runs_and_learns(name, change):
    torch.manual_seed(0)
    model = build_model(NET | change | {"name": name, "nInputFeatures": 5})
    out = model(COORDS, torch.randn(5, 5))
    assert out.shape == (5, {"SparseCellNet": 4, "MultiTaskSparseCellNet": 2}.get(type(model).__name__, 1))
    out.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_state_dict_survives_a_file(tmp_path):
    torch.manual_seed(0)
    model, features = build_model(NET), torch.randn(5, 3)
    model(COORDS, features).sum().backward()  # moves the running statistics
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    other = build_model(NET)
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(model.eval()(COORDS, features), other.eval()(COORDS, features))


def test_hidden_layers_of_the_charge_head():
    model = build_model(NET | {"name": "cellnet_charge", "nHiddenLayers": 2})
    assert [type(layer).__name__ for layer in model.linear] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_freeze_trains_the_head_alone():
    model = build_model(NET | {"name": "cellnet_charge", "nHiddenLayers": 2, "freeze": True})
    trained = {key.partition(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"linear"}
