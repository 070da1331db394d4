"""The kernels against the definition of tiling, written out in plain Python, on small random detectors."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from preprocess.voxels import Tiler
from tests.preprocess.polygons import part_below, polygon_area
from tests.preprocess.random_detectors import PIXEL, tpcs


def strip_share(y, z, pixel, normal, low, high, begin=-math.inf, end=math.inf):
    """Share of the pixel with lower corner (y, z) on the strip."""
    ny, nz = normal
    shape = [(y, z), (y, z + pixel), (y + pixel, z + pixel), (y + pixel, z)]
    for a, b, level in ((ny, nz, high), (-ny, -nz, -low), (nz, -ny, end), (-nz, ny, -begin)):
        if level < math.inf:
            shape = part_below(shape, a, b, level)
    return polygon_area(shape) / pixel**2 if len(shape) > 2 else 0.0


def tile(areas, waveform, threshold, downsample, bad, min_live, first_tick=0):
    """``areas[pixel][plane][column]`` in thousandths (column "none" where no wire is) -> {voxel: ([charge], live)}."""
    n_planes = len(next(iter(areas.values())))
    voxels = {}
    for row, values in enumerate(waveform.tolist()):
        tick = first_tick + row
        dead = {column for column, begin, end in bad if begin <= tick < end}
        lit = {column for column, value in enumerate(values) if value > threshold and column not in dead}
        active = []
        for pixel, planes in areas.items():
            real = [any(column in lit for column in plane) for plane in planes]
            stand_in = [
                "none" in plane or (n_planes > 2 and any(column in dead for column in plane)) for plane in planes
            ]
            if all(r or s for r, s in zip(real, stand_in, strict=True)) and sum(real) >= min_live:
                active.append(pixel)
        overlap = {}
        for pixel in active:
            for plane in areas[pixel]:
                for column, area in plane.items():
                    overlap[column] = overlap.get(column, 0) + area
        for y, z in active:
            key = (tick // downsample[0], y // downsample[1], z // downsample[2])
            charge, live = voxels.setdefault(key, ([Fraction(0)] * n_planes, [True] * n_planes))
            for p, plane in enumerate(areas[y, z]):
                for column, area in plane.items():
                    if column == "none" or column in dead:
                        live[p] = False
                    else:
                        charge[p] += Fraction(values[column]) / overlap[column] * area
    return voxels


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pixel_areas(tiler):
    frame = tiler.tpc.frame
    areas = {}
    for y in range(frame.n_y):
        for z in range(frame.n_z):
            planes_here = [{} for _ in tiler.tpc.planes]
            for plane, column, area in tiler.overlaps.pixel(frame.n_z, y, z):
                planes_here[plane]["none" if column == len(tiler.tpc.channels) else column] = area
            areas[y, z] = planes_here
    return areas


SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def expected_strips(plane):
    """(column, low, high, begin, end) of each wire, cut where another channel continues its line."""
    along = np.array([plane.normal[1], -plane.normal[0]])
    strips = []
    for wire, (offset, column) in enumerate(zip(plane.offset_mm, plane.column.tolist(), strict=True)):
        begin, end = -math.inf, math.inf
        middle = (plane.tail[wire, 1:] + plane.head[wire, 1:]) @ along / 2
        ends = plane.tail[wire, 1:] @ along, plane.head[wire, 1:] @ along
        line = [other for other in np.flatnonzero(abs(plane.offset_mm - offset) < 0.1) if other != wire]
        if any(plane.column[other] == column and other < wire for other in line):
            continue  # the two halves of one channel are one strip
        for other in line:
            if plane.column[other] != column:
                if (plane.tail[other, 1:] + plane.head[other, 1:]) @ along / 2 > middle:
                    end = max(ends)
                else:
                    begin = min(ends)
        strips.append((column, offset - plane.pitch_mm / 2, offset + plane.pitch_mm / 2, begin, end))
    return strips


@SLOW
@given(tpc=tpcs())
def test_areas_are_the_polygons_areas(tpc):
    for (y, z), found in pixel_areas(Tiler(tpc)).items():
        for plane, areas in zip(tpc.planes, found, strict=True):
            expected = dict.fromkeys(areas, 0.0)
            for column, *bounds in expected_strips(plane):
                share = strip_share(y * PIXEL, z * PIXEL, PIXEL, plane.normal, *bounds)
                expected[column] = expected.get(column, 0.0) + 1000 * share
            expected["none"] = 1000 - sum(value for key, value in expected.items() if key != "none")
            for column, value in expected.items():
                # Borders are rounded to a thousandth each.
                assert abs(areas.get(column, 0) - value) <= 2.001
            assert abs(sum(areas.values()) - 1000) <= 2


@SLOW
@given(
    tpc=tpcs(),
    data=st.data(),
    threshold=st.sampled_from([0.0, 1.0, 2.5]),
    downsample=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9)),
    min_live=st.integers(1, 3),
    first_tick=st.integers(0, 9),
)
def test_voxels_are_those_of_the_definition(tpc, data, threshold, downsample, min_live, first_tick):
    min_live = min(min_live, len(tpc.planes))
    n_columns = len(tpc.channels)
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    waveform = np.where(random.random((7, n_columns)) < 0.4, random.normal(1.5, 3.0, (7, n_columns)), 0.0)
    waveform = waveform.astype(np.float32)
    bad = data.draw(
        st.lists(st.tuples(st.integers(0, n_columns - 1), st.integers(0, 12), st.integers(3, 20)), max_size=4)
    )
    tiler = Tiler(tpc)
    voxels = tiler(waveform, threshold, downsample, bad, min_live, first_tick)
    expected = tile(pixel_areas(tiler), waveform, threshold, downsample, bad, min_live, first_tick)
    assert [tuple(row) for row in voxels.coords.tolist()] == sorted(expected)
    scale = float(np.abs(waveform).sum())
    for row, key in enumerate(sorted(expected)):
        charge, live = expected[key]
        assert_allclose(voxels.charge[row], [float(q) for q in charge], rtol=1e-6, atol=1e-7 * scale)
        assert voxels.live[row] == sum(1 << p for p, alive in enumerate(live) if alive)


@SLOW
@given(tpc=tpcs(), seed=st.integers(0, 2**32 - 1), min_live=st.integers(1, 2))
def test_bad_channels_beside_lit_ones(tpc, seed, min_live):
    random = np.random.default_rng(seed)
    n_columns = len(tpc.channels)
    waveform = np.where(random.random((3, n_columns)) < 0.3, 5.0, 0.0).astype(np.float32)
    bad = [(column, 0, 3) for column in np.flatnonzero(random.random(n_columns) < 0.3).tolist()]
    tiler = Tiler(tpc)
    voxels = tiler(waveform, bad_channels=bad, downsample=(1, 2, 2), min_live_planes=min_live)
    expected = tile(pixel_areas(tiler), waveform, 1.0, (1, 2, 2), bad, min_live)
    assert [tuple(row) for row in voxels.coords.tolist()] == sorted(expected)
    lives = [sum(1 << p for p, alive in enumerate(expected[key][1]) if alive) for key in sorted(expected)]
    assert voxels.live.tolist() == lives


@SLOW
@given(tpc=tpcs(), seed=st.integers(0, 2**32 - 1))
def test_charge_is_kept_and_light_only_adds(tpc, seed):
    random = np.random.default_rng(seed)
    n_columns = len(tpc.channels)
    waveform = (random.normal(1, 3, (5, n_columns)) * (random.random((5, n_columns)) < 0.5)).astype(np.float32)
    tiler = Tiler(tpc)
    areas = pixel_areas(tiler)
    voxels = tiler(waveform, downsample=(1, 1, 1))
    columns = {plane.name: set(plane.column.tolist()) for plane in tpc.planes}
    for tick in range(len(waveform)):
        here = voxels.coords[:, 0] == tick
        active = [areas[y, z] for _, y, z in voxels.coords[here].tolist()]
        for p, plane in enumerate(tpc.planes):
            seen = {c for pixel in active for c in pixel[p] if c in columns[plane.name]}
            total = sum(float(waveform[tick, c]) for c in seen)
            assert math.isclose(float(voxels.charge[here, p].sum()), total, rel_tol=1e-5, abs_tol=1e-3)
    before = set(map(tuple, voxels.coords.tolist()))
    waveform[random.integers(5), random.integers(n_columns)] = 9.0
    assert before <= set(map(tuple, tiler(waveform, downsample=(1, 1, 1)).coords.tolist()))


@SLOW
@given(tpc=tpcs(), seed=st.integers(0, 2**32 - 1), blocks=st.integers(1, 5))
def test_a_shift_by_blocks_shifts_the_image(tpc, seed, blocks):
    random = np.random.default_rng(seed)
    waveform = random.normal(0, 3, (6, len(tpc.channels))).astype(np.float32)
    tiler = Tiler(tpc)
    here = tiler(waveform, downsample=(3, 2, 2))
    later = tiler(waveform, downsample=(3, 2, 2), first_tick=3 * blocks)
    shifted = here.coords.astype(np.int64) + np.array([blocks, 0, 0])
    assert np.array_equal(shifted, later.coords)
    assert np.array_equal(here.charge, later.charge)
