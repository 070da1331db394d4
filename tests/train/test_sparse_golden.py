"""Layers and whole nets against facebookresearch/SparseConvNet: values that it computed, see the golden README."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from train.models import build_model
from train.sparse import layers
from train.sparse.tensor import SparseTensor

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sparseconvnet"
ATOL = 5e-6  # float32 sums of up to 125 · 3 products in another order; values are of order 1
RTOL_WEIGHT = 1e-5  # weight gradients sum over 600 rows


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def order(coords: np.ndarray) -> np.ndarray:
    return np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0], coords[:, 3]))


def enter(golden: dict[str, np.ndarray], which: str = "in") -> tuple[torch.Tensor, SparseTensor]:
    features = torch.from_numpy(golden[f"{which}_features"]).requires_grad_()
    entrance = layers.InputLayer(golden[f"{which}_spatial_size"].tolist())
    return features, entrance(torch.from_numpy(golden[f"{which}_coords"]), features)


def check(golden, features, result: SparseTensor, weight: torch.Tensor | None) -> None:
    to = order(golden["out_coords"])
    np.testing.assert_array_equal(result.sites.coords, golden["out_coords"][to])
    np.testing.assert_allclose(result.features.detach().numpy(), golden["out_features"][to], rtol=0, atol=ATOL)
    result.features.backward(torch.from_numpy(golden["grad_out"][to]))
    np.testing.assert_allclose(features.grad.numpy(), golden["grad_in"], rtol=0, atol=ATOL)
    if weight is not None:
        scale = np.abs(golden["grad_weight"]).max()
        np.testing.assert_allclose(weight.grad.numpy(), golden["grad_weight"], rtol=0, atol=RTOL_WEIGHT * scale)


@pytest.mark.parametrize("filter_size", [(3, 3, 3), (2, 2, 2), (1, 3, 3), (3, 1, 1), (5, 5, 5)])
def test_submanifold_convolution(filter_size):
    golden = load("op_subm_" + "".join(map(str, filter_size)))
    layer = layers.SubmanifoldConvolution(3, 5, filter_size)
    layer.weight.data = torch.from_numpy(golden["weight"])
    features, x = enter(golden)
    check(golden, features, layer(x), layer.weight)


@pytest.mark.parametrize("size", [(2, 2, 2), (1, 2, 2), (4, 2, 2)])
def test_strided_convolution(size):
    golden = load("op_conv_" + "".join(map(str, size)))
    layer = layers.Convolution(3, 5, size, size)
    layer.weight.data = torch.from_numpy(golden["weight"])
    features, x = enter(golden)
    result = layer(x)
    assert result.sites.size == tuple(golden["out_spatial_size"])
    check(golden, features, result, layer.weight)


@pytest.mark.parametrize("size", [(2, 2, 2), (1, 2, 2), (4, 2, 2)])
def test_transposed_convolution(size):
    golden = load("op_deconv_" + "".join(map(str, size)))
    # The fine sites that it returns to are those of a convolution before it.
    _, fine = enter({f"in_{k}": golden[f"out_{k}"] for k in ("features", "coords", "spatial_size")})
    coarse = layers.Convolution(3, 5, size, size)(fine)
    to = order(golden["in_coords"])
    np.testing.assert_array_equal(coarse.sites.coords, golden["in_coords"][to])
    features = torch.from_numpy(golden["in_features"]).requires_grad_()
    layer = layers.Deconvolution(5, 3, size, size)
    layer.weight.data = torch.from_numpy(golden["weight"])
    check(golden, features, layer(coarse.having(features[torch.from_numpy(to)])), layer.weight)


def test_network_in_network():
    golden = load("op_nin")
    layer = layers.NetworkInNetwork(6, 4)
    layer.weight.data = torch.from_numpy(golden["weight"])
    features, x = enter(golden)
    check(golden, features, layer(x), layer.weight)


@pytest.mark.parametrize("name", ["op_bn_m099_l0", "op_bn_m099_l1", "op_bn_m09_l0333"])
def test_batch_norm(name):
    golden = load(name)
    layer = layers.BatchNormReLU(
        4, float(golden["eps"]), float(golden["momentum"]), float(golden["leakiness"])
    )  # fmt: skip
    state = {key: torch.from_numpy(golden[key]) for key in ("weight", "bias")}
    state |= {key: torch.from_numpy(golden[f"{key}0"]) for key in ("running_mean", "running_var")}
    layer.load_state_dict(state)
    features, x = enter(golden)
    evaluated = layers.OutputLayer()(layer.eval()(x)).detach().numpy()
    np.testing.assert_allclose(evaluated, golden["out_eval"], rtol=0, atol=ATOL)
    check(golden, features, layer.train()(x), layer.weight)
    np.testing.assert_allclose(layer.bias.grad.numpy(), golden["grad_bias"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean.numpy(), golden["running_mean1"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), golden["running_var1"], rtol=1e-5, atol=1e-6)


def test_input_and_output_layers_sum_duplicates():
    golden = load("op_iolayers")
    features = torch.from_numpy(golden["features"]).requires_grad_()
    size = (golden["coords"][:, :3].max(axis=0) + 1).tolist()
    x = layers.InputLayer(size)(torch.from_numpy(golden["coords"]), features)
    to = order(golden["mode3_sites"])
    np.testing.assert_array_equal(x.sites.coords, golden["mode3_sites"][to])
    np.testing.assert_allclose(x.features.detach().numpy(), golden["mode3_site_features"][to], rtol=0, atol=ATOL)
    out = layers.OutputLayer()(x)
    np.testing.assert_allclose(out.detach().numpy(), golden["mode3_out"], rtol=0, atol=ATOL)
    out.backward(torch.from_numpy(golden["mode3_grad_out"]))
    np.testing.assert_allclose(features.grad.numpy(), golden["mode3_grad_features"], rtol=0, atol=ATOL)


NETS = ["a_binary", "a_charge", "c_binary", "d_binary_dup"]


@pytest.mark.parametrize("name", NETS)
def test_whole_net(name):
    golden = load(name)
    meta = json.loads(str(golden["meta"]))
    model = build_model({"name": f"cellnet_{meta['kind']}"} | meta["model_args"])
    state = {key[2:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("p:")}
    assert set(model.state_dict()) == set(state)
    model.load_state_dict(state)
    coords, features, target = (torch.from_numpy(golden[key]) for key in ("coords", "features", "target"))
    loss_function = getattr(torch.nn, meta["loss"])()
    model.eval()
    out = model(coords, features)
    np.testing.assert_allclose(out.detach().numpy(), golden["out_eval"], rtol=0, atol=2e-6)
    model.train()
    out = model(coords, features)
    # Statistics of few sites at the coarsest level amplify rounding: SparseConvNet itself is 5e-7 off float64.
    np.testing.assert_allclose(out.detach().numpy(), golden["f64_out_train"], rtol=0, atol=5e-6)
    loss = loss_function(out, target)
    assert float(loss.detach()) == pytest.approx(float(golden["loss_train"]), rel=2e-6)
    loss.backward()
    for key, parameter in model.named_parameters():
        expected = golden[f"g:{key}"]
        # SparseConvNet's own float32 gradients differ from float64 by up to 1.7e-5 of the largest.
        np.testing.assert_allclose(
            parameter.grad.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-8, err_msg=key
        )
    for key, expected in golden.items():
        if key.startswith("after1:"):
            found = model.state_dict()[key.removeprefix("after1:")].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=key)


def test_five_steps_of_adam():
    golden = load("a_binary")
    meta = json.loads(str(golden["meta"]))
    model = build_model({"name": "cellnet_binary"} | meta["model_args"])
    model.load_state_dict({key[2:]: torch.from_numpy(v) for key, v in golden.items() if key.startswith("p:")})
    coords, features, target = (torch.from_numpy(golden[key]) for key in ("coords", "features", "target"))
    optimizer = torch.optim.Adam(model.parameters(), lr=meta["adam"]["lr"])
    losses = []
    for _ in range(meta["adam"]["steps"]):
        optimizer.zero_grad()
        loss = torch.nn.BCELoss()(model(coords, features), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(losses, golden["adam_losses"], rtol=2e-6)
    state, apart = model.state_dict(), []
    for key, expected in golden.items():
        if key.startswith("adam5:"):
            found = state[key.removeprefix("adam5:")].numpy()
            # Adam divides by the gradient's size: rounding of the tiniest ones becomes a part of a step of lr = 0.01.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3, err_msg=key)
            apart.append(np.abs(found - expected).ravel())
    assert len(apart) == len(state)
    assert np.quantile(np.concatenate(apart), 0.99) < 2e-5
    model.eval()
    np.testing.assert_allclose(model(coords, features).detach().numpy(), golden["adam5_out_eval"], rtol=0, atol=5e-5)
