"""The common frame: never negative, the true gaps, right to half a voxel, for any TPCs of any detector."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore.errors import ConfigError
from larstore.testing import make_geometry
from preprocess.detector import load_detector
from preprocess.joining.frame import joined_frame, joined_geometry
from tests.preprocess.joined_frames import assert_right, geometries, of_tpcs

STEPS = (8, 4, 4)
WITH_WIRES = ("protodune-hd", "protodune-vd", "microboone", "dune10kt-1x2x6")
steps = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))


def changed(geometry, number, **values):
    """The geometry with other values of one TPC."""
    return of_tpcs(geometry.tpcs | {number: geometry.tpcs[number].model_copy(update=values)})


@settings(max_examples=300, deadline=None)
@given(geometry=geometries(), downsample=steps, data=st.data())
def test_any_list_of_any_geometry(geometry, downsample, data):
    numbers = data.draw(st.permutations(sorted(geometry.tpcs)))
    assert_right(geometry, numbers[: data.draw(st.integers(2, len(numbers)))], downsample)


@pytest.mark.parametrize("name", ["protodune-sp", "protodune-sp-2021"])
def test_protodune(name):
    geometry = load_detector(name).geometry()
    along_z = {tpcs: assert_right(geometry, list(tpcs), STEPS) for tpcs in ((1, 5, 9), (2, 6, 10), (9, 5, 1), (5, 9))}
    for tpcs, frame in along_z.items():  # neighbours that drift alike: ticks are left as they are
        assert frame.mirrored == (False,) * len(tpcs)
        assert [origin[0] for origin in frame.origins] == [0] * len(tpcs)
        z = [origin[2] for origin in frame.origins]
        shift = 2320.0 if name == "protodune-sp-2021" else None
        assert z[0] == 0
        assert shift is None or z == [round(shift / 8.0) * i for i in range(len(tpcs))]
    both = assert_right(geometry, [2, 1], STEPS)
    assert both == assert_right(geometry, [1, 2], STEPS)
    assert both.mirrored == (False, True)
    assert both.shape[0] > 6000 // 8  # wider than one read-out, narrower than two: they meet behind the cathode
    assert both.shape[0] < 2 * 6000 // 8
    everything = assert_right(geometry, [1, 2, 5, 6, 9, 10], STEPS)
    assert everything.mirrored == (False, True) * 3


@pytest.mark.parametrize("name", WITH_WIRES)
def test_all_live_tpcs_of_every_detector(name):
    if "LARSTORE_TEST_DATA" not in os.environ:
        pytest.skip("LARSTORE_TEST_DATA is not set: no wires file of this detector")
    detector = load_detector(name)
    live = [number for number, tpc in detector.tpcs.items() if tpc.live]
    if len(live) > 1:
        assert_right(detector.geometry(), live, STEPS)
        assert_right(detector.geometry(), live, (4, 3, 5))


def test_the_gap_is_rounded_to_the_nearest_voxel():
    geometry = make_geometry((1, 3))
    for distance, voxels in ((2320.0, 290), (2323.9, 290), (2324.1, 291), (-2320.0, -290)):
        frame = joined_frame(changed(geometry, 3, origin_z_mm=distance), [1, 3], STEPS)
        assert frame.origins[1][2] - frame.origins[0][2] == voxels
        assert min(origin[2] for origin in frame.origins) == 0


def test_drift_to_both_sides_meets_at_the_cathode():
    """Two anodes 2 m apart, each with its last drift tick at the cathode: x of the second one counts down."""
    geometry = changed(make_geometry((1, 2)), 2, anode_x_mm=1900.0, drift_sign=-1)
    frame = joined_frame(geometry, [1, 2], STEPS)
    speed = 0.8  # mm a tick
    ticks = np.array([20.0 + 999.9 / speed, 20.0 + 1000.1 / speed])  # seen from TPC 1: just before, just behind
    from_one = ticks // 8
    from_two = frame.origins[1][0] - (20.0 + np.array([1000.1, 999.9]) / speed) // 8
    assert np.abs(from_one + frame.origins[0][0] - from_two).max() <= 1
    longer = joined_frame(geometry, [1, 2], STEPS, ticks=4000)
    assert longer.origins[0][0] > 0, "the longer window of TPC 2 begins before that of TPC 1"
    assert longer.shape[0] == 4000 // 8 + longer.origins[0][0]
    assert frame.origins[1][0] == longer.origins[1][0] - longer.origins[0][0], "their distance is the same"


def test_the_geometry_says_where_they_are():
    geometry = changed(make_geometry((1, 3, 5)), 3, origin_z_mm=-512.0)
    frame = joined_frame(geometry, [3, 1], STEPS)
    joined = joined_geometry(geometry, frame)
    assert joined.joined == [1, 3]
    assert geometry.joined == []
    assert joined.tpcs[1].joined_origin == (0, 0, 64)
    assert joined.tpcs[3].joined_origin == (0, 0, 0)
    assert joined.tpcs[5] == geometry.tpcs[5]
    assert joined.hash != geometry.hash
    with pytest.raises(ConfigError, match="joined already"):
        joined_frame(joined, [1, 3], STEPS)


def test_without_a_drift_speed_only_what_needs_none():
    unknown = {"drift_speed_mm_us": None, "tick_us": None, "tick_zero_drift": None, "n_ticks": 0}
    geometry = make_geometry((1, 3))
    for number in (1, 3):
        geometry = changed(geometry, number, **unknown)
    frame = joined_frame(changed(geometry, 3, origin_z_mm=80.0), [1, 3], STEPS)
    assert frame.origins == ((0, 0, 0), (0, 0, 10))
    assert frame.shape == (0, 64, 74)
    with pytest.raises(ConfigError, match=r"no drift speed.*TPCs 1 and 3 along the drift"):
        joined_frame(changed(geometry, 3, anode_x_mm=5.0), [1, 3], STEPS)
    both = changed(make_geometry((1, 2)), 2, drift_sign=-1, n_ticks=0)
    with pytest.raises(ConfigError, match=r"how many ticks TPC 2 has.*--ticks N"):
        joined_frame(both, [1, 2], STEPS)
    assert joined_frame(both, [1, 2], STEPS, ticks=100).shape[0] > 0


@pytest.mark.parametrize(
    ("tpcs", "words"),
    [
        ([1], "--tpcs 1: cannot be joined. Fix: two or more TPCs, each once"),
        ([3, 1, 3], "--tpcs 3,1,3: cannot be joined"),
        ([1, 7], "testing has no TPC 7. Fix: choose among 1,3,5"),
        ([1, 5], "pixel_mm of TPC 1 is 2.0, of TPC 5 3.0"),
    ],
)
def test_lists_that_make_no_sense(tpcs, words):
    geometry = make_geometry((1, 3, 5))
    geometry.tpcs[5] = geometry.tpcs[5].model_copy(update={"pixel_mm": 3.0})
    with pytest.raises(ConfigError) as error:
        joined_frame(geometry, tpcs, STEPS)
    assert words in str(error.value)


def test_coordinates_that_are_too_large_are_refused_with_their_number():
    geometry = make_geometry((1, 3))
    last = 8.0 * (65_535 - 64)
    assert joined_frame(changed(geometry, 3, origin_z_mm=last), [1, 3], STEPS).shape[2] == 65_535
    with pytest.raises(
        ConfigError, match=r"TPCs 1,3 of made up reach voxel 159, 63, 65535 in x, y, z, more than 65534"
    ):
        joined_frame(changed(geometry, 3, origin_z_mm=last + 8.0), [1, 3], STEPS)
