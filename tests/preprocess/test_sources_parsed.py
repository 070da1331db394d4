"""The research code's parsed npz files."""

from pathlib import Path

import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.detector import load_detector
from preprocess.sources import open_source
from preprocess.testing import small_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def waveforms(n=3, dtype=np.float64):
    return [np.random.default_rng(i).normal(0.1, 0.05, (40, 210)).astype(dtype) for i in range(n)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_events_in_electrons(tmp_path, detector, save, dtype):
    path = tmp_path / "reco_Mu_12_wire-TPC3.npz"
    arrays = waveforms(12, dtype)  # arr_10 sorts before arr_2
    save(path, *arrays)
    truths = [np.column_stack([np.arange(3), np.arange(3), np.arange(3), np.full(3, i), np.ones(3)]) for i in range(12)]
    save(tmp_path / "reco_Mu_12_depo-TPC3.npz", *truths)
    save(tmp_path / "reco_Mu_12_depoElectron-TPC3.npz", *truths[:1])
    source = open_source(path)
    assert source.n_events == 12
    assert source.file_number() == 12
    assert source.tpcs(detector) == [3]
    assert [p.name for p in source.inputs(3, ("energy", "depo", "depoElectron"))] == [
        "reco_Mu_12_wire-TPC3.npz",
        "reco_Mu_12_depo-TPC3.npz",
    ]
    for i, e in enumerate(source.events(detector.tpc(3), ("energy", "depo", "depoElectron"))):
        assert e.event == i
        np.testing.assert_array_equal(e.waveform, arrays[i].astype(np.float32) * np.float32(1000))
        np.testing.assert_array_equal(e.truth, truths[i][:, :4])
        assert e.bad.shape == (0, 3)
    (first, *_) = source.events(detector.tpc(3), scale=1.0)
    np.testing.assert_array_equal(first.waveform, arrays[0].astype(np.float32))
    assert first.truth is None


def refused(path, detector, message, truth=None, tpc=3, **options):
    with pytest.raises(InputError, match=message) as caught:
        list(open_source(path).events(detector.tpc(tpc), truth, **options))
    assert str(path.parent) in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path, detector):
    path = tmp_path / "a_1_wire-TPC3.npz"
    np.savez(path, arr_0=waveforms(1)[0], arr_2=waveforms(1)[0])
    refused(path, detector, "without gaps")
    np.savez(path, arr_0=waveforms(1)[0], extra=np.zeros(1))
    refused(path, detector, "nothing else")
    np.savez(path, waveforms(1)[0][:, :100])
    refused(path, detector, r"shape \(40, 100\)")
    np.savez(path, np.array([{}], dtype=object))
    refused(path, detector, "pickles are not read")
    np.savez(path, np.zeros((0, 210)))
    refused(path, detector, "event 0 has no ticks")
    np.savez(path, np.full((40, 210), np.nan))
    refused(path, detector, "event 0 is nan in row 0, column 0")
    np.savez(path, np.full((40, 210), 1e37))
    refused(path, detector, "is inf")
    np.savez(path, *waveforms(1))
    refused(path, detector, "is of TPC 3, not 1", tpc=1)
    refused(path, detector, "no tags", tag="gauss")


def test_hits_are_read_like_wires_and_truth_by_the_first_product(tmp_path, detector):
    """The research code's rows: product `wire` or `hit`; truth a name, a tuple searched in order, or none."""
    path = tmp_path / "a_1_hit-TPC3.npz"
    np.savez(path, *waveforms(1))
    for value, product in enumerate(("energy", "depo", "depoElectron"), start=1):
        np.savez(tmp_path / f"a_1_{product}-TPC3.npz", np.array([[1, 2, 3, value, 7.0]]))
    np.savez(tmp_path / "a_1_energy-TPC1.npz", np.array([[1, 2, 3, 99.0]]))  # of another TPC
    source = open_source(path)
    assert source.file_number() == 1
    for products, expected in (
        (("energy", "depo", "depoElectron"), 1),
        (("depoElectron", "energy"), 3),
        (("depo",), 2),
        (("missing", "depo"), 2),
    ):
        (event,) = source.events(detector.tpc(3), products)
        np.testing.assert_array_equal(event.truth, [[1, 2, 3, expected]])
        assert event.notes == {}
    for products, notes in ((None, {}), (("missing",), {"no truth file": 1})):
        (event,) = source.events(detector.tpc(3), products)
        assert event.truth is None
        assert event.notes == notes


def test_options(tmp_path, detector):
    path = tmp_path / "a_1_wire-TPC3.npz"
    np.savez(path, waveforms(1)[0].T)
    refused(path, detector, r"shape \(210, 40\)")
    (event,) = open_source(path).events(detector.tpc(3), orientation="channels_first", sign=-1, scale=10.0)
    np.testing.assert_allclose(event.waveform, -10 * waveforms(1)[0], rtol=1e-6)
    refused(path, detector, "tick_us says ticks of 1 us", orientation="channels_first", tick_us=1.0)


def test_names_must_hold_a_tpc(tmp_path, detector):
    for name in ("plain.npz", "a_1_wire-TPC8.npz"):
        np.savez(tmp_path / name, *waveforms(1))
        with pytest.raises(InputError, match=r"holds no TPC of small.*one of 1, 3"):
            open_source(tmp_path / name).tpcs(detector)


def test_bad_truth(tmp_path, detector):
    path, truth = tmp_path / "a_1_wire-TPC3.npz", tmp_path / "a_1_depo-TPC3.npz"
    np.savez(path, *waveforms(2))
    np.savez(truth, np.zeros((2, 4)))
    refused(path, detector, "has no array arr_1", ("depo",))
    np.savez(truth, np.zeros((2, 3)), np.zeros((2, 4)))
    refused(path, detector, r"shape \(2, 3\)", ("depo",))
    np.savez(truth, np.array([[0, 0, 0, np.inf]]), np.zeros((2, 4)))
    refused(path, detector, "row 0 is .*inf", ("depo",))
    np.savez(truth, np.array([None]), np.zeros((2, 4)))
    refused(path, detector, "pickles are not read", ("depo",))
    truth.write_bytes(b"PK nonsense")
    refused(path, detector, "truncated or damaged", ("depo",))


def test_golden_files_are_read_as_the_research_code_read_them():
    """The same three events as (tick, channel, value) lists in the file's unit, and their deposits."""
    golden = Path(__file__).parents[1] / "data/golden/tiling"
    source = open_source(golden / "reco_singleMu_101_wire-TPC1.npz")
    detector = load_detector("protodune-sp-2021")
    assert source.file_number() == 101
    assert source.tpcs(detector) == [1]
    assert source.n_events == 3
    with np.load(golden / "events_tpc1_face2.npz", allow_pickle=False) as known:
        hits, points = known["wire_offsets"], known["depo_offsets"]
        events = source.events(detector.tpc(1), ("energy", "depo", "depoElectron"))
        for i, e in enumerate(events):
            part = slice(hits[i], hits[i + 1])
            expected = np.zeros((6000, 2560), np.float32)
            expected[known["tick"][part], known["chan"][part]] = known["val"][part] * np.float32(1000)
            np.testing.assert_array_equal(e.waveform, expected)
            np.testing.assert_array_equal(e.truth, known["depo"][points[i] : points[i + 1]])
            assert e.notes == {}
    assert i == 2
