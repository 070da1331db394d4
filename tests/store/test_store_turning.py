"""Columns to rows, by numpy or by other code: the same as numpy's transposition."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore import turning
from larstore.testing import make_store

TYPES = [np.uint16, np.float32, np.int64]


def columns(n, width, length, kind):
    return np.random.default_rng(n * width + length).integers(0, 60_000, (n, width, length)).astype(kind)


def expected(columns):
    return columns.transpose(0, 2, 1).reshape(-1, columns.shape[1])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.sampled_from(TYPES), st.booleans())
@settings(deadline=None, max_examples=60)
def test_turned(n, width, length, kind, compiled):
    given = columns(n, width, length, kind)
    out, calls = np.zeros((n * length, width), kind), []

    def slow(flat, width, length, rows):
        calls.append(1)
        for chunk in range(len(flat) // (width * length)):
            for column in range(width):
                for row in range(length):
                    at = chunk * width * length
                    rows[at + row * width + column] = flat[at + column * length + row]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turning, "_compiled", slow if compiled else None)
        turning.turn(given, out)
    np.testing.assert_array_equal(out, expected(given))
    assert len(calls) == compiled


def test_to_a_wider_type_and_to_a_part_of_each_row():
    given = columns(3, 3, 16, np.uint16)
    out = np.full((48, 4), -1, np.int64)
    turning.turn(given, out[:, :3])
    np.testing.assert_array_equal(out[:, :3], expected(given))
    assert (out[:, 3] == -1).all()


def test_who_only_reads_loads_no_compiler(tmp_path):
    path = make_store(tmp_path / "a.zarr")
    code = (
        "import sys, larstore\n"
        "print(sum(len(image.coords) for image in larstore.open(sys.argv[1]).select()), 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
    assert int(done.stdout.split()[0]) > 0
