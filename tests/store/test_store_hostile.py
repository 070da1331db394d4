"""A store that lies is refused with one line, on every way through it, in bounded memory."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

import larstore
from larstore.codecs import CorruptError, checksum, pack, unpack_into
from larstore.errors import StoreError
from larstore.testing import make_geometry
from tests.store.hostile_stores import CASES, HARMLESS, OPENED, build
from tests.store.whole_stores import make_good, use_everything

LARGE = ("gigabyte", "thousand_million", "same_rows", "brackets")  # refused as all others, and some seconds later
MEGABYTES = 400  # that reading a hostile store may take beyond what a good one does

IN_BOUNDS = """
import sys
from pathlib import Path
from tests.store.whole_stores import use_everything

def peak():  # not getrusage's: that one begins with the peak of the process that started this one
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024

good, *stores = map(Path, sys.argv[1:])
use_everything(good)
before = peak()
for store in stores:
    low = peak()
    use_everything(store)
    print(store, peak() - low, file=sys.stderr)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_good(tmp_path_factory.mktemp("good") / "run.zarr")


def test_a_good_store_is_fine(good):
    assert use_everything(good) == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if any(part in n for part in LARGE) else []) for n in CASES]
)
def test_a_lie_is_one_line(good, tmp_path, name):
    errors = use_everything(build(name, good, tmp_path))
    assert errors or name in HARMLESS
    for error in errors:
        assert "\n" not in error
        assert len(error) < 1000
    assert name in HARMLESS or any("Fix:" in error or "image" in error for error in errors)


@pytest.mark.slow
def test_lies_cost_no_memory(good, tmp_path):
    stores = [build(name, good, tmp_path / str(number)) for number, name in enumerate(OPENED)]
    command = [sys.executable, "-c", IN_BOUNDS, *map(str, (good, *stores))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MEGABYTES, done.stderr


def test_bodies_of_chunks_that_lie(good):
    """Blosc's header and blocks, changed below a right checksum: refused, or decoded to the size that is expected."""
    rng = np.random.default_rng(0)
    values, refused = np.arange(512, dtype=np.float32), 0
    for cname, shuffle in itertools.product(("zstd", "lz4", "zlib", "blosclz"), ("noshuffle", "shuffle", "bitshuffle")):
        body = pack(values, 4, cname, 5, shuffle)[:-4]
        for _ in range(200):
            changed = bytearray(body)
            for at in rng.integers(0, len(body) if rng.random() < 0.5 else 32, size=2):
                changed[at] = rng.integers(256)
            try:
                unpack_into(bytes(changed) + checksum(changed), np.empty_like(values))
            except CorruptError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "setting", [{"chunk_rows": 2**21, "shard_rows": 2**21}, {"units": "a\nb"}, {"planes": ("u/x", "v", "w")}]
)
def test_no_store_is_made_that_would_be_refused(tmp_path, setting):
    with pytest.raises(StoreError, match=r"a setting is no JSON value that can be stored \(.*\)\. Fix:"):
        larstore.create(tmp_path / "run.zarr", geometry=make_geometry(), provenance={}, **setting)
    assert list(tmp_path.iterdir()) == []
