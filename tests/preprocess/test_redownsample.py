"""Another downsampling made from pixels equals tiling with it, for any detector, triple, bad channels and truth."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import larstore
from larstore.errors import ConfigError, InputError
from larstore.records import Pixels
from larstore.testing import add_images
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.downsampling import redownsample
from preprocess.pipeline import process_unit
from preprocess.pixels import downsample_pixels, full_resolution, voxelise_points
from preprocess.plan import Unit
from preprocess.testing import small_detector
from preprocess.truth import voxelise_columns, voxelise_truth
from preprocess.voxels import Tiler, Voxels
from tests.preprocess.random_detectors import tpcs

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "tiling"
GOLDEN_UNITS = {"singleMu_101": 1, "BeamCosmic_201": 5}
steps = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def assert_same_voxels(found, expected):
    """(coords, charge, live), charges to 1e-6 of what a plane holds in the voxel and its rounding."""
    assert_array_equal(found[0], expected[0], strict=True)
    assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-7 * float(np.abs(expected[1]).sum() + 1))
    assert_array_equal(found[2], expected[2], strict=True)


def assert_same_images(found, expected):
    """Two stores' images: charges to 1e-6, everything else and all truth exactly."""
    assert [image.key for image in found.select()] == [image.key for image in expected.select()]
    assert len(found)
    for one, other in zip(found.select(), expected.select(), strict=True):
        assert_array_equal(one.coords, other.coords)
        assert_allclose(one.charge, other.charge, rtol=1e-6, atol=1e-8 * float(np.abs(other.charge).max(initial=0)))
        assert_array_equal(one.live, other.live)
        assert_array_equal(one.truth, other.truth)
        assert (one.truth_voxels is None) == (other.truth_voxels is None)
        for a, b in zip(one.truth_voxels or (), other.truth_voxels or (), strict=True):
            assert_array_equal(a, b, strict=True)
        assert list(one.truth_columns) == list(other.truth_columns)
        for name, values in one.truth_columns.items():
            assert_array_equal(values, other.truth_columns[name], strict=True)
        for name in ("run", "subrun", "event_id", "n_bad_channels", "truth_sum"):
            assert_array_equal(one.summary(name), other.summary(name))


@RANDOM
@given(
    tpc=tpcs(), data=st.data(), downsample=steps, seed=st.integers(0, 2**32 - 1), first_tick=st.integers(0, 20),
    min_live=st.integers(1, 2), share=st.sampled_from([0.05, 0.4, 0.9]),
)  # fmt: skip
def test_pixels_give_any_downsampling(tpc, data, downsample, seed, first_tick, min_live, share):
    random = np.random.default_rng(seed)
    n_columns = len(tpc.channels)
    ticks = data.draw(st.integers(0, 25))
    waveform = random.normal(0.5, 3.0, (ticks, n_columns)) * (random.random((ticks, n_columns)) < share)
    waveform = waveform.astype(np.float32)
    bad = data.draw(
        st.lists(st.tuples(st.integers(0, n_columns - 1), st.integers(0, 20), st.integers(3, 40)), max_size=4)
    )
    tiler = Tiler(tpc)
    full = tiler(waveform, 1.0, (1, 1, 1), bad, min_live, first_tick)
    direct = tiler(waveform, 1.0, downsample, bad, min_live, first_tick)
    found = downsample_pixels(full.coords, full.charge, full.live, downsample)
    assert_same_voxels(found, (direct.coords, direct.charge, direct.live))


@settings(max_examples=200, deadline=None)
@given(
    places=st.sets(st.tuples(*[st.sampled_from([0, 1, 2, 3, 7, 8, 63, 64, 65, 300, 65534])] * 3), max_size=60),
    downsample=st.tuples(*[st.sampled_from([1, 2, 3, 64, 65, 65535, 10**12])] * 3),
    n_planes=st.integers(1, 7),
)
def test_pixels_anywhere_equal_a_dictionary(places, downsample, n_planes):
    """Whole numbers, whose sums are exact; far apart, so that words, lines and slabs begin and end everywhere."""
    coords = np.array(sorted(places), np.uint16).reshape(-1, 3)
    charge = (np.arange(len(coords) * n_planes).reshape(-1, n_planes) % 13 - 5).astype(np.float32)
    live = (np.arange(len(coords)) % (1 << n_planes)).astype(np.uint8)
    voxels = {}
    for place, values, bits in zip(coords.tolist(), charge, live.tolist(), strict=True):
        key = tuple(c // step for c, step in zip(place, downsample, strict=True))
        total, common = voxels.get(key, (np.zeros(n_planes), 255))
        voxels[key] = total + values, common & bits
    found = downsample_pixels(coords, charge, live, downsample)
    assert [tuple(c) for c in found[0].tolist()] == sorted(voxels)
    assert_array_equal(found[1], np.array([voxels[k][0] for k in sorted(voxels)]).reshape(-1, n_planes))
    assert found[2].tolist() == [voxels[k][1] for k in sorted(voxels)]
    assert [array.dtype for array in found] == [np.uint16, np.float32, np.uint8]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 80), downsample=steps, known=st.sets(st.sampled_from("cpt")))
def test_points_give_the_truth_of_any_downsampling(seed, n, downsample, known):
    random = np.random.default_rng(seed)
    shape = (40, 16, 17)
    truth = np.column_stack([random.uniform(-1.5, 42, (n, 3)), random.choice([0.1, 0.3, 1e9, -2.5], n)])
    columns = {
        "c": ("collected", random.normal(0, 1e6, n)),
        "p": ("pdg", random.integers(-3, 3, n).astype(np.int64)),
        "t": ("track", random.integers(-1, 9, n).astype(np.int32)),
    }
    columns = dict(columns[name] for name in sorted(known))
    tiled = Voxels(np.empty((0, 3), np.uint16), np.empty((0, 3), np.float32), np.empty(0, np.uint8), 0)
    pixels = full_resolution(tiled, truth, columns, shape)
    coords, value, found = voxelise_points(pixels, downsample)
    expected = voxelise_truth(truth, downsample, shape)
    assert_array_equal(coords, expected[0], strict=True)
    assert_array_equal(value, expected[1], strict=True)
    direct = voxelise_columns(truth, columns, downsample, shape)
    assert list(found) == list(direct)
    for name, values in found.items():
        assert_array_equal(values, direct[name], strict=True)


def test_without_truth_there_are_no_points():
    empty = np.empty((0, 3), np.uint16), np.empty((0, 3), np.float32), np.empty(0, np.uint8)
    assert voxelise_points(Pixels(*empty), (8, 4, 4)) == (None, None, {})
    assert [len(array) for array in downsample_pixels(*empty, (8, 4, 4))] == [0, 0, 0]


@pytest.mark.parametrize("wrong", [(4, 2), (4, 2, 0), (4, 2, 1.5)])
def test_no_downsampling_is_refused(wrong):
    with pytest.raises(ConfigError, match="three whole numbers"):
        downsample_pixels(np.empty((0, 3), np.uint16), np.empty((0, 3), np.float32), np.empty(0, np.uint8), wrong)


def golden_images(output, sample, tpc, **options):
    name = GOLDEN / f"reco_{sample}_wire-TPC{tpc}.npz"
    config = RunConfig(inputs=(str(name),), output=output, detector="protodune-sp-2021", min_live_planes=1, **options)
    detector = load_detector(config.detector)
    result = process_unit(Unit(str(name), int(sample[-3:]), tpc, 1), config, detector.geometry().hash)
    larstore.create(
        output, geometry=detector.geometry(), downsample=config.downsample, provenance={"tiling": config.tiling()},
        planes=[plane.name for plane in detector.tpcs[tpc].planes], pixels=config.save_pix,
    )  # fmt: skip
    add_images(output, result.images, result.inputs)
    return larstore.open(output)


@pytest.mark.parametrize("sample", GOLDEN_UNITS)
def test_golden_events(tmp_path, sample):
    tpc = GOLDEN_UNITS[sample]
    source = golden_images(tmp_path / "pixels.zarr", sample, tpc, save_pix=True)
    assert larstore.verify(source.path).ok
    plain = golden_images(tmp_path / "plain.zarr", sample, tpc)
    assert larstore.diff(source, plain) == []
    for triple in ((8, 4, 4), (4, 2, 2), (7, 3, 5)):
        done = redownsample(source.path, tmp_path / f"{triple}.zarr", triple)
        assert done.pixels == source.select().column("pixel_count").sum()
        if triple != (8, 4, 4):
            plain = golden_images(tmp_path / f"direct{triple}.zarr", sample, tpc, downsample=triple)
        assert_same_images(larstore.open(tmp_path / f"{triple}.zarr"), plain)


def test_too_many_pixels_are_counted(tmp_path):
    name = GOLDEN / "reco_BeamCosmic_201_wire-TPC1.npz"
    options = {"inputs": (str(name),), "output": tmp_path / "a.zarr", "detector": "protodune-sp-2021"}
    config = RunConfig(**options, min_live_planes=1, save_pix=True, max_pixels=5000)
    words = r"event 0 at full resolution \(save_pix\): 9,864 pixels, more than max_pixels = 5,000\. Fix: raise max_pix"
    with pytest.raises(InputError, match=words):
        process_unit(Unit(str(name), 201, 1, 1), config, load_detector(config.detector).geometry().hash)


def test_a_frame_too_long_for_its_pixels_is_refused_with_the_setting(tmp_path):
    detector = small_detector(tmp_path)
    np.savez_compressed(tmp_path / "a_1_wire-TPC1.npz", np.zeros((70_000, 210), np.int16))
    unit = Unit(str(tmp_path / "a_1_wire-TPC1.npz"), 1, 1, 1)
    options = {"inputs": (unit.path,), "output": tmp_path / "a.zarr", "detector": str(tmp_path / "small.yaml")}
    assert len(process_unit(unit, RunConfig(**options), detector.geometry().hash).images) == 1
    with pytest.raises(InputError, match=r"event 0 at full resolution \(save_pix\): 70000 ticks"):
        process_unit(unit, RunConfig(**options, save_pix=True), detector.geometry().hash)


@pytest.mark.slow
@pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")
def test_a_real_frame(tmp_path):
    frame = Path(os.environ["LARSTORE_TEST_DATA"]) / "frames" / "pdsp-sim-sp-0.29.3.tar.bz2"
    detector = load_detector("protodune-sp")
    stores = []
    for name, options in (("p", {"save_pix": True}), ("d", {"downsample": (4, 2, 3)})):
        config = RunConfig(
            inputs=(str(frame),), output=tmp_path / f"{name}.zarr", detector="protodune-sp", threshold=2000, **options
        )
        result = process_unit(Unit(str(frame), 1, 1, 1), config, detector.geometry().hash)
        larstore.create(
            config.output, geometry=detector.geometry(), downsample=config.downsample,
            provenance={"tiling": config.tiling()}, pixels=config.save_pix,
        )  # fmt: skip
        add_images(config.output, result.images, result.inputs)
        stores.append(larstore.open(config.output))
    done = redownsample(stores[0].path, tmp_path / "r.zarr", (4, 2, 3))
    assert done.pixels > 1_000_000
    assert_same_images(larstore.open(tmp_path / "r.zarr"), stores[1])
