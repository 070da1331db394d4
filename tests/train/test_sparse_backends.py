"""The backends over other packages: against golden values, the native backend, and the packages' own layers.

What needs a package is skipped where it is not installed.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore.errors import ConfigError
from train.models import build_model
from train.sparse import backends, native, rulebook
from train.sparse.adapters import import_package, nothing_meets
from train.sparse.spconv import from_spconv, refuse_what_it_lacks, to_spconv
from train.sparse.tensor import sort_sites

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sparseconvnet"
ATOL = 5e-6  # float32 sums of up to 125 · 3 products in another order; values are of order 1
RTOL_WEIGHT = 1e-5  # weight gradients sum over 600 rows
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
BACKENDS = ["spconv", "sparseconvnet"]
TRAINS_ON_CPU = {"spconv": False, "sparseconvnet": True}
SIZE = (8, 6, 5)


def installed(name: str):
    """The backend's module; skips the test without its package."""
    # A package that is there but does not load must fail, so it is only looked for here.
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"package {name} is not installed")
    return importlib.import_module(f"train.sparse.{name}")


def rules_of(kind: str, coords: np.ndarray, size, filter_size, stride=(1, 1, 1)):
    """Rules of one convolution; the sites of a transposed one are those that it returns to."""
    sites, _ = sort_sites(torch.from_numpy(coords), tuple(int(extent) for extent in size))
    if kind == "submanifold":
        return rulebook.submanifold(sites, filter_size)
    _, rules = rulebook.strided(sites, filter_size, stride)
    return rules if kind == "strided" else rules.transposed()


def random_coords(seed: int, n: int, size=SIZE, events=(0, 3)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, extent, n) for extent in size]
    return np.column_stack([*columns, rng.choice(events, n)]).astype(np.int64)


def order(coords: np.ndarray) -> np.ndarray:
    return np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0], coords[:, 3]))


def run(backend, name: str, features, weight, rules, gradient):
    """Output, and the gradients of both inputs where the backend trains on CPU."""
    if not TRAINS_ON_CPU.get(name, True):
        with torch.no_grad():
            return (backend.convolve(features, weight, rules),)
    features, weight = features.detach().requires_grad_(), weight.detach().requires_grad_()
    out = backend.convolve(features, weight, rules)
    return (out.detach(), *torch.autograd.grad(out, (features, weight), gradient))


OPERATIONS = [
    *(("subm", "submanifold", size, (1, 1, 1)) for size in [(3, 3, 3), (2, 2, 2), (1, 3, 3), (3, 1, 1), (5, 5, 5)]),
    *(("conv", "strided", size, size) for size in [(2, 2, 2), (1, 2, 2), (4, 2, 2)]),
    *(("deconv", "transposed", size, size) for size in [(2, 2, 2), (1, 2, 2), (4, 2, 2)]),
]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("short", "kind", "filter_size", "stride"), OPERATIONS)
def test_golden_values(name, short, kind, filter_size, stride):
    backend = installed(name)
    with np.load(GOLDEN / f"op_{short}_{''.join(map(str, filter_size))}.npz") as archive:
        golden = {key: archive[key] for key in archive.files}
    fine = "out" if kind == "transposed" else "in"
    rules = rules_of(kind, golden[f"{fine}_coords"], golden[f"{fine}_spatial_size"], filter_size, stride)
    enter, leave = order(golden["in_coords"]), order(golden["out_coords"])
    np.testing.assert_array_equal(rules.input_coords, golden["in_coords"][enter])
    np.testing.assert_array_equal(rules.output_coords, golden["out_coords"][leave])
    features, gradient = golden["in_features"][enter], golden["grad_out"][leave]
    results = run(
        backend, name, *map(torch.from_numpy, (features, golden["weight"])), rules, torch.from_numpy(gradient)
    )
    scale = np.abs(golden["grad_weight"]).max()
    expected = (golden["out_features"][leave], golden["grad_in"][enter], golden["grad_weight"])
    for found, value, atol in zip(results, expected, (ATOL, ATOL, RTOL_WEIGHT * scale), strict=False):
        np.testing.assert_allclose(found.numpy(), value, rtol=0, atol=atol)


FILTERS = [
    *(("submanifold", size, (1, 1, 1)) for size in [(3, 3, 3), (1, 3, 3), (2, 2, 2), (5, 3, 1), (1, 1, 1)]),
    *(
        (kind, *how)
        for kind in ("strided", "transposed")
        for how in [((2, 2, 2), (2, 2, 2)), ((1, 2, 2), (1, 2, 2)), ((3, 2, 2), (2, 2, 1)), ((1, 1, 1), (2, 3, 2))]
    ),
]


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.one_of(st.integers(0, 3), st.integers(0, 300)),
    how=st.sampled_from(FILTERS),
    channels=st.sampled_from([(1, 1), (3, 5), (16, 8)]),
    events=st.sampled_from([(0,), (0, 1, 2), (3, 7)]),
)
def test_equals_native(name, seed, n, how, channels, events):
    backend = installed(name)
    kind, filter_size, stride = how
    rules = rules_of(kind, random_coords(seed, n, events=events), SIZE, filter_size, stride)
    torch.manual_seed(seed)
    features, weight = (
        torch.randn(len(rules.input_coords), channels[0]),
        torch.randn(np.prod(filter_size), 1, *channels),
    )
    gradient = torch.randn(len(rules.output_coords), channels[1])
    expected = run(native, "native", features, weight, rules, gradient)
    for _ in range(2):  # the second time, with what is cached in the rules
        for found, value in zip(run(backend, name, features, weight, rules, gradient), expected, strict=False):
            torch.testing.assert_close(found, value, **CLOSE)


@pytest.mark.parametrize("name", BACKENDS)
def test_both_directions_may_share_a_cache(name):
    backend = installed(name)
    down = rules_of("strided", random_coords(0, 200), SIZE, (3, 2, 2), (2, 2, 1))
    up = down.transposed()
    weight = torch.randn(12, 1, 4, 4)
    for rules in (up, down, up):
        features = torch.randn(len(rules.input_coords), 4)
        with torch.no_grad():
            expected = native.convolve(features, weight, rules)
            torch.testing.assert_close(backend.convolve(features, weight, rules), expected, **CLOSE)


def test_spconv_gives_the_same_bits_again_and_again(monkeypatch):
    # With several threads, its scatter on CPU spoils some of so many rows every few calls.
    backend = installed("spconv")
    functional = import_package("spconv.pytorch.functional", "")
    rules = rules_of("submanifold", random_coords(1, 20_000, (32, 32, 32)), (32, 32, 32), (3, 3, 3))
    features, weight = torch.randn(len(rules.input_coords), 2), torch.randn(27, 1, 2, 32)
    threads, seen = [], functional.indice_subm_conv

    def watched(*args):
        threads.append(torch.get_num_threads())
        return seen(*args)

    monkeypatch.setattr(functional, "indice_subm_conv", watched)
    before = torch.get_num_threads()
    with torch.no_grad():
        first, *others = (backend.convolve(features, weight, rules) for _ in range(20))
        torch.testing.assert_close(first, native.convolve(features, weight, rules), **CLOSE)
    assert all(torch.equal(first, other) for other in others)
    assert threads == [1] * 20
    assert torch.get_num_threads() == before


def test_native_equals_the_layers_of_spconv():
    """Their own hashing, rules and layout of weights."""
    installed("spconv")
    spconv = import_package("spconv.pytorch", "")
    coords = rules_of("submanifold", random_coords(2, 150, events=(0, 1)), SIZE, (3, 3, 3)).input_coords
    indices = torch.from_numpy(np.ascontiguousarray(coords[:, [3, 0, 1, 2]].astype(np.int32)))
    x = spconv.SparseConvTensor(torch.randn(len(coords), 3), indices, list(SIZE), 2)
    how = {"bias": False, "algo": spconv.ConvAlgo.Native}
    same = spconv.SubMConv3d(3, 4, (3, 1, 3), **how)
    down = spconv.SparseConv3d(4, 6, (3, 2, 2), stride=(2, 2, 1), indice_key="level", **how)
    up = spconv.SparseInverseConv3d(6, 5, (3, 2, 2), indice_key="level", **how)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            theirs = [same(x)]
            theirs.append(down(theirs[0]))
            theirs.append(up(theirs[1]))
    finally:
        torch.set_num_threads(threads)
    rules = [rules_of("submanifold", coords, SIZE, (3, 1, 3))]
    rules.append(rules_of("strided", coords, SIZE, (3, 2, 2), (2, 2, 1)))
    rules.append(rules[1].transposed())
    features = x.features
    for layer, their, rule in zip((same, down, up), theirs, rules, strict=True):
        features = native.convolve(features, from_spconv(layer.weight.detach()), rule)
        places = their.indices.numpy()[:, [1, 2, 3, 0]]
        to = order(places)
        np.testing.assert_array_equal(places[to], rule.output_coords)
        torch.testing.assert_close(their.features[torch.from_numpy(to)], features, **CLOSE)


@pytest.mark.parametrize("wanted", ["features", "weight"])
def test_spconv_refuses_to_train_on_cpu(wanted):
    backend = installed("spconv")
    rules = rules_of("submanifold", random_coords(3, 20), SIZE, (3, 3, 3))
    inputs = {"features": torch.randn(len(rules.input_coords), 2), "weight": torch.randn(27, 1, 2, 2)}
    inputs[wanted].requires_grad_()
    with pytest.raises(ConfigError, match=r"trains on CUDA only.*Fix: backend: native"):
        backend.convolve(**inputs, rules=rules)
    with torch.no_grad():
        backend.convolve(**inputs, rules=rules)


@pytest.mark.parametrize(("name", "dtype"), [("spconv", torch.bfloat16), ("sparseconvnet", torch.float64)])
def test_types_that_a_package_lacks_are_refused(name, dtype):
    backend = installed(name)
    rules = rules_of("submanifold", random_coords(4, 20), SIZE, (3, 3, 3))
    features, weight = torch.randn(len(rules.input_coords), 2, dtype=dtype), torch.randn(27, 1, 2, 2, dtype=dtype)
    kind = str(dtype)
    with pytest.raises(ConfigError, match=rf"features of {kind} and a weight of {kind}.*Fix: float32 without autocast"):
        backend.convolve(features, weight, rules)


def test_spconv_on_cuda_needs_its_build_for_cuda():
    # Asked without a GPU: the refusal depends on nothing else.
    with pytest.raises(ConfigError, match=r"its build for CPU.*such as spconv-cu126; or backend: native"):
        refuse_what_it_lacks("cuda", torch.float32, torch.float32, gradient=True, cpu_build=True)
    with pytest.raises(ConfigError, match=r"torch.float32 and a weight of torch.float64 on cuda are not what"):
        refuse_what_it_lacks("cuda", torch.float32, torch.float64, gradient=True, cpu_build=False)
    for dtype in (torch.float32, torch.float16):
        refuse_what_it_lacks("cuda", dtype, dtype, gradient=True, cpu_build=False)


def test_spconv_infers_in_float64():
    backend = installed("spconv")
    rules = rules_of("submanifold", random_coords(5, 200), SIZE, (3, 3, 3))
    features = torch.randn(len(rules.input_coords), 3, dtype=torch.float64)
    weight = torch.randn(27, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(backend.convolve(features, weight, rules), native.convolve(features, weight, rules))


def test_sparseconvnet_refuses_two_levels_of_one_extent():
    backend = installed("sparseconvnet")
    rules = rules_of("strided", random_coords(6, 20), SIZE, (1, 1, 1), (1, 1, 1))
    with pytest.raises(ConfigError, match=r"knows levels by their extent. Fix: backend: native"):
        backend.convolve(torch.randn(len(rules.input_coords), 2), torch.randn(1, 1, 2, 2), rules)


FIXES = {
    "spconv": "pip install 'larstore[spconv]', or backend: native",
    "sparseconvnet": "install it from github.com/facebookresearch/SparseConvNet, or backend: native",
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_missing_package_is_named_with_its_fix(name, monkeypatch):
    backend = importlib.import_module(f"train.sparse.{name}")
    for module in [module for module in sys.modules if module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # an import of it now fails as if it were not there
    rules = rules_of("submanifold", random_coords(7, 5), SIZE, (3, 3, 3))
    with pytest.raises(ConfigError) as refused:
        backend.convolve(torch.randn(len(rules.input_coords), 2), torch.randn(27, 1, 2, 2), rules)
    assert str(refused.value) == f"backend {name}: package {name} is not installed. Fix: {FIXES[name]}"


def test_a_package_that_does_not_load_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import surely_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        import_package("half_installed", "")


@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 5), st.integers(1, 5))
def test_weights_convert_there_and_back(filter_size, c_in, c_out):
    volume = int(np.prod(filter_size))
    weight = torch.arange(volume * c_in * c_out).reshape(volume, 1, c_in, c_out)
    theirs = to_spconv(weight, filter_size)
    assert theirs.shape == (c_out, *filter_size, c_in)
    assert torch.equal(from_spconv(theirs), weight)
    x, y, z = (size - 1 for size in filter_size)
    assert theirs[-1, x, 0, z, 0] == weight[(x * filter_size[1]) * filter_size[2] + z, 0, 0, -1]
    assert theirs[0, 0, y, z, -1] == weight[y * filter_size[2] + z, 0, -1, 0]


def test_nothing_meets_has_zero_gradients():
    rules = rules_of("strided", np.array([[7, 5, 4, 0]]), (8, 6, 5), (1, 1, 1), (2, 2, 3))
    features = torch.full((1, 2), torch.inf, requires_grad=True)
    weight = torch.randn(1, 1, 2, 3, requires_grad=True)
    out = nothing_meets(features, weight, rules)
    assert out.shape == (0, 3)
    out.sum().backward()
    assert not features.grad.any()
    assert not weight.grad.any()


NET = {"name": "cellnet", "spatial_size": 16, "nChannels": 4, "nStrides": 2, "n_2D": 0, "downsample_t": [2, 2]}


@pytest.mark.parametrize(
    ("name", "device", "spconv_is_there", "line"),
    [
        ("auto", "cpu", True, "backend native on cpu, numba kernels (auto: on cpu)"),
        ("auto", "cuda", True, "backend spconv on cuda (auto: it is installed, and fast on a GPU)"),
        (
            "auto",
            "cuda",
            False,
            "backend native on cuda, torch operations (auto: spconv, which is faster on a GPU, is not",
        ),
        ("native", "cpu", True, "backend native on cpu, numba kernels (as asked for)"),
    ],
)
def test_a_backend_is_chosen_with_a_reason(name, device, spconv_is_there, line, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda package: spconv_is_there or None)
    model = build_model(NET)
    assert backends.use_backend(model, name, device).startswith(line)
    taken = "spconv" if "backend spconv" in line else "native"
    assert model.sparseModel[0].convolve is importlib.import_module(f"train.sparse.{taken}").convolve


def test_a_backend_that_cannot_be_is_refused(monkeypatch):
    model = build_model(NET)
    with pytest.raises(ConfigError, match=r"backend: 'cudnn' is unknown. Fix: auto, native, spconv, sparseconvnet"):
        backends.use_backend(model, "cudnn", "cpu")
    monkeypatch.setattr(backends, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"the package spconv is not installed. Fix: install it, or backend: native"):
        backends.use_backend(model, "spconv", "cpu")
    monkeypatch.setattr(backends, "find_spec", lambda package: True)
    with pytest.raises(ConfigError, match=r"it trains on CUDA only, on cpu it infers. Fix: backend: native"):
        backends.use_backend(model, "spconv", "cpu", training=True)


def test_a_network_infers_alike_with_spconv():
    installed("spconv")
    torch.manual_seed(0)
    model = build_model(NET).eval()
    coords = torch.from_numpy(random_coords(4, 300, (16, 16, 16)))
    features = torch.randn(len(coords), 3)
    with torch.no_grad():
        expected = model(coords, features)
        backends.use_backend(model, "spconv", "cpu")
        torch.testing.assert_close(model(coords, features), expected, **CLOSE)
