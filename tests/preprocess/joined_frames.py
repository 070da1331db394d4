"""What a joined frame must be for any TPCs, and made-up TPCs to try it with."""

import numpy as np
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from larstore.geometry import WIRE_COLUMNS, Geometry, TpcGeometry
from preprocess.joining.frame import joined_frame


@st.composite
def geometries(draw):
    """Two to five TPCs of any place, size and drift that share pixels, tick and drift speed."""
    shared = {
        "planes": ("u", "v", "w"),
        "pixel_mm": draw(st.sampled_from([2.0, 3.0, 4.67])),
        "tick_us": draw(st.sampled_from([0.5, 0.512])),
        "drift_speed_mm_us": draw(st.sampled_from([1.565, 1.6])),
    }
    numbers = draw(st.lists(st.integers(0, 20), min_size=2, max_size=5, unique=True))
    tpcs = {}
    for number in numbers:
        tpcs[number] = TpcGeometry(
            number=number,
            anode_x_mm=draw(st.sampled_from([-3587.0, -100.0, 0.0, 33.3, 3587.0])),
            drift_sign=draw(st.sampled_from([-1, 1])),
            drift_length_mm=1000.0,
            tick_zero_drift=draw(st.sampled_from([0.0, 20.0, 500.0])),
            n_ticks=draw(st.integers(1, 300)),
            origin_y_mm=draw(st.floats(-1000, 1000)),
            origin_z_mm=draw(st.floats(-1000, 1000)),
            n_y=draw(st.integers(1, 60)),
            n_z=draw(st.integers(1, 60)),
            **shared,
        )
    return of_tpcs(tpcs)


def of_tpcs(tpcs):
    """A geometry of these TPCs, without wires."""
    wires = {name: np.empty((0, 3) if name in ("tail", "head") else 0, dtype) for name, dtype in WIRE_COLUMNS.items()}
    return Geometry("made up", wires, tpcs)


def centres(frame, coords, steps, origin=(0, 0, 0)):
    """(n, 3) mm where a TPC's voxels are, by its own definition."""
    ticks, y, z = ((np.asarray(coords, np.float64) - origin + 0.5) * steps).T
    x = (ticks - frame.tick_zero_drift) * frame.tick_us * frame.drift_speed_mm_us
    return np.column_stack([
        frame.anode_x_mm + frame.drift_sign * x,
        frame.origin_y_mm + y * frame.pixel_mm,
        frame.origin_z_mm + z * frame.pixel_mm,
    ])  # fmt: skip


def voxel_mm(frame, steps):
    """(3,) size of a voxel."""
    return np.array([frame.tick_us * frame.drift_speed_mm_us, frame.pixel_mm, frame.pixel_mm]) * steps


def corners(frame, steps):
    """(8, 3) the outermost voxels of a TPC's box and read-out."""
    most = [-(-n // step) - 1 for n, step in zip((frame.n_ticks, frame.n_y, frame.n_z), steps, strict=True)]
    return np.array([[x, y, z] for x in (0, most[0]) for y in (0, most[1]) for z in (0, most[2])], np.uint16)


def assert_right(geometry, tpcs, steps):
    """Corners fill the frame from 0 to its shape; each voxel is placed within half a voxel of where it is."""
    frame = joined_frame(geometry, tpcs, steps)
    assert frame.tpcs == tuple(sorted(tpcs))
    assert joined_frame(geometry, tpcs[::-1], steps) == frame
    first = geometry.tpcs[frame.tpcs[0]]
    low, high = [], []
    for number in frame.tpcs:
        tpc = geometry.tpcs[number]
        coords = corners(tpc, steps)
        places = frame.places(number, coords)
        low.append(places.min(axis=0))
        high.append(places.max(axis=0))
        found = centres(first, places, steps, frame.origins[0])
        error = np.abs(found - centres(tpc, coords, steps)) / voxel_mm(tpc, steps)
        assert (error <= 0.5 + 1e-5).all()
        if number == frame.tpcs[0]:
            assert_allclose(error, 0, atol=1e-9)
    assert np.min(low, axis=0).tolist() == [0, 0, 0]
    assert (np.max(high, axis=0) + 1).tolist() == list(frame.shape)
    return frame
