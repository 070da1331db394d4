"""What all readers of frames have in common: the builders' files come back, and the reading options mean the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larstore.errors import InputError
from preprocess.detector.model import Detector
from preprocess.sources import known_readers, open_source
from preprocess.sources.base import LARGEST_BYTES
from preprocess.sources.frames import FrameMaker, RawFrame
from preprocess.sources.options import ReadOptions
from preprocess.sources.registry import probe
from preprocess.testing import (
    FRAME_BUILDERS,
    small_detector,
    small_waveforms,
    write_frame_file,
    write_wirecell,
    write_wirecell_hdf5,
)

PATH = Path("run.tar")
FILES = [(reader, suffix) for reader, (suffixes, _) in FRAME_BUILDERS.items() for suffix in suffixes]
WIRECELL = [(write_wirecell, ".tar.gz"), (write_wirecell, ".npz"), (write_wirecell_hdf5, ".h5")]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def test_every_reader_of_frames_has_a_builder():
    assert {reader.name for reader in known_readers() if reader.kind == "frames"} == set(FRAME_BUILDERS)


@pytest.mark.parametrize(("reader", "suffix"), FILES)
def test_the_builders_files_come_back(tmp_path, detector, reader, suffix):
    tpc = detector.tpc(3)
    waveforms = small_waveforms(tpc, 3)
    source = open_source(write_frame_file(tmp_path, reader, tpc, waveforms, suffix))
    assert source.n_events == 3
    assert source.tpcs(detector) == [3]
    assert source.file_number() == 1
    events = list(source.events(tpc))
    assert [e.event for e in events] == [0, 1, 2]
    for e, waveform in zip(events, waveforms, strict=True):
        np.testing.assert_allclose(e.waveform, waveform, rtol=1e-6)
        assert e.waveform.dtype == np.float32
        assert e.waveform.flags.c_contiguous or e.waveform.flags.f_contiguous
        assert e.bad.shape == (0, 3)
        assert e.truth is None
    for e, waveform in zip(source.events(tpc, sign=-1), waveforms, strict=True):
        np.testing.assert_allclose(e.waveform, -waveform, rtol=1e-6)
    with pytest.raises(InputError, match="is of TPC 3, not 1"):
        list(source.events(detector.tpc(1)))


@pytest.mark.parametrize(("reader", "suffix"), FILES)
def test_files_of_two_formats_are_told_apart(tmp_path, detector, reader, suffix):
    """Each file is recognised by one reader only."""
    tpc = detector.tpc(1)
    path = write_frame_file(tmp_path, reader, tpc, small_waveforms(tpc), suffix)
    assert [each.name for each in known_readers() if each.recognises(probe(path))] == [reader]


@pytest.mark.parametrize(("write", "suffix"), WIRECELL)
def test_the_tick_label_must_be_the_detectors(tmp_path, detector, write, suffix):
    tpc = detector.tpc(1)
    waveforms = small_waveforms(tpc, 1)
    good = write(tmp_path / f"good{suffix}", tpc, waveforms, tick_ns=500.4)
    assert len(list(open_source(good).events(tpc))) == 1
    wrong = write(tmp_path / f"wrong{suffix}", tpc, waveforms, tick_ns=512.0)
    fixes = "Fix: set tick_us to 0.5 if that is wrong, else write a detector YAML with `extends: small`"
    with pytest.raises(InputError, match=f"label says ticks of 0.512 us, small has 0.5 us. {fixes}"):
        next(open_source(wrong).events(tpc))
    (event,) = open_source(wrong).events(tpc, tick_us=0.5)
    np.testing.assert_array_equal(event.waveform, waveforms[0])
    with pytest.raises(InputError, match=r"the option tick_us says ticks of 2 us, small has 0\.5 us"):
        next(open_source(good).events(tpc, tick_us=2.0))
    unknown = replace(tpc, frame=tpc.frame.model_copy(update={"tick_us": None}))  # a bare wires file
    assert len(list(open_source(wrong).events(unknown))) == 1


@pytest.mark.parametrize(("write", "suffix"), WIRECELL)
def test_only_live_faces_are_found(tmp_path, detector, write, suffix):
    tpc = detector.tpc(1)
    path = write(tmp_path / f"run{suffix}", tpc, small_waveforms(tpc, 1))
    other = replace(tpc, number=0, face=1, live=False)
    wall = Detector("wall", {0: other, 1: tpc})
    assert open_source(path).tpcs(wall) == [1]
    assert open_source(path).tpcs(Detector("both", {0: replace(other, live=True), 1: tpc})) == [0, 1]
    assert open_source(path).tpcs(Detector("neither", {0: other})) == [0]


@pytest.mark.parametrize(("write", "suffix"), WIRECELL)
def test_masks_are_those_of_the_frames_channels(tmp_path, detector, write, suffix):
    tpc = detector.tpc(3)
    masks = {"bad": np.array([[211, 5, 9], [7, 0, 50]], np.int32), "none": np.empty((0, 3), np.int32)}
    path = write(tmp_path / f"run{suffix}", tpc, small_waveforms(tpc, 1), masks=masks)
    (event,) = open_source(path).events(tpc)
    np.testing.assert_array_equal(event.bad, [[1, 5, 9]])
    assert event.notes == {"mask rows of channels outside the frame": 1}


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_ticks=st.sampled_from([1, 7, 200, 210, 211]), dtype=st.sampled_from(["i2", "f4", "f8", "u1"]))
def test_any_order_of_channels_and_either_orientation(detector, data, n_ticks, dtype):
    """A plain loop over the frame's channels is the oracle; a square frame needs to be told its orientation."""
    tpc = detector.tpc(3)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.sampled_from([1, 199, 209, 210]))
    channels = rng.permutation(tpc.channels)[:n]
    frame = rng.integers(0, 100, (n, n_ticks)).astype(dtype)
    stored = data.draw(st.sampled_from(["channels_first", "ticks_first"]))
    orientation = stored if n == n_ticks else data.draw(st.sampled_from(["auto", stored]))
    raw = RawFrame(5, "t", frame if stored == "channels_first" else frame.T, channels, np.array([0.0, 500.0, 3.0]))
    options = ReadOptions(missing_channels="bad", orientation=orientation)
    event = FrameMaker(PATH, tpc, options, 2.0).event(4, raw)
    expected = np.zeros((n_ticks, 210), np.float32)
    for row, channel in enumerate(channels):
        expected[:, channel - 210] = 2.0 * frame[row]
    np.testing.assert_array_equal(event.waveform, expected)
    assert sorted(event.bad[:, 0] + 210) == sorted(set(tpc.channels) - set(channels))
    assert (event.bad[:, 1:] == [3, 3 + n_ticks]).all()
    assert (event.event, event.event_id, event.first_tick) == (4, 5, 3)
    if n == n_ticks:
        with pytest.raises(InputError, match=r"shape \(\d+, \d+\).*either axis.*Fix: set orientation"):
            FrameMaker(PATH, tpc, ReadOptions(missing_channels="bad"), 1.0).event(0, raw)
    elif n_ticks != 1 or n != 1:
        other = {"channels_first": "ticks_first", "ticks_first": "channels_first"}[stored]
        wrong = ReadOptions(missing_channels="bad", orientation=other)
        with pytest.raises(InputError, match=f"orientation {other}. Fix: .*other orientation"):
            FrameMaker(PATH, tpc, wrong, 1.0).event(0, raw)


def test_events_beyond_all_bounds_are_refused(detector):
    """A few channels with very many ticks would fill the memory with zeros of the other channels."""
    tpc = detector.tpc(1)
    n_ticks = LARGEST_BYTES // 4 // 210 + 1
    frame = np.broadcast_to(np.zeros((1, 1), np.uint8), (1, n_ticks))
    raw = RawFrame(0, "t", frame, tpc.channels[:1], np.array([0.0, 500.0, 0.0]))
    with pytest.raises(InputError, match=f"event 0 has {n_ticks} ticks, {4 * 210 * n_ticks} bytes"):
        FrameMaker(PATH, tpc, ReadOptions(missing_channels="bad"), 1.0).event(0, raw)


def test_truth_beside_any_reader_of_frames(tmp_path, detector):
    """The optional columns of the truth file come with it."""
    tpc = detector.tpc(1)
    truth = np.array([[1.0, 2, 3, 400], [5, 6, 7, 800]])
    collected, pdg, track = np.float32([350, 700]), np.int32([13, 11]), np.int32([1, -1])
    np.savez(tmp_path / "small_1_depoElectron-TPC1.npz", arr_0=truth, collected_0=collected, pdg_0=pdg, track_0=track)
    for reader, suffix in (("wirecell", ".tar"), ("wirecell-hdf5", ".h5"), ("parsed", ".npz")):
        path = write_frame_file(tmp_path, reader, tpc, small_waveforms(tpc, 1), suffix)
        (event,) = open_source(path).events(tpc, ("energy", "depo", "depoElectron"))
        np.testing.assert_array_equal(event.truth, truth)
        np.testing.assert_array_equal(event.truth_columns["collected"], collected)
        np.testing.assert_array_equal(event.truth_columns["pdg"], pdg)
        np.testing.assert_array_equal(event.truth_columns["track"], track)
        (event,) = open_source(path).events(tpc)
        assert (event.truth, event.truth_columns) == (None, {})
