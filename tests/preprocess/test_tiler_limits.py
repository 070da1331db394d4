"""Limits: max_voxels and its count, and memory that the busiest event does not fill."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import larstore
from larstore.errors import ConfigError, InputError
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.runner import run
from preprocess.testing import small_detector, write_small_detector
from preprocess.voxels import MOST_VOXELS, Tiler, TooManyVoxelsError
from tests.preprocess.small_events import assert_same, random_waveform

ROOT = Path(__file__).parents[2]
MOST_GROWTH = 200e6  # bytes beside the waveform and the output, for any event
HIGH_WATER = Path("/proc/self/clear_refs")  # where the high-water mark of a process can be set back
WIRES = 210  # of the small detector


@pytest.fixture(scope="module")
def tiler(tmp_path_factory):
    return Tiler(small_detector(tmp_path_factory.mktemp("small")).tpc(1))


def strided(waveform):
    return np.repeat(waveform, 2, axis=0)[::2]


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, strided], ids=["C", "F", "strided"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("downsample", [(8, 4, 4), (1, 1, 1), (500, 150, 120)], ids=str)
def test_the_count_is_exact_and_the_limit_itself_is_allowed(tiler, form, threads, downsample):
    waveform = form(random_waveform(tiler.tpc, 1000, seed=1))
    options = {"downsample": downsample, "threads": threads}
    expected = tiler(waveform, **options)
    n = len(expected)
    assert_same(tiler(waveform, max_voxels=n, **options), expected)
    for most in {1, n // 2, n - 1} - {0, n}:
        with pytest.raises(
            TooManyVoxelsError, match=f"has {n:,} voxels, more than max_voxels = {most:,}. Fix: "
        ) as error:
            tiler(waveform, max_voxels=most, **options)
        assert (error.value.total, error.value.most) == (n, most)
        assert isinstance(error.value, InputError)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 50), most=st.integers(1, 4000), threads=st.integers(1, 3), slab=st.integers(1, 20))
def test_any_limit_is_kept(tiler, seed, most, threads, slab):
    waveform = random_waveform(tiler.tpc, 200, seed, share=0.05)
    options = {"downsample": (slab, 3, 3), "threads": threads}
    expected = Tiler(tiler.tpc)(waveform, **options)
    if len(expected) <= most:
        assert_same(tiler(waveform, max_voxels=most, **options), expected)
    else:
        with pytest.raises(TooManyVoxelsError) as error:
            tiler(waveform, max_voxels=most, **options)
        assert error.value.total == len(expected)


def test_the_error_travels_between_processes(tiler):
    import pickle

    error = pickle.loads(pickle.dumps(TooManyVoxelsError(1234567, 5)))  # noqa: S301 - our own bytes
    assert (error.total, error.most) == (1234567, 5)
    assert "1,234,567" in str(error)


@pytest.mark.parametrize("most", [0, -1, MOST_VOXELS + 1])
def test_a_limit_out_of_range_is_refused(tiler, most):
    with pytest.raises(ConfigError, match=f"max_voxels = {most}"):
        tiler(np.zeros((1, WIRES), np.float32), max_voxels=most)


def test_a_wrong_sample_is_told_before_too_many_voxels(tiler):
    waveform = np.full((500, WIRES), 2.0, np.float32)
    waveform[499, 0] = np.nan
    with pytest.raises(InputError, match="tick 499"):
        tiler(waveform, max_voxels=1)


def test_in_a_run_the_unit_fails_with_the_count_and_the_others_are_done(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    tpc = small_detector(tmp_path).tpc(1)
    waveforms = {file: random_waveform(tpc, 200, file, share=0.03) for file in (1, 2, 4)}
    waveforms[3] = np.full((200, WIRES), 2.0, np.float32)
    for file, waveform in waveforms.items():
        np.savez(raw / f"a_{file}_wire-TPC1.npz", waveform)
    counts = {file: len(Tiler(tpc)(waveform)) for file, waveform in waveforms.items()}
    most = max(count for file, count in counts.items() if file != 3)
    assert counts[3] > most > 100
    config = RunConfig(
        inputs=(str(raw),),
        output=tmp_path / "run.zarr",
        detector=str(write_small_detector(tmp_path)),
        truth=None,
        max_voxels=most,
        threads=2,
    )
    with make_cluster("local", 1) as client:
        summary = run(config, client)
    (failure,) = summary.failures
    assert failure.file == 3
    assert "a_3_wire-TPC1.npz" in failure.error
    assert f"{counts[3]:,} voxels, more than max_voxels = {most:,}" in failure.error
    store = larstore.open(config.output)
    assert list(store.failures["file"]) == [3]
    assert f"{counts[3]:,} voxels" in store.failures["error"][0]
    assert {image.key[0]: len(image) for image in store.select()} == {1: counts[1], 2: counts[2], 4: counts[4]}


def flash(n_channels, ticks):
    """Everything is lit."""
    return np.full((ticks, n_channels), 2.0, np.float32)


def noisy_plane(tpc, ticks, plane=2):
    """All wires of one plane are lit all the time, and of the others a few."""
    waveform = random_waveform(tpc, ticks, seed=2, share=0.0005)
    waveform[:, tpc.planes[plane].column] = 3.0
    return waveform


def grown(detector, case, downsample, threads, max_voxels=None):
    """In a process of its own: (most bytes beside the waveform, the output and what all events share, voxels)."""
    tpc = load_detector(detector).tpc(1)
    tiler = Tiler(tpc)
    waveform = noisy_plane(tpc, 6000) if case == "noisy" else flash(len(tpc.channels), int(case))
    for area in tiler.overlaps:
        area.sum()  # the mapped file of areas is the detector's, not the event's
    tiler(waveform[:0])
    HIGH_WATER.write_text("5")
    before = high_water()
    try:
        voxels = tiler(waveform, downsample=downsample, threads=threads, max_voxels=max_voxels)
    except TooManyVoxelsError as error:
        return high_water() - before, error.total
    output = voxels.coords.nbytes + voxels.charge.nbytes + voxels.live.nbytes
    return high_water() - before - output, len(voxels)


def high_water():
    """The most bytes that were resident since the mark was set back."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def grown_elsewhere(*arguments):
    code = (
        "import json, sys\n"
        "from tests.preprocess.test_tiler_limits import grown\n"
        "print(json.dumps(grown(*json.loads(sys.argv[1]))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not HIGH_WATER.exists(), reason="the system does not tell a process's high-water mark")
class TestMemory:
    @pytest.mark.slow
    def test_of_a_flash_with_a_large_output(self, tmp_path):
        """470 MB of output: growing it in place takes no second copy."""
        path = str(write_small_detector(tmp_path))
        growth, voxels = grown_elsewhere(path, "1400", (1, 1, 1), 1)
        assert voxels == 1400 * 150 * 120
        assert growth < MOST_GROWTH

    @pytest.mark.slow
    def test_of_a_noisy_plane(self):
        growth, voxels = grown_elsewhere("protodune-sp-2021", "noisy", (8, 4, 4), 2)
        assert voxels > 100
        assert growth < MOST_GROWTH

    @pytest.mark.slow
    def test_of_an_image_that_is_refused(self, tmp_path):
        """No output at all, though the whole event is counted."""
        path = str(write_small_detector(tmp_path))
        growth, voxels = grown_elsewhere(path, "1400", (1, 1, 1), 2, 1_000_000)
        assert voxels == 1400 * 150 * 120
        assert growth < MOST_GROWTH

    @pytest.mark.slow
    @pytest.mark.parametrize("threads", [1, 4])
    @pytest.mark.parametrize(("ticks", "downsample"), [(240, (8, 4, 4)), (6, (1, 1, 1))], ids=["voxels", "pixels"])
    def test_of_a_flash_in_a_large_face(self, ticks, downsample, threads):
        """At full resolution four threads would need 4 × 90 MB: fewer are used."""
        growth, voxels = grown_elsewhere("protodune-sp-2021", str(ticks), downsample, threads)
        frame = load_detector("protodune-sp-2021").tpc(1).frame
        x, y, z = downsample
        assert voxels == ticks // x * -(-frame.n_y // y) * -(-frame.n_z // z)
        assert growth < MOST_GROWTH


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_a_noisy_plane_changes_only_what_it_lights(tiler, plane):
    """The image is that of the few others' crossings: each voxel has the plane's charge, and no more are there."""
    waveform = noisy_plane(tiler.tpc, 1400, plane)
    quiet = random_waveform(tiler.tpc, 1400, seed=2, share=0.0005)
    voxels = tiler(waveform)
    there = set(map(tuple, voxels.coords.tolist()))
    assert set(map(tuple, tiler(quiet).coords.tolist())) <= there
    bad = tiler(quiet, bad_channels=tiler.tpc.planes[plane].column, min_live_planes=1)
    assert set(map(tuple, tiler(waveform, min_live_planes=1).coords.tolist())) >= there
    assert {tuple(row) for row in bad.coords.tolist()} >= there
    assert voxels.lit_samples >= 1400 * len(np.unique(tiler.tpc.planes[plane].column))
    assert (voxels.charge[:, plane] > 0).all()


@pytest.mark.parametrize("downsample", [(8, 4, 4), (7, 3, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_flash_lights_every_voxel_and_keeps_its_charge(tiler, downsample, threads):
    ticks = 50
    voxels = tiler(flash(WIRES, ticks), downsample=downsample, threads=threads)
    lengths = [-(-length // step) for length, step in zip((ticks, 150, 120), downsample, strict=True)]
    assert len(voxels) == np.prod(lengths)
    covered = [len(np.unique(plane.column)) for plane in tiler.tpc.planes]
    np.testing.assert_allclose(
        voxels.charge.sum(axis=0, dtype=np.float64), [2.0 * ticks * n for n in covered], rtol=1e-6
    )
