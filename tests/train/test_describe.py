"""What a network is said to cost, against slow counts, autograd's own memory, and perturbed inputs."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from train.config import make_config
from train.fitting.fit import fit
from train.models import MODELS, build_model
from train.models.description import describe
from train.objective.losses import make_loss
from train.schema import NamedSection
from train.sparse import layers

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling" / "events_tpc1_face2.npz"
NET = {"name": "cellnet_binary", "spatial_size": 32, "nChannels": 2, "nStrides": 2, "n_2D": 0, "downsample_t": [2, 2]}


def random_coords(n=300, size=12, seed=0):
    """Distinct sites of two events."""
    random = np.random.default_rng(seed)
    cells = random.choice(2 * size**3, n, replace=False)
    event, x, y, z = np.unravel_index(cells, (2, size, size, size))
    return torch.from_numpy(np.column_stack([x, y, z, event]))


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    model = build_model(NET | {"name": name})
    found = describe(model)
    assert found.parameters == found.trainable == sum(p.numel() for p in model.parameters())
    assert f"{found.parameters:,} parameters (all trained)" in str(found)


def test_frozen_parameters_are_told_and_keep_nothing():
    model = build_model(NET | {"name": "cellnet_charge", "freeze": True})
    found = describe(model)
    assert found.trainable == sum(p.numel() for p in model.linear.parameters()) < found.parameters
    assert f"({found.trainable:,} trained)" in str(found)
    # Input and output of the hidden layer's ReLU: 2 channels each.
    assert found.training_bytes == 10_000 * 4 * (2 + 2)


def test_multiply_adds_of_a_dense_grid_by_hand():
    coords = torch.tensor([[*cell, 0] for cell in itertools.product(range(4), repeat=3)])
    fine, coarse = (3 * 4 - 2) ** 3, (3 * 2 - 2) ** 3  # pairs of a 3 × 3 × 3 filter on n³ sites: (3 n − 2)³
    by_hand = (
        fine * 3 * 2  # the first convolution
        + 2 * fine * 2 * 2  # a residual block
        + 64 * 2 * 4  # down: each site falls into one window
        + 2 * coarse * 4 * 4
        + 64 * 4 * 2  # up
        + 64 * 4 * 2  # the linear map beside the block that takes 4 features to 2
        + fine * 4 * 2
        + fine * 2 * 2
        + 64 * 2  # the score
    )
    found = describe(build_model(NET | {"reps": 1}), coords)
    assert found.multiply_adds == pytest.approx(by_hand / 64 * 10_000, rel=1e-12)
    assert found.voxels == 64
    assert "counted on an image of 64" in str(found)


def slow_pairs(inputs, outputs, filter_size, low, stride):
    """Pairs of an input and an output cell, one by one."""
    inputs = {tuple(row) for row in inputs.tolist()}
    offsets = [range(low[a], low[a] + filter_size[a]) for a in range(3)]
    return sum(
        (x * stride[0] + i, y * stride[1] + j, z * stride[2] + k, event) in inputs
        for x, y, z, event in outputs.tolist()
        for i, j, k in itertools.product(*offsets)
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_2D": 1, "nStrides": 3, "conv_kernel": 2},
        {"spatial_size": 19, "downsample": [3, 2], "downsample_t": [3, 2]},
        {"name": "cellnet_multi", "nHiddenLayers": 2},
    ],
)
def test_multiply_adds_of_random_sites_against_a_slow_count(change):
    model = build_model(NET | change)
    coords = random_coords()
    total = []

    def count(layer, arguments, out):
        (x,) = arguments
        if isinstance(layer, layers.SubmanifoldConvolution):
            low = [-(f // 2) for f in layer.filter_size]
            pairs = slow_pairs(x.sites.coords, out.sites.coords, layer.filter_size, low, (1, 1, 1))
        elif isinstance(layer, layers.Deconvolution):
            pairs = slow_pairs(out.sites.coords, x.sites.coords, layer.filter_size, (0, 0, 0), layer.stride)
        elif isinstance(layer, layers.Convolution):
            pairs = slow_pairs(x.sites.coords, out.sites.coords, layer.filter_size, (0, 0, 0), layer.stride)
        else:
            pairs = len(x.features if isinstance(layer, layers.NetworkInNetwork) else x)
        total.append(pairs * layer.weight.shape[-1] * layer.weight.shape[-2])

    for module in model.modules():
        if isinstance(module, (layers._Convolution, layers.NetworkInNetwork, torch.nn.Linear)):
            module.register_forward_hook(count)
    model(coords, torch.randn(len(coords), 3))
    assert describe(model, coords).multiply_adds == pytest.approx(sum(total) / len(coords) * 10_000, rel=1e-12)


@pytest.mark.parametrize(
    ("axis", "change"),
    [
        (0, {"nStrides": 1}),
        (2, {"nStrides": 1, "conv_kernel": 2}),
        (0, {"reps": 1}),
        (1, {}),
        (0, {"reps": 1, "downsample_t": [4, 4]}),
        (0, {"reps": 1, "nStrides": 3, "n_2D": 1}),
        (1, {"reps": 1, "nStrides": 3, "n_2D": 1}),
        (2, {"reps": 1, "downsample": [3, 2], "spatial_size": [36, 37, 73]}),
        (1, {"reps": 1, "downsample": [3, 3], "conv_kernel": 2}),
    ],
)
def test_the_receptive_field_ends_where_perturbed_inputs_no_longer_matter(axis, change):
    length = 72
    size = [36, 36, 36]
    size[axis] = length
    model = build_model(NET | {"name": "cellnet", "spatial_size": size} | change).double().eval()
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.05)  # all paths add up: nothing cancels, no ReLU cuts one off
    # The same line of active sites as one event for each input, which is another one there; the last as it is.
    coords = torch.zeros(length + 1, length, 4, dtype=torch.int64)
    coords[:, :, axis] = torch.arange(length)
    coords[:, :, 3] = torch.arange(length + 1)[:, None]
    features = torch.ones(length + 1, length, 3, dtype=torch.float64)
    features[torch.arange(length), torch.arange(length)] = 1000.0
    with torch.no_grad():
        out = model(coords.reshape(-1, 4), features.reshape(-1, 3)).reshape(length + 1, length, -1)
    changes = ((out[:-1] - out[-1]).abs() > 1e-13 * out[-1]).any(dim=2).numpy()  # (input, output)
    first = changes.argmax(axis=0)
    last = length - 1 - changes[::-1].argmax(axis=0)
    inside = (first > 0) & (last < length - 1)
    assert inside.sum() > 12  # a whole period of the coarse cells
    claimed = describe(model).receptive_field
    assert (last - first + 1)[inside].max() == claimed[axis]


def test_receptive_fields_along_each_axis():
    # One convolution, two blocks of two: 2 cells each; 2D levels do not look along x.
    assert describe(build_model(NET | {"nStrides": 1})).receptive_field == (11, 11, 11)
    assert describe(build_model(NET | {"nStrides": 1, "n_2D": 1})).receptive_field == (1, 11, 11)


@pytest.mark.parametrize(
    "change",
    [{}, {"nChannels": 8, "nStrides": 3}, {"name": "cellnet_multi", "nHiddenLayers": 2}, {"reps": 1, "n_2D": 1}],
)
def test_training_memory_is_what_autograd_keeps(change):
    model, coords = build_model(NET | change), random_coords()
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(coords, torch.randn(len(coords), 3)).sum()
    found = describe(model, coords).training_bytes * len(coords) / 10_000
    measured = sum(tensor.nbytes for tensor in kept.values())
    # Not counted: the sigmoid's output and the normalisations' means, 1 % each at most of these small images.
    assert found == pytest.approx(measured, rel=0.05)
    assert math.isfinite(loss.item())


def test_inference_memory_by_hand():
    # In a block: its input (for the identity beside it), and a layer's own input and output.
    found = describe(build_model(NET | {"nStrides": 1, "reps": 1, "nChannels": 5}))
    assert found.inference_bytes == 10_000 * 4 * 5 * 3
    assert describe(build_model(NET)).inference_bytes < describe(build_model(NET)).training_bytes


def test_without_coordinates_a_tiled_image_is_assumed():
    with np.load(GOLDEN) as archive:
        golden_image = torch.from_numpy(archive["X"][:, :4].astype(np.int64))
    for change in ({}, {"nStrides": 3, "nChannels": 8}, {"nStrides": 3, "downsample_t": [4, 4]}):
        model = build_model(NET | {"spatial_size": [1024, 1024, 512]} | change)
        counted, estimated = describe(model, golden_image), describe(model)
        assert estimated.voxels is None
        assert "(estimated)" in str(estimated)
        for name in ("multiply_adds", "training_bytes", "inference_bytes"):
            assert 0.5 < getattr(estimated, name) / getattr(counted, name) < 2
    empty = describe(model, golden_image[:0])
    assert empty == estimated


def config(store, out, **data):
    return make_config(
        {
            "output_dir": str(out),
            "data": {"data_path": str(store), "train_i": [0, 1], "threshold": 0, **data},
            "model": NET | {"spatial_size": [256, 64, 64]},
            "loss": {"name": "BCELoss"},
            "optimizer": {"name": "Adam", "lr": 0.01},
            "train": {"n_epochs": 1, "threads": 1, "accelerator": "cpu"},
        }
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "per 10,000 voxels (counted on an image of 150): "),
        ({"coord_lim": [None, [0, 32], None]}, "per 10,000 voxels (counted on an image of "),
        ({"max_voxels": 150, "over_budget": "skip"}, "per 10,000 voxels (counted on an image of 150): "),
        ({"num_workers": 1}, "per 10,000 voxels (counted on an image of 150): "),
        ({"num_workers": 1, "start_method": "fork"}, "per 10,000 voxels (counted on an image of 150): "),
    ],
)
def test_a_training_tells_it_at_its_start(data, told, tmp_path, copy_of_store):
    store = copy_of_store(tmp_path / "s.zarr", n_files=2)
    fit(config(store, tmp_path / "run", **data))
    log = (tmp_path / "run" / "out_0.log").read_text()
    assert "parameters (all trained), receptive field 36 × 36 × 36 voxels" in log
    assert told in log
    assert log.index(told) < log.index("epoch 0: ")
    assert "image of 150" in log or "coord_lim" in data


def test_the_page_is_right():
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(example, names)  # noqa: S102 - our own page
    for line in str(describe(build_model(names["block"]))).splitlines():
        assert f"    {line}\n" in text
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert make_loss(NamedSection(**yaml.safe_load(block)["loss"])).charge_weight == 0.02
    for name in MODELS:
        assert f"| `{name}` |" in text
