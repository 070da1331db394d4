"""Sparse layers against dense convolutions, and what must hold for any input."""

import gc
import weakref

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from larstore.errors import ConfigError, InputError
from train.models import build_model
from train.runtime import compute_threads
from train.sparse import layers, native, rulebook
from train.sparse.tensor import sort_sites

SIZE = (8, 6, 4)
NET = {
    "name": "cellnet_binary",
    "spatial_size": [16, 16, 16],
    "nChannels": 4,
    "nStrides": 2,
    "n_2D": 0,
    "downsample_t": [2, 2],
}


def sites_of(seed: int, n: int, events: int = 2, size=SIZE) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    cells = rng.choice(np.prod(size) * events, min(n, np.prod(size) * events), replace=False)
    event, x, y, z = np.unravel_index(cells, (events, *size))
    return torch.from_numpy(np.column_stack([x, y, z, event]).astype(np.int64))


def dense(coords: torch.Tensor, features: torch.Tensor, size=SIZE, events: int = 2) -> torch.Tensor:
    grid = torch.zeros(events, features.shape[1], *size, dtype=features.dtype)
    x, y, z, event = coords.T
    grid[event, :, x, y, z] = features
    return grid


def at(grid: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    x, y, z, event = coords.T
    return grid[event, :, x, y, z]


def as_dense_weight(weight: torch.Tensor, filter_size) -> torch.Tensor:
    """(volume, 1, Cin, Cout) -> torch's (Cout, Cin, x, y, z)."""
    return weight.squeeze(1).permute(2, 1, 0).reshape(weight.shape[3], weight.shape[2], *filter_size)


def assert_same_with_gradients(found, expected, leaves, seed):
    """Two results of the same leaves: values, and gradients of all leaves for the same random gradient."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.manual_seed(seed)
    gradient = torch.randn(found.shape)
    results = [torch.autograd.grad(out, leaves, gradient, retain_graph=True) for out in (found, expected)]
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-4)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(0, 150),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 4),
)
def test_submanifold_equals_dense(seed, n, filter_size, channels, events):
    torch.manual_seed(seed)
    coords = sites_of(seed, n, events)
    features = torch.randn(len(coords), channels[0], requires_grad=True)
    layer = layers.SubmanifoldConvolution(*channels, filter_size)
    found = layers.OutputLayer()(layer(layers.InputLayer(SIZE)(coords, features)))
    # Offsets go from −f//2 to f − 1 − f//2.
    padding = [cells for f in reversed(filter_size) for cells in (f // 2, f - 1 - f // 2)]
    grid = functional.pad(dense(coords, features, events=events), padding)
    expected = functional.conv3d(grid, as_dense_weight(layer.weight, filter_size))
    assert_same_with_gradients(found, at(expected, coords), (features, layer.weight), seed)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 150),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(1, 4),
)
def test_strided_and_transposed_equal_dense(seed, n, filter_size, stride, widths, events):
    how = tuple(filter_size), tuple(min(s, f) for s, f in zip(stride, filter_size, strict=True))
    filter_size, stride = how
    torch.manual_seed(seed)
    coords = sites_of(seed, n, events)
    features = torch.randn(len(coords), widths[0], requires_grad=True)
    down, up = layers.Convolution(*widths[:2], *how), layers.Deconvolution(*widths[1:], *how)
    coarse = down(layers.InputLayer(SIZE)(coords, features))
    grid = functional.conv3d(
        dense(coords, features, events=events), as_dense_weight(down.weight, filter_size), stride=stride
    )
    sites = torch.from_numpy(coarse.sites.coords)
    assert_same_with_gradients(coarse.features, at(grid, sites), (features, down.weight), seed)
    # Sites are exactly the windows that an input falls into.
    ones = dense(coords, torch.ones(len(coords), 1), events=events)
    windows = functional.conv3d(ones, torch.ones(1, 1, *filter_size), stride=stride)
    assert int((windows > 0).sum()) == len(sites)
    back = layers.OutputLayer()(up(coarse))
    weight = as_dense_weight(up.weight, filter_size).transpose(0, 1)
    coarse_grid = dense(sites, at(grid, sites), tuple(grid.shape[2:]), events)
    fine = functional.conv_transpose3d(coarse_grid, weight, stride=stride)
    # Cells beyond the last window take part in nothing.
    fine = functional.pad(fine, [n for a in (2, 1, 0) for n in (0, SIZE[a] - fine.shape[2 + a])])
    assert_same_with_gradients(back, at(fine, coords), (features, down.weight, up.weight), seed)


@pytest.mark.parametrize("channels", [(3, 5), (8, 8), (16, 24), (5, 17), (2, 33)])
@pytest.mark.parametrize("kind", ["odd", "even", "strided", "transposed"])
def test_fused_kernels_equal_torch(channels, kind):
    torch.manual_seed(0)
    size = (12, 12, 12)
    sites, _ = sort_sites(sites_of(3, 1300, size=size), size)  # several blocks of rows
    if kind in ("odd", "even"):
        rules = rulebook.submanifold(sites, (3, 3, 3) if kind == "odd" else (2, 4, 2))
    else:
        _, rules = rulebook.strided(sites, (4, 2, 3), (2, 2, 2))
        rules = rules if kind == "strided" else rules.transposed()
    volume = rules.forward.volume
    x, w = torch.randn(len(rules.input_coords), channels[0]), torch.randn(volume, 1, *channels)
    g = torch.randn(len(rules.output_coords), channels[1])
    results = []
    for dtype in (torch.float32, torch.float64):  # the latter goes by torch's operations
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, w)]
        out = native.convolve(*leaves, rules)
        out.backward(g.to(dtype))
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused.double(), plain, rtol=1e-5, atol=1e-4)


def test_gradients_in_float64():
    torch.manual_seed(0)
    coords = sites_of(0, 30)
    down, up = layers.Convolution(2, 3, 2, 2).double(), layers.Deconvolution(3, 2, 2, 2).double()
    subm = layers.SubmanifoldConvolution(2, 2, 3).double()

    def net(features, w_down, w_up, w_subm):
        x = layers.InputLayer(SIZE)(coords, features)
        rules = rulebook.submanifold(x.sites, (3, 3, 3))
        x = x.having(native.convolve(x.features, w_subm, rules))
        _, strided = rulebook.strided(x.sites, (2, 2, 2), (2, 2, 2))
        y = native.convolve(native.convolve(x.features, w_down, strided), w_up, strided.transposed())
        return layers.OutputLayer()(x.having(y))

    features = torch.randn(len(coords), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (features, down.weight, up.weight, subm.weight))


def test_same_bits_for_any_number_of_threads():
    # Convolutions alone: torch's own batch normalisation sums in another order with another number of threads.
    torch.manual_seed(0)
    size = (24, 24, 24)
    coords = sites_of(1, 9000, size=size)  # more than two blocks of rows, of which each thread takes some
    features = torch.randn(len(coords), 3, requires_grad=True)
    net = torch.nn.ModuleList(
        [
            layers.InputLayer(size),
            layers.SubmanifoldConvolution(3, 16, 3),
            layers.Convolution(16, 20, 2, 2),
            layers.SubmanifoldConvolution(20, 20, 2),
            layers.Deconvolution(20, 5, 2, 2),
            layers.OutputLayer(),
        ]
    )
    results = []
    before = numba.get_num_threads()
    try:
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            features.grad = None
            net.zero_grad()
            x = net[0](coords, features)
            for layer in net[1:]:
                x = layer(x)
            x.square().sum().backward()
            results.append((x.detach(), features.grad.clone(), *(p.grad.clone() for p in net.parameters())))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this machine has one core")
def test_a_whole_training_has_the_same_bits_for_any_number_of_threads():
    coords = sites_of(9, 9000, size=(64, 64, 64))
    features = torch.randn(len(coords), 3, generator=torch.Generator().manual_seed(1))
    states = []
    for threads in (1, 2):
        torch.manual_seed(0)
        model = build_model(NET | {"spatial_size": [64, 64, 64], "nChannels": 12, "nStrides": 3})
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with compute_threads(threads):
            for _ in range(3):
                optimizer.zero_grad()
                score = model(coords, features)
                functional.binary_cross_entropy(score, (features[:, :1] > 0).float()).backward()
                optimizer.step()
        states.append(model.state_dict())
    for name, one in states[0].items():
        assert torch.equal(one, states[1][name]), name


def test_order_of_rows_and_other_events_do_not_matter():
    torch.manual_seed(0)
    model = build_model(NET).eval()
    coords = sites_of(2, 400, size=(16, 16, 16))
    features = torch.randn(len(coords), 3)
    out = model(coords, features)
    shuffled = torch.randperm(len(coords))
    torch.testing.assert_close(model(coords[shuffled], features[shuffled]), out[shuffled], rtol=1e-5, atol=1e-6)
    first = coords[:, 3] == 0
    torch.testing.assert_close(model(coords[first], features[first]), out[first], rtol=1e-5, atol=1e-6)


def test_moving_by_the_coarsest_stride_moves_the_result():
    torch.manual_seed(0)
    model = build_model(NET).eval()
    coords = sites_of(4, 200, size=(8, 8, 8))
    features = torch.randn(len(coords), 3)
    moved = coords + torch.tensor([2, 4, 6, 0])
    torch.testing.assert_close(model(moved, features), model(coords, features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_few_voxels(n, training):
    model = build_model(NET).train(training)
    out = model(torch.zeros((n, 4), dtype=torch.int64) + torch.arange(n)[:, None], torch.ones(n, 3))
    assert out.shape == (n, 1)
    assert torch.isfinite(out).all()
    out.sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_no_rules_stay_alive_after_a_batch(training):
    model = build_model(NET).train(training)
    seen = []
    original = sort_sites

    def watching(coords, size):
        sites, inverse = original(coords, size)
        seen.append(weakref.ref(sites))
        return sites, inverse

    gc.disable()  # without cycles nothing has to wait for the collector, which comes seldom
    try:
        with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(training):
            patch.setattr(layers, "sort_sites", watching)
            out = model(sites_of(5, 100), torch.randn(100, 3))
            if training:
                out.sum().backward()
            del out
        assert [reference() for reference in seen] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_one_site_are_summed(dtype):
    coords = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [2, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    features = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]], dtype=dtype, requires_grad=True)
    x = layers.InputLayer(SIZE)(coords, features)
    assert x.sites.coords.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0], [2, 0, 0, 0]]
    assert x.features.flatten().tolist() == [34, 21, 8]
    out = layers.OutputLayer()(x)
    assert out.flatten().tolist() == [21, 34, 21, 8, 21, 34]
    out.backward(torch.arange(6, dtype=dtype)[:, None])
    assert features.grad.flatten().tolist() == [6, 6, 6, 3, 6, 6]


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_autocast_to_bfloat16(order):
    torch.manual_seed(0)
    coords = sites_of(10, 500, size=(16, 16, 16))
    keys = torch.from_numpy(np.lexsort(coords.numpy()[:, [2, 1, 0, 3]].T))
    coords = coords[keys] if order == "sorted" else coords
    features, model = torch.randn(500, 3), build_model(NET)
    expected = model(coords, features)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(coords, features)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    found.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_features_and_coords_go_together():
    with pytest.raises(InputError, match="2 coords, 3 rows of features"):
        build_model(NET)(torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]]), torch.ones(3, 3))


def test_voxels_outside_are_refused_with_their_number():
    coords = torch.tensor([[0, 0, 0, 0], [16, 0, 0, 0], [0, -1, 0, 0]])
    with pytest.raises(InputError, match=r"2 of 3 voxels lie outside the spatial size \[16, 16, 16\].*\[16, 0, 0, 0\]"):
        build_model(NET)(coords, torch.ones(3, 3))


@pytest.mark.parametrize("coords", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 4), torch.zeros(4)])
def test_coords_of_another_kind_are_refused(coords):
    with pytest.raises(InputError, match=r"Fix: give integers \(n, 4\)"):
        build_model(NET)(coords, torch.ones(3, 3))


def test_a_deconvolution_needs_its_convolution():
    x = layers.InputLayer(SIZE)(sites_of(6, 20), torch.randn(20, 3))
    coarse = layers.Convolution(3, 4, 2, 2)(x)
    for up, where in (
        (layers.Deconvolution(4, 3, (1, 2, 2), (1, 2, 2)), coarse),
        (layers.Deconvolution(3, 3, 2, 2), x),
    ):
        with pytest.raises(ConfigError, match="no convolution of the same filter"):
            up(where)


def test_two_levels_down_and_up_return_to_each_ones_sites():
    x = layers.InputLayer(SIZE)(sites_of(7, 60), torch.randn(60, 2))
    middle = layers.Convolution(2, 2, (2, 3, 2), (2, 3, 2))(x)
    coarse = layers.Convolution(2, 2, 2, 2)(middle)
    back = layers.Deconvolution(2, 2, 2, 2)(coarse)
    assert back.sites is middle.sites
    assert layers.Deconvolution(2, 2, (2, 3, 2), (2, 3, 2))(back).sites is x.sites


def test_initial_weights_have_the_stated_spread():
    torch.manual_seed(0)
    weight = layers.SubmanifoldConvolution(32, 64, 3).weight
    assert float(weight.detach().std()) == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.02)
    assert float(layers.NetworkInNetwork(64, 64).weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize("recompute", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recomputing_changes_memory_alone(recompute, dtype):
    coords, features = sites_of(8, 600, size=(16, 16, 16)), torch.randn(600, 3, dtype=dtype)
    results = []
    for levels in (0, recompute):
        torch.manual_seed(0)
        model = build_model(NET | {"recompute": levels}).to(dtype)
        kept: dict[int, int] = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        for _ in range(2):
            model.zero_grad()
            kept.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model(coords, features).square().sum()
            size = sum(kept.values())
            loss.backward()
        results.append((size, [*(p.grad for p in model.parameters()), *model.state_dict().values()]))
    (all_of_it, expected), (less, found) = results
    assert less < 0.8 * all_of_it
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one, two)
