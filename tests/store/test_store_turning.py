"""Columns to rows, with and without numba loaded: the same as numpy's transposition."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore.testing import make_store
from larstore.turning import turn

TYPES = [np.uint16, np.float32, np.int64]


def columns(n, width, length, kind):
    return np.random.default_rng(n * width + length).integers(0, 60_000, (n, width, length)).astype(kind)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.sampled_from(TYPES), st.booleans())
@settings(deadline=None, max_examples=60)
def test_turned(n, width, length, kind, compiled):
    import numba

    given = columns(n, width, length, kind)
    out = np.zeros((n * length, width), kind)
    with pytest.MonkeyPatch.context() as patch:
        if compiled:
            patch.setitem(sys.modules, "numba", numba)
        else:
            patch.delitem(sys.modules, "numba")
        turn(given, out)
    np.testing.assert_array_equal(out, given.transpose(0, 2, 1).reshape(-1, width))


def test_to_a_wider_type_and_to_a_part_of_each_row():
    given = columns(3, 3, 16, np.uint16)
    out = np.full((48, 4), -1, np.int64)
    turn(given, out[:, :3])
    np.testing.assert_array_equal(out[:, :3], given.transpose(0, 2, 1).reshape(-1, 3))
    assert (out[:, 3] == -1).all()


def test_who_only_reads_does_not_load_numba(tmp_path):
    path = make_store(tmp_path / "a.zarr")
    code = (
        "import sys, larstore\n"
        "print(sum(len(image.coords) for image in larstore.open(sys.argv[1]).select()), 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"
    assert int(done.stdout.split()[0]) > 0
