"""Real frame archives, where LARSTORE_TEST_DATA names the folder that holds them."""

import os
from pathlib import Path

import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.detector import load_detector
from preprocess.sources import open_source

DATA = Path(os.environ.get("LARSTORE_TEST_DATA", "."))
pytestmark = pytest.mark.skipif(
    "LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA names no folder of third-party frames"
)


def test_protodune_sp_simulation():
    source = open_source(DATA / "frames/pdsp-sim-sp-0.29.3.tar.bz2")
    detector = load_detector("protodune-sp")
    assert source.tpcs(detector) == [0, 1]
    assert source.n_events == 1
    assert source.file_number() is None
    tpc = detector.tpc(1)
    (event,) = source.events(tpc)
    assert event.waveform.shape == (6000, 2560)
    assert event.waveform.max() == 98_834
    assert event.event_id == 100
    assert event.bad.shape == (0, 3)
    assert event.notes == {}
    w = tpc.planes[2].column
    other = detector.tpc(0).planes[2].column
    assert event.waveform[:, w].sum() > 100 * event.waveform[:, other].sum()  # the signal is on this face


def test_protodune_hd_run():
    source = open_source(DATA / "frames/protodunehd-sp-frames-anode1.tar.bz2")
    detector = load_detector(DATA / "geometry/protodunehd-wires-larsoft-v1.json.bz2")
    assert source.tpcs(detector) == [2, 3]
    with pytest.raises(InputError, match=r"several tags \(gauss1, wiener1\)"):
        list(source.events(detector.tpc(2)))
    (event,) = source.events(detector.tpc(2), tag="gauss1")
    assert event.waveform.shape == (5999, 2560)
    assert event.waveform.max() == 62_627
    assert len(event.bad) == 15
    assert np.all(event.bad[:, 1:] == [0, 5999])
    assert event.notes == {"mask rows of channels outside the frame": 26}


def test_protodune_vd_channels_are_not_contiguous():
    source = open_source(DATA / "frames/pdvd_protodune-sp-frames-anode0.tar.bz2")
    detector = load_detector(DATA / "geometry/protodunevd-wires-larsoft-v3.json.bz2")
    numbers = source.tpcs(detector)
    assert len(numbers) == 2
    (event,) = source.events(detector.tpc(numbers[0]), tag="gauss0")
    assert event.waveform.shape == (6400, 1536)
    assert event.waveform.max() == 18_971
