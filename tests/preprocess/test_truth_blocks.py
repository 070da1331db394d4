"""Truth summed over blocks of voxels against a dict in plain Python, and against voxelising the points themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from larstore.errors import ConfigError, InputError
from larstore.truth_sums import LARGEST
from preprocess.truth import truth_blocks, voxelise_truth

near = st.integers(0, 9)
far = st.sampled_from([0, 1, 4, 5, LARGEST - 1, LARGEST])
voxel_lists = st.lists(st.tuples(near, near, near) | st.tuples(far, far, far), max_size=30)
steps = st.tuples(*[st.sampled_from([1, 2, 5, 100, LARGEST, 10**6])] * 3)


def as_coords(voxels, dtype=np.uint16):
    return np.array(voxels, dtype).reshape(-1, 3)


def block(voxel, downsample):
    return tuple(int(a) // b for a, b in zip(voxel, downsample, strict=True))


@given(tiled=voxel_lists, truth=voxel_lists, downsample=steps, seed=st.integers(0, 99), dtype=st.sampled_from("HqL"))
def test_blocks_are_those_of_a_dict(tiled, truth, downsample, seed, dtype):
    values = np.random.default_rng(seed).integers(-9, 99, len(truth)).astype(np.float32)
    sums = {}
    for voxel, value in zip(truth, values.tolist(), strict=True):
        sums[block(voxel, downsample)] = sums.get(block(voxel, downsample), 0.0) + value
    expected = sorted(sums)
    found = truth_blocks(as_coords(tiled, dtype), as_coords(truth, dtype), values, downsample)
    assert [tuple(row) for row in found.coords.tolist()] == expected
    assert found.sums.tolist() == [sums[key] for key in expected]
    rows = {key: row for row, key in enumerate(expected)}
    assert found.row.tolist() == [rows.get(block(voxel, downsample), -1) for voxel in tiled]
    assert (found.coords.dtype, found.sums.dtype, found.row.dtype) == (np.uint16, np.float32, np.int64)


def test_an_example():
    """Two truth voxels of one block, one of them not tiled; a ghost in that block, and one outside."""
    found = truth_blocks([[1, 1, 1], [4, 4, 4], [5, 4, 4]], [[0, 0, 0], [1, 1, 1]], [100.0, 50.0])
    assert found.coords.tolist() == [[0, 0, 0]]
    assert found.sums.tolist() == [150.0]
    assert found.row.tolist() == [0, 0, -1]


def test_several_columns_are_summed_at_once():
    truth = as_coords([(0, 0, 0), (7, 0, 0), (1, 2, 3)])
    columns = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    together = truth_blocks(as_coords([]), truth, columns)
    assert together.sums.tolist() == [[4, 40], [2, 20]]
    for k in range(2):
        assert_array_equal(truth_blocks(as_coords([]), truth, columns[:, k]).sums, together.sums[:, k])
    assert truth_blocks(as_coords([]), as_coords([]), np.empty((0, 2), np.float32)).sums.shape == (0, 2)


def test_blocks_of_voxels_are_voxels_of_points():
    """Voxelising in two steps, (8, 4, 4) and then (5, 5, 5), is voxelising with (40, 20, 20)."""
    random = np.random.default_rng(5)
    points = np.column_stack([random.integers(0, 500, (3000, 3)), random.uniform(1, 1000, 3000)])
    coords, value = voxelise_truth(points, (8, 4, 4), (500, 500, 500))
    found = truth_blocks(coords, coords, value, (5, 5, 5))
    at_once, sums = voxelise_truth(points, (40, 20, 20), (500, 500, 500))
    assert_array_equal(found.coords, at_once)
    assert_allclose(found.sums, sums, rtol=1e-6)
    assert_array_equal(found.coords[found.row], coords // 5)
    assert_allclose(np.bincount(found.row, value), sums, rtol=1e-6)


@pytest.mark.parametrize("downsample", [(5, 5), (5, 5, 0), (5, 5, 2.5), (-1, 5, 5)])
def test_wrong_blocks_are_refused(downsample):
    with pytest.raises(ConfigError, match=r"downsample = .*Fix: give three whole numbers"):
        truth_blocks(as_coords([]), as_coords([]), np.empty(0), downsample)


@pytest.mark.parametrize(
    ("coords", "truth", "values", "words"),
    [
        (np.zeros((2, 2), int), as_coords([]), [], r"^coords have shape \(2, 2\)"),
        (np.zeros((2, 3)), as_coords([]), [], "^coords have .* type float64"),
        (as_coords([(0, 0, LARGEST + 1)]), as_coords([]), [], "^coords reach from 0 to 65535"),
        (as_coords([]), as_coords([(0, -1, 0)], int), [1.0], "^truth_coords reach from -1 to 0"),
        (as_coords([]), as_coords([(0, 1, 0)]), [1.0, 2.0], r"^values have shape \(2,\)"),
        (as_coords([]), as_coords([(0, 1, 0)]), ["a"], "^values have shape .* type <U1"),
        (as_coords([]), as_coords([(0, 1, 0)]), 1.0, r"^values have shape \(\)"),
    ],
)
def test_wrong_arrays_are_refused(coords, truth, values, words):
    with pytest.raises(InputError, match=words):
        truth_blocks(coords, truth, np.array(values))
