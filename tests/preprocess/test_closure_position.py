"""A voxel is where the charge was: points and lines of charge come back at their place, on every detector."""

import os
from functools import cache

import numpy as np
import pytest

import larstore
from larstore.records import ImageRecord
from larstore.testing import add_images
from preprocess.closure.events import entry
from preprocess.closure.responses import response
from preprocess.detector import load_detector
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import box_of
from preprocess.simulation.response import Response
from preprocess.testing import small_detector
from preprocess.voxels import Tiler

DOWNSAMPLE = (8, 4, 4)
DETECTORS = {
    "small": 1,
    "protodune-sp": 1,
    "protodune-sp-2021": 1,
    "protodune-hd": 2,
    "protodune-vd": 1,
    "microboone": 0,
    "dune10kt-1x2x6": 1,
}
BUILT_ALONE = ("small", "protodune-sp", "protodune-sp-2021")  # need no wires file
SHARP = response("none", SimulationConfig())


@cache
def prepared(name, folder):
    detector = small_detector(folder) if name == "small" else load_detector(name)
    tpc = detector.tpc(DETECTORS[name])
    return detector, tpc, Tiler(tpc), Response(tpc, SHARP)


@pytest.fixture(params=list(DETECTORS))
def setup(request, tmp_path_factory):
    if request.param not in BUILT_ALONE and "LARSTORE_TEST_DATA" not in os.environ:
        pytest.skip("LARSTORE_TEST_DATA is not set: no wires file of this detector")
    return prepared(request.param, tmp_path_factory.getbasetemp())


def tiled(setup, deposits):
    _, _, tiler, response_ = setup
    waveform = response_.read_out(response_.charge(deposits), np.random.default_rng(0), np.empty(0, np.int64))
    return tiler(waveform, 1.0, DOWNSAMPLE)


def positions(setup, voxels, path):
    """(n, 3) mm by way of a store: what its user gets."""
    detector, tpc, _, _ = setup
    larstore.create(path, geometry=detector.geometry(), downsample=DOWNSAMPLE, provenance={})
    record = ImageRecord(0, 0, tpc.number, voxels.coords, voxels.charge, voxels.live)
    add_images(path, [record])
    return next(iter(larstore.open(path).select())).position() * 10.0


def half_voxel(tpc):
    frame = tpc.frame
    steps = (frame.drift_speed_mm_us * frame.tick_us, frame.pixel_mm, frame.pixel_mm)
    return np.array(steps) * DOWNSAMPLE / 2.0


def test_points_are_tiled_within_half_a_voxel(setup, tmp_path):
    """A dozen points at different depths: each lies in a tiled voxel, and all voxels lie where strips cross at one."""
    _, tpc, _, _ = setup
    box, half = box_of(tpc), half_voxel(tpc)
    rng = np.random.default_rng(7)
    depth = (np.arange(12) + 0.2 + 0.6 * rng.random(12)) / 12  # further apart than a voxel: one point a slab
    points = box.low + np.column_stack([depth, rng.uniform(0.02, 0.98, (12, 2))]) * box.size
    deposits = np.column_stack([points, np.zeros(12), np.full(12, 20_000.0)])
    voxels = tiled(setup, deposits)
    found = positions(setup, voxels, tmp_path / "run.zarr")
    distance = np.abs(found[:, None] - points[None])
    assert (distance <= half + 1e-6).all(axis=2).any(axis=0).all()
    nearest = distance[:, :, 0].argmin(axis=1)
    own = distance[np.arange(len(found)), nearest]
    assert (own[:, 0] <= half[0] + 1e-6).all()
    widest = max(plane.pitch_mm for plane in tpc.planes)
    assert (own[:, 1:] <= 3.0 * widest + 2.0 * half[1:]).all()
    # No charge is lost, and none is put elsewhere: each point's slab holds what arrives of it, in every plane.
    frame = tpc.frame
    arriving = 20_000.0 * np.exp(-np.abs(points[:, 0] - frame.anode_x_mm) / frame.drift_speed_mm_us / 10_400.0)
    for plane in range(len(tpc.planes)):
        slab = np.bincount(nearest, voxels.charge[:, plane], 12)
        np.testing.assert_allclose(slab, arriving, rtol=1e-4)


@pytest.mark.parametrize("direction", [(0.8, 0.4, 0.45), (0.7, -0.6, 0.39), (0.85, 0.1, -0.52)])
def test_a_line_is_tiled_where_it_is(setup, direction, tmp_path):
    """Every point of the line lies in a tiled voxel, every tiled voxel near the line, its charge around the line."""
    _, tpc, _, _ = setup
    box, half = box_of(tpc), half_voxel(tpc)
    direction = np.array(direction) / np.linalg.norm(direction)
    start = entry(box, box.low + 0.5 * box.size, direction)
    n = int(np.linalg.norm(box.size))
    points = start + np.arange(n)[:, None] * direction
    points = points[box.contains(points)]
    deposits = np.column_stack([points, np.zeros(len(points)), np.full(len(points), 5000.0)])
    voxels = tiled(setup, deposits)
    found = positions(setup, voxels, tmp_path / "run.zarr")
    places = np.floor(np.column_stack([tpc.to_ticks(points[:, 0]), *tpc.to_pixels(points[:, 1], points[:, 2])]))
    wanted = np.unique(places.astype(np.int64) // DOWNSAMPLE, axis=0)
    tiled_places = {tuple(place) for place in voxels.coords.tolist()}
    assert all(tuple(place) in tiled_places for place in wanted.tolist())
    offset = found - start
    across = offset - np.outer(offset @ direction, direction)
    widest = max(plane.pitch_mm for plane in tpc.planes)
    assert np.linalg.norm(across, axis=1).max() <= 3.0 * widest + 2.0 * np.linalg.norm(half)
    weight = voxels.charge.mean(axis=1)
    mean = np.average(across, axis=0, weights=weight)
    assert np.linalg.norm(mean) <= 1.0  # mm, of voxels of 8 mm
