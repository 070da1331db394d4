"""The parts of strata against a plain Python twin: bins, neighbours, nearest truth, clusters, directions, distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tests.train import strata_twin as twin
from train.results.strata.bins import Bins, labelled
from train.results.strata.clusters import find_clusters, nearest_rows, principal_axis
from train.results.strata.neighbours import count_neighbours
from train.results.strata.surroundings import DEAD, OCCUPANCY, distances
from train.results.strata.tracks import ANGLES, ENERGY_EDGES, energy_bins

SIDES = np.array([6.25, 8.0, 8.0])
SEEDS = st.integers(0, 2**32)
FAST = settings(deadline=None, max_examples=40)


def random_coords(rng, n, high=12, low=0):
    """Up to n different voxels, sorted."""
    return np.unique(rng.integers(low, high, (n, 3)), axis=0).astype(np.uint16)


@FAST
@given(values=st.lists(st.one_of(st.floats(), st.sampled_from([0.0, *ENERGY_EDGES]))))
def test_bins_hold_their_lower_edge(values):
    for bins in (energy_bins(), ANGLES, OCCUPANCY, DEAD):
        found = bins.codes(np.array(values, np.float64))
        assert found.dtype == np.int16
        assert_array_equal(found, [twin.code(value, bins.edges) for value in values])


def test_labels_say_the_edges():
    assert labelled((1, 2.5), ("1", "2.5"), " cm").labels == ("< 1 cm", "1–2.5 cm", "≥ 2.5 cm")
    assert energy_bins().labels[0] == "< 30 ke (1.0 MeV)"
    assert energy_bins().labels[3] == "300 ke (10 MeV) – 1 Me (33 MeV)"
    for count, label in ((0, "< 9"), (8, "< 9"), (9, "9–16"), (48, "41–48"), (64, "49–64"), (125, "81–125")):
        assert OCCUPANCY.labels[int(OCCUPANCY.codes(np.array(count)))] == label
    for mm, label in ((0, "0 mm"), (8, "< 12 mm"), (12, "12–30 mm"), (300, "≥ 300 mm"), (np.inf, "none in the image")):
        assert DEAD.labels[int(DEAD.codes(np.array(mm)))] == label
    with pytest.raises(ValueError, match="2 edges have 3 bins, not 2"):
        Bins((1, 2), ("a", "b"))


@FAST
@given(seed=SEEDS, far=st.booleans())
def test_neighbours_are_counted(seed, far):
    rng = np.random.default_rng(seed)
    low, high = (65528, 65535) if far else (0, 8)
    points = random_coords(rng, int(rng.integers(0, 200)), high, low)
    coords = random_coords(rng, int(rng.integers(0, 60)), high, low)
    tiled = set(map(tuple, points.tolist()))
    expected = [twin.neighbours(voxel, tiled) for voxel in coords.tolist()]
    assert_array_equal(count_neighbours(coords, points, 2), expected)


def test_neighbours_do_not_go_round_the_ends():
    """The last z of a row and the first of the next are no neighbours."""
    points = np.array([[0, 0, 0], [0, 0, 65534], [0, 1, 0], [0, 65534, 0], [1, 0, 0]], np.uint16)
    assert_array_equal(count_neighbours(points, points, 2), [3, 1, 3, 1, 3])


@FAST
@given(seed=SEEDS)
def test_the_nearest_truth_voxel_is_found(seed):
    rng = np.random.default_rng(seed)
    truth = random_coords(rng, int(rng.integers(1, 60)), 20)
    coords = random_coords(rng, 30, 60)
    found = nearest_rows(coords, truth, SIDES, 100.0)
    for voxel, row in zip(coords.tolist(), found.tolist(), strict=True):
        rows = twin.nearest(voxel, truth.tolist(), SIDES, 100.0)
        assert row in (rows or [len(truth)])


def random_truth(rng):
    """Truth voxels of a few tracks, of which some are straight, some large and some not known."""
    parts = []
    for track in rng.permutation(9)[: int(rng.integers(1, 6))]:
        n = int(rng.integers(1, 90))
        along = np.linspace(0, rng.uniform(0, 80), n)[:, None] * rng.standard_normal(3)
        parts.append((100 + along + rng.uniform(0, 3) * rng.standard_normal((n, 3)), np.full(n, track - 1)))
    coords = np.concatenate([each for each, _ in parts]).clip(0, 400).astype(np.uint16)
    track = np.concatenate([each for _, each in parts]).astype(np.int32)
    coords, first = np.unique(coords, axis=0, return_index=True)
    value = rng.gamma(2.0, 5000.0, len(coords)).astype(np.float32).round(-4) + 1  # with equals
    return coords, value, track[first], rng.choice([0, 11, -13, 211, 2212], len(coords)).astype(np.int32)


@FAST
@given(seed=SEEDS)
def test_clusters_are_those_of_the_tracks(seed):
    coords, value, track, pdg = random_truth(np.random.default_rng(seed))
    found = find_clusters(coords, value, track, pdg, SIDES)
    expected = twin.tracks_of(coords.tolist(), value.tolist(), track.tolist(), pdg.tolist(), SIDES)
    tracks = list(expected)
    assert_array_equal(found.of_voxel, [tracks.index(t) if t >= 0 else -1 for t in track])
    assert_array_equal(found.size, [each[0] for each in expected.values()])
    assert_allclose(found.charge, [each[1] for each in expected.values()], rtol=1e-6)
    assert_array_equal(found.pdg, [each[2] for each in expected.values()])
    for direction, (_, _, _, axis) in zip(found.direction, expected.values(), strict=True):
        if axis is None:
            assert np.isnan(direction).all()
        else:
            assert abs(direction @ axis) == pytest.approx(1.0, abs=1e-6)


def test_directions_need_a_line():
    ball = np.random.default_rng(0).standard_normal((300, 3))
    assert np.isnan(principal_axis(ball, np.ones(300))).all()
    line = ball * [0.1, 0.1, 3.0]
    assert abs(principal_axis(line, np.ones(300))[2]) > 0.99
    assert np.isnan(principal_axis(np.zeros((60, 3)), np.ones(60))).all()
    heavy = np.concatenate([line, line[:, ::-1]])  # along z, and along x with less weight
    assert abs(principal_axis(heavy, np.repeat([1.0, 1e-3], 300))[2]) > 0.99


@FAST
@given(seed=SEEDS)
def test_distances_to_dead_places(seed):
    rng = np.random.default_rng(seed)
    shape, sides = tuple(rng.integers(3, 14, 2).tolist()), (8.0, 4.0)
    n_cells = int(rng.integers(1, 6))
    cells = np.column_stack([rng.integers(0, n, n_cells) for n in shape]).astype(np.uint16)
    found = distances(cells, shape, sides)
    expected = [[twin.dead_distance((y, z), cells.tolist(), sides) for z in range(shape[1])] for y in range(shape[0])]
    assert_allclose(found, expected, rtol=1e-12)
