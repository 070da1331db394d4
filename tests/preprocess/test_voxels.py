"""What the Tiler accepts and refuses, its settings, and truth on voxels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from larstore.errors import ConfigError, InputError
from preprocess.detector import load_detector
from preprocess.truth import truth_at, voxelise_truth
from preprocess.voxels import Tiler


@pytest.fixture(scope="module")
def tiler():
    return Tiler(load_detector("protodune-sp").tpc(1))


def crossing(tiler, ticks=20, y=3000.0, z=1200.0):
    """A waveform in which the wires nearest to (y, z) are lit at every tick."""
    waveform = np.zeros((ticks, len(tiler.tpc.channels)), np.float32)
    for plane in tiler.tpc.planes:
        wire = np.abs(plane.offset_mm - (y * plane.normal[0] + z * plane.normal[1])).argmin()
        waveform[:, plane.column[wire]] = 100.0
    return waveform


def test_a_crossing_lies_where_its_wires_cross(tiler):
    voxels = tiler(crossing(tiler), downsample=(20, 1, 1))
    y, z = tiler.tpc.to_pixels(3000.0, 1200.0)
    assert_allclose(voxels.coords[:, 1:].mean(axis=0), [y, z], atol=3)
    assert_allclose(voxels.charge.sum(axis=0), [2000.0] * 3, rtol=1e-6)
    assert (voxels.live == 7).all()
    assert voxels.lit_samples == 60


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16])
def test_number_types_give_the_same_image(tiler, dtype):
    waveform = crossing(tiler)
    expected, found = tiler(waveform), tiler(np.asfortranarray(waveform.astype(dtype)))
    assert_array_equal(found.coords, expected.coords)
    assert_array_equal(found.charge, expected.charge)


def test_a_short_last_block_keeps_its_charge(tiler):
    voxels = tiler(crossing(tiler, ticks=21))
    assert sorted(set(voxels.coords[:, 0].tolist())) == [0, 1, 2]
    assert_allclose(voxels.charge.sum(axis=0), [2100.0] * 3, rtol=1e-6)


def test_threshold_is_exceeded_not_reached(tiler):
    waveform = crossing(tiler)
    assert len(tiler(waveform, threshold=100.0)) == 0
    assert len(tiler(waveform, threshold=np.nextafter(100.0, 0))) > 0


def test_a_bad_channel_stands_in_for_its_ticks(tiler):
    waveform = crossing(tiler)
    column = int(np.flatnonzero(waveform[0])[0])  # of plane u: the lowest channels
    dark = waveform.copy()
    dark[:, column] = 0.0
    assert len(tiler(dark)) == 0
    voxels = tiler(dark, bad_channels=[[column, 8, 16]])
    assert set(voxels.coords[:, 0].tolist()) == {1}
    assert (voxels.live == 6).all()
    assert_array_equal(voxels.charge[:, 0] * (voxels.live & 1), 0)
    whole = tiler(dark, bad_channels=[column])
    assert set(whole.coords[:, 0].tolist()) == {0, 1, 2}
    assert len(tiler(dark, bad_channels=[column], min_live_planes=3)) == 0


def test_two_bad_planes_are_not_lit_by_one_wire(tiler):
    waveform = crossing(tiler)
    columns = np.flatnonzero(waveform[0])
    waveform[:, columns[:2]] = 0.0
    assert len(tiler(waveform, bad_channels=columns[:2])) == 0
    assert len(tiler(waveform, bad_channels=columns[:2], min_live_planes=1)) > 0


def test_output_grows_beyond_one_slab():
    tiler = Tiler(load_detector("protodune-sp").tpc(1))
    waveform = np.full((3, 2560), 2.0, np.float32)  # a flash: every pixel active
    voxels = tiler(waveform, downsample=(1, 4, 4))
    frame = tiler.tpc.frame
    assert len(voxels) == 3 * -(-frame.n_y // 4) * -(-frame.n_z // 4)
    keys = voxels.coords.astype(np.int64) @ [1 << 32, 1 << 16, 1]
    assert (np.diff(keys) > 0).all()


@pytest.mark.parametrize(
    ("waveform", "says"),
    [
        (np.zeros((5, 7), np.float32), "(5, 7)"),
        (np.zeros(2560, np.float32), "2560"),
        (np.zeros((5, 2560), complex), "complex128"),
        (np.zeros((5, 2560), bool), "bool"),
        (np.full((5, 2560), "x"), "<U1"),
    ],
)
def test_waveforms_of_another_kind_are_refused(tiler, waveform, says):
    with pytest.raises(InputError) as error:
        tiler(waveform)
    assert says in str(error.value)
    assert "Fix:" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_names_tick_and_channel(tiler, value):
    waveform = np.zeros((9, 2560), np.float32)
    waveform[4, 17] = value
    with pytest.raises(InputError, match=r"at tick 104, channel 17"):
        tiler(waveform, first_tick=100)


def test_a_float64_beyond_float32_is_refused(tiler):
    waveform = np.zeros((2, 2560))
    waveform[1, 3] = 1e300
    with pytest.raises(InputError, match=r"1e\+300 at tick 1, channel 3"):
        tiler(waveform)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"downsample": (8, 4)}, "downsample"),
        ({"downsample": (8, 0, 4)}, "downsample"),
        ({"downsample": (8, 1.5, 4)}, "downsample"),
        ({"min_live_planes": 0}, "min_live_planes"),
        ({"min_live_planes": 4}, "min_live_planes"),
        ({"threshold": float("nan")}, "threshold"),
        ({"bad_channels": [[2560, 0, 5]]}, "2560"),
        ({"bad_channels": [-1]}, "-1"),
        ({"bad_channels": [[1.5, 0, 5]]}, "float64"),
        ({"bad_channels": [[1, 2]]}, "(1, 2)"),
    ],
)
def test_settings_out_of_range_are_refused(tiler, settings, says):
    with pytest.raises(ConfigError) as error:
        tiler(np.zeros((1, 2560), np.float32), **settings)
    assert says in str(error.value)


def test_an_axis_beyond_uint16_is_refused_with_the_number(tiler):
    with pytest.raises(InputError, match="65535"):
        tiler(np.zeros((1, 2560), np.float32), downsample=(1, 4, 4), first_tick=65_535)
    assert len(tiler(np.zeros((1, 2560), np.float32), downsample=(1, 4, 4), first_tick=65_534)) == 0


def test_truth_is_summed_sorted_and_cut_to_the_grid():
    points = [[9, 5, 5, 1.0], [8.9, 4, 7.5, 2.0], [0, 0, 0, 4.0], [-1, 0, 0, 8.0], [10, 0, 0, 16.0]]
    coords, value = voxelise_truth(points, (8, 4, 4), (10, 10, 10))
    assert coords.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert value.tolist() == [4.0, 3.0]
    found = truth_at(np.array([[1, 1, 1], [0, 0, 1], [0, 0, 0], [5, 5, 5]], np.uint16), coords, value)
    assert found.tolist() == [3.0, 0.0, 4.0, 0.0]


def test_no_truth_is_zero_everywhere():
    coords, value = voxelise_truth(np.empty((0, 4)), (8, 4, 4), (10, 10, 10))
    assert (coords.shape, value.shape) == ((0, 3), (0,))
    assert truth_at(np.ones((2, 3), np.uint16), coords, value).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("points", [[[1, 2, 3]], [[1, 2, 3, np.nan]], [[np.inf, 2, 3, 1]]])
def test_bad_truth_is_refused(points):
    with pytest.raises(InputError):
        voxelise_truth(points, (8, 4, 4), (10, 10, 10))
