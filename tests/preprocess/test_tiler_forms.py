"""What a waveform comes as does not matter: types, orders, strides, sparse matrices; nor does its length."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from larstore.errors import ConfigError, InputError
from preprocess.scanning import scan
from preprocess.testing import small_detector
from preprocess.tiling import tile_slabs
from preprocess.voxels import Tiler
from preprocess.waveforms import COPIED_ROWS
from tests.preprocess.random_detectors import tpcs
from tests.preprocess.small_events import assert_same, random_waveform


def every_second(waveform):
    """A view of every second row and channel of a larger array whose other values would be lit."""
    larger = np.full((2 * waveform.shape[0], 2 * waveform.shape[1]), 999.0, np.float32)
    larger[::2, ::2] = waveform
    return larger[::2, ::2]


def every_second_row(waveform):
    larger = np.full((2 * waveform.shape[0], waveform.shape[1]), 999.0, np.float32)
    larger[1::2] = waveform
    return larger[1::2]


def read_only(waveform):
    copy = waveform.copy()
    copy.flags.writeable = False
    return copy


def unaligned(waveform):
    """As from a file whose header is not a multiple of 4 bytes."""
    view = np.ndarray(waveform.shape, np.float32, bytearray(waveform.nbytes + 1), offset=1)
    view[...] = waveform
    return view


def duplicates(waveform):
    """As regions of interest that overlap: every value is the sum of two entries."""
    rows, columns = np.nonzero(waveform)
    values = waveform[rows, columns]
    order = np.random.default_rng(0).permutation(2 * len(rows))
    entries = np.concatenate([values - 0.25, np.full_like(values, 0.25)])[order]
    where = np.concatenate([rows, rows])[order], np.concatenate([columns, columns])[order]
    return scipy.sparse.coo_array((entries, where), waveform.shape)


def unsorted_csr(waveform):
    """Rows whose columns descend, with a duplicate each, and zeros that are stored."""
    given = scipy.sparse.csr_array(waveform)
    indices, data = np.repeat(given.indices, 3), np.repeat(given.data, 3)
    data[0::3] *= 0.75
    data[1::3] *= 0.25
    data[2::3] = 0.0
    indptr = 3 * given.indptr
    for begin, end in itertools.pairwise(indptr):
        indices[begin:end], data[begin:end] = indices[begin:end][::-1].copy(), data[begin:end][::-1].copy()
    return scipy.sparse.csr_array((data, indices, indptr), waveform.shape)


FORMS = {
    "float16": lambda w: w.astype(np.float16),
    "float64": lambda w: w.astype(np.float64),
    "long double": lambda w: w.astype(np.longdouble),
    "big-endian": lambda w: w.astype(">f4"),
    "lists": lambda w: w.tolist() or np.empty(w.shape),
    "Fortran": np.asfortranarray,
    "Fortran float64": lambda w: np.asfortranarray(w, np.float64),
    "every second": every_second,
    "every second row": every_second_row,
    "backwards": lambda w: w[::-1, ::-1].copy()[::-1, ::-1],
    "backwards in time": lambda w: w[::-1].copy()[::-1],
    "a part of Fortran": lambda w: np.asfortranarray(np.pad(w, 3, constant_values=9))[3:-3, 3:-3],
    "read-only": read_only,
    "unaligned": unaligned,
    "unaligned Fortran": lambda w: unaligned(w.T.copy()).T,
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_array,
    "coo": scipy.sparse.coo_array,
    "csr matrix": scipy.sparse.csr_matrix,
    "csc matrix": scipy.sparse.csc_matrix,
    "coo matrix": scipy.sparse.coo_matrix,
    "lil": scipy.sparse.lil_array,
    "csr float64": lambda w: scipy.sparse.csr_array(w.astype(np.float64)),
    "duplicates": duplicates,
    "unsorted csr": unsorted_csr,
}
DIGITISED = {
    "int16": lambda w: (4 * w).astype(np.int16),
    "uint16": lambda w: (4 * w).astype(np.uint16),
    "int32 Fortran": lambda w: np.asfortranarray(4 * w, np.int32),
    "int64": lambda w: (4 * w).astype(np.int64),
    "csr of int16": lambda w: scipy.sparse.csr_array((4 * w).astype(np.int16)),
    "float32": lambda w: 4 * w,
}
EVERY = [(name, form, 1.0) for name, form in FORMS.items()] + [(name, f, 0.25) for name, f in DIGITISED.items()]
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tiler(tmp_path_factory):
    """210 channels: three words of 64, and a rest."""
    return Tiler(small_detector(tmp_path_factory.mktemp("small")).tpc(1))


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LARSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(("name", "form", "scale"), EVERY, ids=[row[0] for row in EVERY])
@pytest.mark.parametrize("ticks", [0, 1, 63, 64, 65, 2 * COPIED_ROWS + 7])
def test_every_form_gives_the_same_image(tiler, name, form, scale, ticks):
    waveform = random_waveform(tiler.tpc, ticks, seed=ticks)
    given = form(waveform)
    for first_tick, threads in ((0, 1), (13, 2)):
        expected = tiler(waveform, first_tick=first_tick)
        assert (len(expected) > 100) == (ticks > 1)
        found = tiler(given, first_tick=first_tick, scale=scale, threads=threads)
        assert_same(found, expected)


@pytest.mark.parametrize("order", "CF")
def test_a_mapped_file(tiler, tmp_path, order):
    waveform = random_waveform(tiler.tpc, 200, seed=1)
    np.save(tmp_path / "waveform.npy", np.asarray(waveform, order=order))
    mapped = np.load(tmp_path / "waveform.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert_same(tiler(mapped), tiler(waveform))


@SLOW
@given(
    tpc=tpcs(),
    ticks=st.integers(0, 150),
    seed=st.integers(0, 99),
    first_tick=st.integers(0, 40),
    slab=st.integers(1, 70),
    row=st.sampled_from(EVERY),
)
def test_small_detectors_short_events_odd_slabs(own_cache, tpc, ticks, seed, first_tick, slab, row):
    _, form, scale = row
    tiler, waveform = Tiler(tpc), random_waveform(tpc, ticks, seed, share=0.3)
    options = {"downsample": (slab, 2, 3), "first_tick": first_tick}
    assert_same(tiler(form(waveform), scale=scale, **options), tiler(waveform, **options))


@SLOW
@given(cuts=st.lists(st.integers(0, 30), max_size=4), order=st.sampled_from("CF"), seed=st.integers(0, 99))
def test_pieces_cut_between_slabs_are_the_whole(tiler, cuts, order, seed):
    """Each piece with the tick of its first row, one image after the other."""
    waveform = np.asarray(random_waveform(tiler.tpc, 240, seed), order=order)
    ends = [0, *sorted(8 * cut for cut in cuts), 240]
    pieces = [tiler(waveform[a:b], first_tick=a) for a, b in itertools.pairwise(ends)]
    whole = tiler(waveform)
    for name in ("coords", "charge", "live"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(whole, name))
    assert sum(p.lit_samples for p in pieces) == whole.lit_samples


def test_no_ticks_and_no_light_are_empty_images(tiler):
    for ticks, form in itertools.product((0, 5), (np.asarray, np.asfortranarray, scipy.sparse.csr_array)):
        voxels = tiler(form(np.zeros((ticks, 210), np.float32)))
        assert voxels.coords.shape == (0, 3)
        assert voxels.charge.shape == (0, 3)
        assert voxels.live.shape == (0,)
        assert (voxels.coords.dtype, voxels.charge.dtype, voxels.live.dtype) == (np.uint16, np.float32, np.uint8)
        assert voxels.lit_samples == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "form",
    [np.asarray, np.asfortranarray, lambda w: w.astype(np.float64), every_second, scipy.sparse.csr_array],
    ids=["C", "F", "float64", "strided", "csr"],
)
def test_not_finite_is_found_wherever_it_is(tiler, form, threads, value):
    """First and last of a word of 64, in the rest, among lit samples and dark ones, along ticks and channels."""
    lit = random_waveform(tiler.tpc, 130, seed=3)
    for waveform, row, column in itertools.product(
        (lit, np.zeros_like(lit)), (0, 63, 64, 127, 128, 129), (0, 63, 64, 191, 192, 209)
    ):
        wrong = waveform.copy()
        wrong[row, column] = value
        with pytest.raises(InputError) as error:
            tiler(form(wrong), threads=threads, first_tick=50)
        assert f"is {value} at tick {50 + row}, channel {column} (column {column})" in str(error.value)
        assert "Fix:" in str(error.value)
    assert_same(tiler(lit, threads=threads), tiler(lit))


@SLOW
@given(
    where=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 209)), min_size=1, max_size=5),
    threshold=st.sampled_from([-1e38, -1.0, 0.0, 1.0, 1e38]),
    order=st.sampled_from("CF"),
    threads=st.integers(1, 3),
)
def test_one_of_several_is_named_whatever_the_threshold(tiler, where, threshold, order, threads):
    waveform = np.asarray(random_waveform(tiler.tpc, 100, seed=4), order=order)
    for row, column in where:
        waveform[row, column] = np.nan
    with pytest.raises(InputError) as error:
        tiler(waveform, threshold, threads=threads)
    assert any(f"tick {row}, channel {column} " in str(error.value) for row, column in where)


@pytest.mark.parametrize("threshold", [-1e39, -1e38, -1.0, np.nextafter(0.0, -1.0)])
def test_below_zero_all_samples_are_lit(tiler, threshold):
    """Also those that a sparse matrix does not hold."""
    waveform = random_waveform(tiler.tpc, 70, seed=5)
    voxels = tiler(waveform, threshold)
    assert voxels.lit_samples == waveform.size
    assert_same(tiler(scipy.sparse.csr_array(waveform), threshold), voxels)


def test_a_threshold_beyond_float32_lights_nothing(tiler):
    assert tiler(np.full((3, 210), np.finfo(np.float32).max), 1e39).lit_samples == 0


@pytest.mark.parametrize("scale", [0, np.nan, np.inf, -np.inf, 1e-60, 1e60])
def test_a_scale_that_loses_all_is_refused(tiler, scale):
    with pytest.raises(ConfigError, match=r"scale = .*Fix:"):
        tiler(np.ones((3, 210), np.int16), scale=scale)


def test_a_negative_scale_turns_the_signal_round(tiler):
    waveform = random_waveform(tiler.tpc, 40, seed=6)
    assert_same(tiler(-waveform, scale=-1.0), tiler(waveform))


def test_integers_too_large_after_scaling_are_refused(tiler):
    waveform = np.zeros((4, 210), np.int32)
    waveform[2, 5] = 7
    with pytest.raises(InputError, match="at tick 2, channel 5"):
        tiler(waveform, scale=1e38)


@pytest.mark.parametrize("name", ["min_live_planes", "max_voxels", "threads", "first_tick"])
def test_whole_numbers_of_any_type(tiler, name):
    waveform = random_waveform(tiler.tpc, 20, seed=7)
    expected = tiler(waveform, **{name: 3 if name != "max_voxels" else 10**6})
    for kind in (np.int32, np.uint64, float):
        assert_same(tiler(waveform, **{name: kind(3 if name != "max_voxels" else 10**6)}), expected)
    with pytest.raises((ConfigError, InputError), match=rf"{name} = 1\.5"):
        tiler(waveform, **{name: 1.5})


def test_one_compiled_kernel_serves_all_forms(tiler):
    """A second signature would be compiled for some 20 s, in every process that meets it."""
    waveform = random_waveform(tiler.tpc, 150, seed=8)
    for _, form, scale in EVERY:
        tiler(form(waveform), scale=scale)
    for options in (
        {"bad_channels": [3, 4]},
        {"bad_channels": np.array([[3, 0, 9]], np.uint16)},
        {"first_tick": np.int32(3), "min_live_planes": np.uint8(1), "downsample": np.array([8, 4, 4], np.int16)},
        {"threshold": np.float16(1), "threads": 2, "max_voxels": 10**6},
        {"downsample": (1, 1, 1)},
    ):
        tiler(waveform, **options)
    assert len(tile_slabs.signatures) == 1
    assert len(scan.signatures) == 1


class Spied(scipy.sparse.csr_array):
    """Notes how much is made dense."""

    dense: list[int] = []  # noqa: RUF012 - shared with its slices on purpose

    def toarray(self, *arguments, **options):
        self.dense.append(self.shape[0])
        return super().toarray(*arguments, **options)

    def todense(self, *arguments, **options):
        raise AssertionError("made dense")

    def __array__(self, *arguments, **options):
        raise AssertionError("made dense")


@pytest.mark.parametrize("slab", [8, 50])
def test_a_sparse_waveform_is_made_dense_in_pieces_only(tiler, slab):
    waveform = random_waveform(tiler.tpc, 1000, seed=9, share=0.02)
    Spied.dense.clear()
    found = tiler(Spied(waveform), downsample=(slab, 4, 4))
    assert sum(Spied.dense) == 1000
    assert max(Spied.dense) <= COPIED_ROWS + slab
    assert_same(found, tiler(waveform, downsample=(slab, 4, 4)))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_a_sparse_waveform_costs_no_dense_memory(tiler, kind):
    ticks = 60_000  # 50 MB as float32
    random = np.random.default_rng(10)
    where = random.integers(0, ticks, 3000), random.integers(0, 210, 3000)
    waveform = scipy.sparse.coo_array((np.full(3000, 9, np.int16), where), (ticks, 210)).asformat(kind)
    tiler(waveform[:9] if kind != "coo" else waveform)
    tracemalloc.start()
    tiler(waveform)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10e6


def test_a_masked_array_is_refused(tiler):
    """Its mask would be lost without a word."""
    waveform = np.ma.masked_less(random_waveform(tiler.tpc, 10, seed=1, share=0.1), 0.0)
    with pytest.raises(InputError, match=r"masked array\. Fix: "):
        tiler(waveform)
