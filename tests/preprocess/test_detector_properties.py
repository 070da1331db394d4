"""Properties of the pixel areas on real wires: every strip's area, every pixel's sum, every channel."""

import math
import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from preprocess.cache import overlaps_of
from preprocess.detector import load_detector
from preprocess.detector.build import even_spacing
from preprocess.testing.shares import all_shares

pytestmark = pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")

# Faces of every kind: both sides of an anode, wrapped wires, strips, the anode whose coordinates are rounded to 0.1 mm.
FACES = [
    ("protodune-sp", 1),
    ("protodune-sp", 2),
    ("protodune-sp-2021", 1),
    ("protodune-hd", 1),
    ("protodune-hd", 2),
    ("protodune-vd", 0),
    ("protodune-vd", 1),
    ("protodune-vd", 14),
    ("microboone", 0),
    ("dune10kt-1x2x6", 0),
    ("dune10kt-1x2x6", 1),
    ("dune10kt-1x2x6", 23),
]


def box_of(tpc):
    frame = tpc.frame
    return np.array(
        [
            [frame.origin_y_mm, frame.origin_y_mm + frame.n_y * frame.pixel_mm],
            [frame.origin_z_mm, frame.origin_z_mm + frame.n_z * frame.pixel_mm],
        ]
    )


def line_inside(plane, offset, box):
    """(wires, 2) positions along the lines where they enter and leave the box; NaN where they miss it."""
    normal = np.array(plane.normal)
    along = np.array([normal[1], -normal[0]])
    low, high = np.full(len(offset), -np.inf), np.full(len(offset), np.inf)
    for axis in (0, 1):
        if abs(along[axis]) < 1e-6:
            low[(offset * normal[axis] < box[axis, 0]) | (offset * normal[axis] > box[axis, 1])] = np.inf
            continue
        ends = (box[axis][:, None] - offset * normal[axis]) / along[axis]
        low, high = np.maximum(low, ends.min(axis=0)), np.minimum(high, ends.max(axis=0))
    return np.where(low < high, [low, high], np.nan).T


# The rest is as these, and takes long.
QUICK = {("protodune-sp", 1), ("protodune-hd", 1), ("protodune-vd", 0), ("dune10kt-1x2x6", 0)}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(face, id=f"{face[0]}-{face[1]}", marks=[] if face in QUICK else pytest.mark.slow) for face in FACES
    ],
)
def face(request):
    """A TPC and all areas of its pixels."""
    name, number = request.param
    tpc = load_detector(name).tpc(number)
    return tpc, all_shares(overlaps_of(tpc), tpc.frame.n_z)


def test_a_strip_is_its_length_times_the_pitch(face):
    tpc, shares = face
    box, n_columns = box_of(tpc), len(tpc.channels)
    checked = 0
    for index, plane in enumerate(tpc.planes):
        mine = shares.plane == index
        area = np.bincount(shares.column[mine], shares.area[mine], n_columns + 1) * tpc.frame.pixel_mm**2 / 1000
        # A strip that touches no corner of the face: both borders cross the same two sides as the centre line.
        half = plane.pitch_mm / 2
        inside = [line_inside(plane, plane.offset_mm + shift, box) for shift in (-half, 0.0, half)]
        lengths = np.array([np.nan_to_num(ends[:, 1] - ends[:, 0]) for ends in inside])
        slanted = np.abs(lengths[0] + lengths[2] - 2 * lengths[1]) > 1e-6 * lengths.max()
        whole = np.isfinite(inside[0]).all(axis=1) & np.isfinite(inside[2]).all(axis=1) & ~slanted
        # Another channel may continue a wire's line: then it ends with its segment.
        along = np.array([plane.normal[1], -plane.normal[0]])
        ends = np.sort(np.stack([p[:, 1:] @ along for p in (plane.tail, plane.head)]), axis=0)
        lines, line = np.unique(plane.offset_mm.round(3), return_inverse=True)
        alone = np.bincount(line, minlength=len(lines))[line] == 1
        cut = np.minimum(inside[1][:, 1], ends[1]) - np.maximum(inside[1][:, 0], ends[0])
        length = np.where(alone, lengths[1], cut)
        wanted = np.bincount(plane.column, weights=np.nan_to_num(length) * plane.pitch_mm, minlength=len(area))
        touched = np.bincount(plane.column, weights=~whole, minlength=len(area)) > 0
        columns = np.setdiff1d(np.unique(plane.column), np.flatnonzero(touched))
        assert_allclose(area[columns], wanted[columns], rtol=0.005)
        checked += len(columns)
    assert checked > 0.9 * len(np.unique(np.concatenate([plane.column for plane in tpc.planes])))


def test_pixels_are_covered_once_and_none_is_where_no_strip_is(face):
    tpc, shares = face
    frame = tpc.frame
    assert shares.y.max() < frame.n_y
    assert shares.z.max() < frame.n_z
    assert shares.area.min() > 0
    pixel = shares.y.astype(np.int64) * frame.n_z + shares.z
    for index, plane in enumerate(tpc.planes):
        mine = shares.plane == index
        sums = np.bincount(pixel[mine], shares.area[mine], frame.n_y * frame.n_z)
        assert (np.abs(sums - 1000) <= 2).all()  # thousandths: rounding of up to four strips
        # NONE has an area only where the pixel reaches beyond the outermost strips.
        none = mine & (shares.column == len(tpc.channels))
        place = np.column_stack(
            [
                frame.origin_y_mm + frame.pixel_mm * shares.y[none],
                frame.origin_z_mm + frame.pixel_mm * shares.z[none],
            ]
        )
        corner = place @ plane.normal
        reach = frame.pixel_mm * np.array(plane.normal)
        low, high = corner + np.minimum(reach, 0).sum(), corner + np.maximum(reach, 0).sum()
        half = plane.pitch_mm / 2
        beyond = (low < plane.offset_mm[0] - half) | (high > plane.offset_mm[-1] + half)
        assert beyond.all()


@pytest.mark.parametrize(
    "name", ["protodune-sp", "protodune-hd", "protodune-vd", "microboone", "dune10kt-1x2x6"]
)  # fmt: skip
def test_every_channel_appears(name):
    detector = load_detector(name)
    anode = min(tpc.anode for tpc in detector.tpcs.values())
    faces = [tpc for tpc in detector.tpcs.values() if tpc.anode == anode]
    seen = np.zeros(len(faces[0].channels) + 1, bool)
    for tpc in faces:
        seen[overlaps_of(tpc).entry_column.clip(max=len(seen) - 1)] = True
    assert seen[:-1].all()


@pytest.mark.parametrize(
    ("name", "live", "partners", "length_mm"),
    [
        ("protodune-sp", {1, 2, 5, 6, 9, 10}, [], 3584.63),
        ("protodune-hd", {1, 2, 5, 6}, [], 3520.60),
        ("protodune-vd", set(range(16)), [0], 3389.7),
        ("microboone", {0}, [], 2548.0),
        ("dune10kt-1x2x6", set(range(24)), [0], 3589.63),
    ],
)
def test_live_faces_and_their_partners(name, live, partners, length_mm):
    detector = load_detector(name)
    assert {number for number, tpc in detector.tpcs.items() if tpc.live} == live
    tpc = detector.tpc(1) if 1 in live else detector.tpc(0)
    assert [other.number for other in detector.partners(tpc)] == partners
    assert tpc.frame.drift_length_mm == pytest.approx(length_mm, abs=0.01)


def test_only_the_vertical_drift_is_upright():
    assert load_detector("protodune-vd").tpc(3).up == (1.0, 0.0, 0.0)
    assert load_detector("dune10kt-1x2x6").tpc(3).up == (0.0, 1.0, 0.0)


def test_wires_with_rounded_coordinates_go_back_to_equal_steps():
    rng = np.random.default_rng(3)
    exact = 11.3 + 4.667 * np.concatenate([np.arange(40), np.arange(60, 900)])  # a gap stays a gap
    shuffled = rng.permutation(exact)
    assert_allclose(even_spacing(shuffled.round(1)), shuffled, atol=0.02)
    uneven = exact + 0.1 * rng.standard_normal(len(exact))
    assert_array_equal(even_spacing(uneven), uneven)
    assert_array_equal(even_spacing(np.full(3, 2.0)), np.full(3, 2.0))
    assert math.isclose(even_spacing(np.array([1.0, 3.0]))[1], 3.0)
