"""Points of charge come back at their place from a joined image as from the single ones, on both sides of a cathode."""

import copy
import os

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose

import larstore
from larstore.errors import StoreError
from larstore.records import ImageRecord
from larstore.testing import add_images
from preprocess import join
from preprocess.detector import load_detector
from preprocess.simulation.particles import box_of
from preprocess.simulation.response import Response
from preprocess.testing.detector import SMALL_DETECTOR
from preprocess.truth import voxelise_truth
from preprocess.voxels import Tiler
from tests.preprocess.test_closure_position import SHARP, half_voxel, tiled

DOWNSAMPLE = (8, 4, 4)
GAP = 6.6  # mm between anodes along z: no whole number of voxels or pixels
LIVE = (1, 2, 5, 6)


def two_sided_detector(path):
    """Two small detectors back to back at a cathode, twice along z: TPCs 1, 5 drift one way, 2, 6 the other."""
    values = copy.deepcopy(SMALL_DETECTOR)
    lattice = values["lattice"]
    (face,) = lattice["faces"]
    back = copy.deepcopy(face) | {"ident": 1}
    for plane in back["planes"]:
        plane["x_mm"] *= -1.0
        plane["channels"] = [[0, 210 + plane["channels"][0][1], 1]]
    lattice |= {"channels_per_anode": 420, "faces": [face, back]}
    lattice["anodes"] = [{"x_mm": x, "z_mm": z} for z in (0.0, 240.0 + GAP) for x in (-810.0, 810.0)]
    path.write_text(yaml.safe_dump(values | {"cathode_x_mm": [0.0]}), encoding="utf-8")
    return load_detector(str(path))


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    """A detector, a dozen points of charge in each of its TPCs, and a store of what was tiled of them."""
    folder = tmp_path_factory.mktemp("sides")
    detector = two_sided_detector(folder / "two.yaml")
    assert [number for number, tpc in detector.tpcs.items() if tpc.live] == list(LIVE)
    larstore.create(folder / "run.zarr", geometry=detector.geometry(), downsample=DOWNSAMPLE, provenance={})
    rng, points = np.random.default_rng(7), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for number in LIVE:
            tpc, box = detector.tpc(number), box_of(detector.tpc(number))
            depth = (np.arange(12) + 0.2 + 0.6 * rng.random(12)) / 12
            points[number] = box.low + np.column_stack([depth, rng.uniform(0.02, 0.98, (12, 2))]) * box.size
            deposits = np.column_stack([points[number], np.zeros(12), np.full(12, 20_000.0)])
            voxels = tiled((detector, tpc, Tiler(tpc), Response(tpc, SHARP)), deposits)
            places = np.column_stack(
                [tpc.to_ticks(points[number][:, 0]), *tpc.to_pixels(*points[number][:, 1:].T), np.full(12, 20_000.0)]
            )
            truth = voxelise_truth(places, DOWNSAMPLE, (tpc.frame.n_ticks, tpc.frame.n_y, tpc.frame.n_z))
            image = ImageRecord(
                0, 0, number, voxels.coords, voxels.charge, voxels.live,
                np.zeros(len(voxels.coords), np.float32), *truth,
            )  # fmt: skip
            add_images(folder / "run.zarr", [image])
    return detector, points, larstore.open(folder / "run.zarr")


@pytest.mark.parametrize("tpcs", [(1, 5), (6, 2), (1, 2), (2, 1), (5, 2), (1, 2, 5, 6)])
def test_points_of_a_joined_image_are_where_they_were(event, tpcs, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    detector, points, source = event
    join(source.path, tmp_path / "joined.zarr", tpcs)
    image = larstore.open(tmp_path / "joined.zarr").image(0, 0, min(tpcs))
    found, half = image.position() * 10.0, half_voxel(detector.tpc(tpcs[0]))
    singles = {number: source.image(0, 0, number) for number in tpcs}
    # Each voxel's centre is within half a voxel of where its own TPC has it, the first TPC's exactly there.
    for number, single in singles.items():
        distance = np.abs(found[None] - single.position()[:, None] * 10.0) / half
        nearest = distance.max(axis=2).min(axis=1)
        assert nearest.max() <= (1.0 if number != min(tpcs) else 0.0) + 1e-6
    # So a deposit is in a voxel that is within half a voxel more of it: in x, y, z, with its charge as truth.
    truth = image.position_of(image.truth_voxels[0]) * 10.0
    every = np.concatenate([points[number] for number in tpcs])
    distance = np.abs(truth[None] - every[:, None]) / half
    assert (distance <= 2.0 + 1e-6).all(axis=2).any(axis=1).all()
    assert image.truth_voxels[1].sum() == 20_000.0 * len(every)
    assert_allclose(
        image.charge.sum(axis=0, dtype=np.float64),
        sum(single.charge.sum(axis=0, dtype=np.float64) for single in singles.values()), rtol=1e-6,
    )  # fmt: skip


def test_another_time_moves_tpcs_that_drift_alike(event, tmp_path):
    _, _, source = event
    join(source.path, tmp_path / "alike.zarr", [2, 6])
    image = larstore.open(tmp_path / "alike.zarr").image(0, 0, 2)
    moved = image.position(t0=10.0) - image.position()
    assert_allclose(moved, np.tile([1.565, 0.0, 0.0], (len(image), 1)), atol=1e-9)  # towards their anode at +x
    join(source.path, tmp_path / "both.zarr", [2, 1])
    image = larstore.open(tmp_path / "both.zarr").image(0, 0, 1)
    with pytest.raises(StoreError, match=r"t0 = 10\.0 moves TPCs \[1, 2\], which drift to both sides, apart\. Fix"):
        image.position(t0=10.0)


def test_gaps_are_those_of_the_detector(event, tmp_path):
    """Voxels between the faces along z: 240 mm and the gap, in voxels of 8 mm; along x the cathode is in the middle."""
    _, _, source = event
    join(source.path, tmp_path / "joined.zarr", LIVE)
    tpcs = larstore.open(tmp_path / "joined.zarr").geometry.tpcs
    assert [tpcs[n].joined_origin[2] for n in LIVE] == [0, 0, 31, 31]  # 246.6 / 8 = 30.8
    cathode = {n: tpcs[n].tick_zero_drift + 800.0 / 1.565 / tpcs[n].tick_us for n in LIVE}
    one, two = (tpcs[n].joined_origin[0] for n in (1, 2))
    assert abs(one + cathode[1] / 8 - (two + 1 - cathode[2] / 8)) <= 0.5
