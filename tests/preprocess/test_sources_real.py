"""Real frame archives, where LARSTORE_TEST_DATA names the folder that holds them."""

import os
from pathlib import Path

import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.detector import load_detector
from preprocess.inspection import inspect
from preprocess.sources import open_source

DATA = Path(os.environ.get("LARSTORE_TEST_DATA", "."))
pytestmark = pytest.mark.skipif(
    "LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA names no folder of third-party frames"
)


def test_protodune_sp_simulation():
    source = open_source(DATA / "frames/pdsp-sim-sp-0.29.3.tar.bz2")
    detector = load_detector("protodune-sp")
    assert source.tpcs(detector) == [1]
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
    detector = load_detector("protodune-vd")
    numbers = source.tpcs(detector)
    assert numbers == [0, 1]
    (event,) = source.events(detector.tpc(numbers[0]), tag="gauss0")
    assert event.waveform.shape == (6400, 1536)
    assert event.waveform.max() == 18_971


def test_another_detector_is_refused_with_the_counts():
    """The trap: the channels of this ProtoDUNE-VD anode are all channels of ProtoDUNE-SP's anode 0 as well."""
    source = open_source(DATA / "frames/pdvd_protodune-sp-frames-anode0.tar.bz2")
    detector = load_detector("protodune-sp")
    assert source.tpcs(detector) == [1]
    with pytest.raises(InputError, match=r"protodune-sp: u 476/800, v 476/800, w 408/480, other face 176/480\. Fix: "):
        next(source.events(detector.tpc(1), tag="gauss0"))
    (event,) = source.events(detector.tpc(1), tag="gauss0", missing_channels="bad")
    assert len(event.bad) == 2560 - 1536
    other = open_source(DATA / "frames/pdvd_protodune-sp-frames-anode1.tar.bz2")
    with pytest.raises(InputError, match=r"1536 channels 476 … 3071 are not those of one anode of protodune-sp"):
        other.tpcs(detector)


def rebinned(folder):
    """The ticks of these frames are 2 µs (rebinned by 4), whatever their label says."""
    path = folder / "rebinned.yaml"
    path.write_text("extends: dune10kt-1x2x6\nname: dune10kt-rebinned\ntick_us: 2.0\nn_ticks: 1500\n")
    return load_detector(path)


@pytest.mark.slow
def test_dune_10kt_frames_in_hdf5(tmp_path):
    source = open_source(DATA / "frames/exa_10evts_for_tag_pixeldata-anode1.h5")
    detector = rebinned(tmp_path)
    assert source.n_events == 10
    assert source.tpcs(detector) == [2, 3]
    tpc = detector.tpc(2)
    with pytest.raises(InputError, match=r"label says ticks of 0\.5 us, dune10kt-rebinned has 2 us"):
        next(source.events(tpc, tag="rebinned_reco"))
    reco = list(source.events(tpc, tag="rebinned_reco", scale=200.0, tick_us=2.0))
    assert [e.event_id for e in reco] == list(range(1, 11))
    assert reco[0].waveform.shape == (1500, 2560)
    true = list(source.events(tpc, tag="total_numelectrons", tick_us=2.0))
    w = np.unique(np.concatenate([detector.tpc(n).planes[2].column for n in (2, 3)]))
    ratios = [
        r.waveform[:, w].sum() / t.waveform[:, w].sum() for r, t in zip(reco, true, strict=True) if t.waveform.any()
    ]
    assert len(ratios) == 3
    assert 0.8 < min(ratios) < max(ratios) < 1.0  # the scale is that of electrons: reconstructed over true


@pytest.mark.slow
def test_inspection_of_all_frames_at_hand():
    expected = {
        "pdsp-sim-sp-0.29.3.tar.bz2": ("protodune-sp", ""),
        "protodunehd-sp-frames-anode1.tar.bz2": ("protodune-hd", " --tag gauss1"),
        "pdvd_protodune-sp-frames-anode0.tar.bz2": ("protodune-vd", " --tag gauss0"),
        "pdvd_protodune-sp-frames-anode1.tar.bz2": ("protodune-vd", " --tag gauss1"),
    }
    for name, (detector, tag) in expected.items():
        found = inspect(DATA / "frames" / name)
        assert found.warnings == []
        assert found.command.endswith(f"--detector {detector}{tag}")
        assert 20_000 < found.waveforms[0].charge < 150_000
    found = inspect(DATA / "frames/exa_10evts_for_tag_pixeldata-anode1.h5")
    assert any("rebinned_reco: 109 electrons" in text and "--scale 200" in text for text in found.warnings)
    assert any("1500 ticks" in text for text in found.warnings)
    found = inspect(DATA / "frames/exa_10evts_for_tag_trackid_pid_map.h5")
    assert "truth by track id" in found.warnings[0]
    found = inspect(DATA / "depos/protodune-sp-truthDepo-6evt-bee.zip", n_events=2)
    assert (found.kind, found.n_events, len(found.deposits)) == ("depos", 6, 2)
    assert 28_000 <= found.deposits[0].n_points <= 53_000
