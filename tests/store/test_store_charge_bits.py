"""Charges rounded to some bits of mantissa, as a store may be told to keep them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import larstore
from larstore.codecs import round_mantissas
from larstore.errors import StoreError
from larstore.testing import add_images, make_geometry, make_image
from larstore.verification import verify

FLOATS = st.floats(min_value=2.0**-126, max_value=2.0**100, width=32)  # normal ones: what has a whole mantissa


def nearest(value: float, bits: int) -> float:
    """The slow twin: the neighbours with so many bits of mantissa, exactly, and the nearer or the even one."""
    exponent = int(np.floor(np.log2(value)))
    if Fraction(2) ** exponent > Fraction(value):
        exponent -= 1
    step = Fraction(2) ** (exponent - bits)
    return float(round(Fraction(value) / step) * step)  # Python rounds halves to even


@given(FLOATS, st.integers(1, 22), st.sampled_from([1, -1]))
def test_rounds_to_the_nearest(value, bits, sign):
    (found,) = round_mantissas(np.array([sign * value], np.float32), bits)
    assert float(found) == sign * nearest(value, bits)
    assert abs(float(found) - sign * value) <= 2.0 ** -(bits + 1) * value
    assert round_mantissas(np.array([found]), bits)[0] == found


def store_of(path, bits, images):
    larstore.create(
        path, geometry=make_geometry((1,)), provenance={}, shard_rows=4096, chunk_rows=256, charge_bits=bits
    )
    add_images(path, images)
    return larstore.open(path)


def test_a_store_keeps_so_many_bits_and_says_so(tmp_path):
    images = [make_image(0, event, n_voxels=900) for event in range(3)]
    given_images = [replace(image, charge=image.charge.copy()) for image in images]
    whole, rounded = store_of(tmp_path / "a.zarr", None, images), store_of(tmp_path / "b.zarr", 9, images)
    assert (whole.root.charge_bits, rounded.root.charge_bits) == (None, 9)
    for image, given_image in zip(rounded.select(), given_images, strict=True):
        assert np.array_equal(image.charge, round_mantissas(given_image.charge, 9))
        assert np.allclose(image.charge, given_image.charge, rtol=1e-3, atol=0)
        assert (image.charge.view(np.uint32) & 0x3FFF == 0).all()
        assert np.array_equal(image.coords, given_image.coords)
        assert np.array_equal(image.truth, given_image.truth)
        assert image.summary("charge_sum_u") == image.charge[:, 0].sum(dtype=np.float64)
    assert all(np.array_equal(image.charge, kept.charge) for image, kept in zip(images, given_images, strict=True))
    assert verify(tmp_path / "b.zarr").ok
    array = zarr.open_group(tmp_path / "b.zarr", mode="r")["voxels/charge"]
    assert array.attrs["quantization_nsb"] == 9
    assert np.array_equal(array[: len(images[0].coords)], rounded.image(0, 0, 1).charge)
    sizes = [sum(f.stat().st_size for f in (s.path / "voxels/charge/c").rglob("*") if f.is_file())
             for s in (whole, rounded)]  # fmt: skip
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("bits", [0, 23, -1])
def test_bits_that_no_mantissa_has(tmp_path, bits):
    with pytest.raises(StoreError, match=rf"charge_bits={bits}. Fix: 1 … 22"):
        store_of(tmp_path / "a.zarr", bits, [])
    assert not any(tmp_path.iterdir())
