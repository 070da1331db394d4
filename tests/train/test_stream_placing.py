"""Compiled placing of rows beside plain Python, and what does not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.streaming.placing import is_finite, place_coords, place_rows, weigh

FLOATS = st.floats(width=32)


@st.composite
def images(draw):
    """Images in any order and overlap among ``m`` rows, one after another in a batch with room between them."""
    m = draw(st.integers(0, 30))
    ranges = draw(st.lists(st.tuples(st.integers(0, m), st.integers(0, m)).map(sorted), max_size=6))
    begin, end = (np.array([r[k] for r in ranges], np.int64) for k in (0, 1))
    gaps = np.array(draw(st.lists(st.integers(0, 2), min_size=len(ranges), max_size=len(ranges))), np.int64)
    to = np.cumsum(end - begin + gaps) - (end - begin)
    n = int((to + end - begin).max(initial=0)) + draw(st.integers(0, 2))
    return m, (begin, end, to), n


@given(images(), st.data())
@settings(deadline=None)
def test_coords(case, data):
    m, (begin, end, to), n = case
    rows = np.random.default_rng(m).integers(0, 65536, (m, 3)).astype(np.uint16)
    number = np.array(data.draw(st.lists(st.integers(0, 99), min_size=len(to), max_size=len(to))), np.int64)
    out, expected = np.full((n, 4), -7, np.int64), np.full((n, 4), -7, np.int64)
    for image in range(len(begin)):
        for k, row in enumerate(range(begin[image], end[image])):
            expected[to[image] + k] = [*map(int, rows[row]), number[image]]
    place_coords(rows, (begin, end, to), number, out)
    np.testing.assert_array_equal(out, expected)


@given(images(), st.sampled_from([(), (1,), (2,), (3,)]))
@settings(deadline=None)
def test_rows(case, width):
    m, (begin, end, to), n = case
    rows = np.random.default_rng(m).normal(size=(m, *width)).astype(np.float32)
    out, expected = np.full((n, *width), -7, np.float32), np.full((n, *width), -7, np.float32)
    for image in range(len(begin)):
        for k, row in enumerate(range(begin[image], end[image])):
            expected[to[image] + k] = rows[row]
    place_rows(rows, (begin, end, to), out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("begin", "end", "to"), [(-1, 2, 0), (3, 2, 0), (0, 6, 0), (0, 3, -1), (0, 3, 2), (5, 6, 0)])
def test_what_lies_outside_is_refused_and_nothing_is_written(begin, end, to):
    places = tuple(np.array([0, value], np.int64) for value in (begin, end, to))
    rows, out = np.ones((5, 3), np.uint16), np.zeros((4, 4), np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        place_coords(rows, places, np.zeros(2, np.int64), out)
    floats, room = np.ones((5, 2), np.float32), np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        place_rows(floats, places, room)
    assert not out.any()
    assert not room.any()


def test_room_that_is_no_whole_is_refused():
    """What would be filled must be the array itself, not a copy of it."""
    one = (np.array([0]), np.array([2]), np.array([0]))
    with pytest.raises(ValueError, match="copy"):
        place_coords(np.ones((2, 3), np.uint16), one, np.array([0]), np.zeros((4, 8), np.int64)[:, :4])


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=20))
@settings(deadline=None)
def test_finite(values):
    values = np.array(values, np.float32).reshape(-1, 2)
    assert is_finite(values) == np.isfinite(values).all()


@pytest.mark.parametrize("wrong", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_that_is_not_finite_is_found_anywhere(wrong):
    values = np.full((257, 3), np.finfo(np.float32).max, np.float32)
    assert is_finite(values)
    for row in (0, 100, 256):
        one = values.copy()
        one[row, 2] = wrong
        assert not is_finite(one)
        assert not is_finite(-one)


@given(st.lists(FLOATS, max_size=20))
@settings(deadline=None)
def test_weights(values):
    truth = np.array(values, np.float32)
    known, expected = np.isfinite(truth), np.where(np.isfinite(truth), truth, 0)
    weight = np.full(len(truth), 9, np.float32)
    weigh(truth, weight)
    np.testing.assert_array_equal(weight, known.astype(np.float32))
    np.testing.assert_array_equal(truth, expected)
