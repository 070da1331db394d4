"""Each transform against plain Python, and the order in which a configuration puts them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.schema import DataConfig
from train.streaming.transforms import (
    ChargeInput,
    CoordLimits,
    Noise,
    Round,
    Sample,
    Scale,
    Threshold,
    ZSegments,
    make_transforms,
)


def make_sample(n=40, seed=0):
    random = np.random.default_rng(seed)
    return Sample(
        random.integers(0, 100, (n, 3)),
        random.normal(0, 5000, (n, 3)).astype(np.float32),
        random.choice([0.0, 1.0, 2500.0], (n, 1)).astype(np.float32),
        np.ones((n, 1), np.float32),
    )


def apply(transform, sample=None):
    return transform(make_sample() if sample is None else sample, np.random.default_rng(7))


@given(st.lists(st.none() | st.tuples(st.integers(0, 50), st.integers(50, 100)), min_size=3, max_size=3))
def test_coord_limits(limits):
    sample = make_sample()
    kept = [
        i
        for i, voxel in enumerate(sample.coords.tolist())
        if all(lim is None or lim[0] <= v < lim[1] for v, lim in zip(voxel, limits, strict=True))
    ]
    result = apply(CoordLimits(limits), sample)
    for name in ("coords", "features", "target", "weight"):
        np.testing.assert_array_equal(getattr(result, name), getattr(sample, name)[kept])


@pytest.mark.parametrize(
    ("transform", "formula"),
    [
        ("linear", lambda q: q * 0.001),
        ("asinh", lambda q: math.asinh(q * 0.001)),
        ("log", lambda q: math.copysign(math.log(1 + abs(q * 0.001)), q)),
    ],
)
def test_charge_input(transform, formula):
    sample = make_sample()
    expected = [[formula(float(q)) for q in row] for row in sample.features]
    result = apply(ChargeInput(transform, 0.001), sample).features
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 110), min_size=1, max_size=5, unique=True).map(sorted))
def test_z_segments(bounds):
    sample = make_sample()
    result = apply(ZSegments(bounds), sample)
    np.testing.assert_array_equal(result.features[:, :3], sample.features)
    for z, row in zip(sample.coords[:, 2].tolist(), result.features[:, 3:].tolist(), strict=True):
        lower = 0
        for bound, value in zip(bounds, row, strict=True):
            assert value == float(lower <= z < bound)
            lower = bound


def test_noise_round_scale_threshold():
    sample = make_sample(20_000)
    noise = apply(Noise(3.0, 50.0), sample).features - sample.features
    assert abs(noise.mean() - 3.0) < 1.0
    assert abs(noise.std() - 50.0) < 1.0
    assert (apply(Round(-3), sample).features % 1000 == 0).all()
    np.testing.assert_allclose(apply(Scale(0.5), sample).target, sample.target / 2)
    np.testing.assert_array_equal(apply(Threshold(1.0), sample).target, sample.target > 1.0)


def test_configuration_orders_the_steps():
    data = DataConfig.model_validate(
        {
            "data_path": "a",
            "coord_lim": [[0, 90], None, None],
            "noise": {"sd": 10},
            "round": 0,
            "z_segments": [50],
            "threshold": 1,
        }
    )
    names = [type(step).__name__ for step in make_transforms(data, training=True, scale=2.0)]
    assert names == ["CoordLimits", "Noise", "Round", "ChargeInput", "ZSegments", "Scale", "Threshold"]
    assert [type(step).__name__ for step in make_transforms(data, training=False)] == [
        "Round",
        "ChargeInput",
        "ZSegments",
        "Threshold",
    ]
    assert data.n_inputs(3) == 4
