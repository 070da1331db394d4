"""What `simulate` writes: the same bytes from the same seed, read back by the reader."""

import numpy as np
import pytest
from pydantic import ValidationError

from larstore.errors import ConfigError
from preprocess.detector import load_detector
from preprocess.simulation import simulate
from preprocess.simulation.config import SimulationConfig
from preprocess.sources import TRUTH_PRODUCTS, open_source
from preprocess.testing import SMALL_SIMULATION, make_inputs, small_detector

DEAD = SMALL_SIMULATION.model_copy(update={"dead_channels": 0.05})


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def events(path, detector, tpc=1):
    return list(open_source(path).events(detector.tpc(tpc), TRUTH_PRODUCTS))


def test_names_and_content(tmp_path, detector):
    ticks = []
    paths = simulate(tmp_path / "new" / "folder", detector, (1, 3), 2, 2, 5, DEAD, 7, "Mu", lambda *n: ticks.append(n))
    assert [p.name for p in paths] == [f"sim_Mu_{f}_wire-TPC{t}.tar.gz" for f in (7, 8) for t in (1, 3)]
    assert ticks == [(i, 8) for i in range(1, 9)]
    for path in paths:
        source = open_source(path)
        (number,) = source.tpcs(detector)
        assert source.file_number() in (7, 8)
        assert source.n_events == 2
        tpc = detector.tpc(number)
        dead = events(path, detector, number)[0].bad
        assert 0 < len(dead) < 40
        for e in source.events(tpc, TRUTH_PRODUCTS):
            assert e.waveform.shape == (1400, 210)
            assert e.notes == {}
            assert len(e.truth) > 50
            assert (e.truth[:, :3] >= 0).all()
            assert (e.truth[:, :3] < [1400, 150, 120]).all()
            np.testing.assert_array_equal(e.truth[:, :3], np.floor(e.truth[:, :3]))
            np.testing.assert_array_equal(e.bad, dead)
            assert (e.bad[:, 1:] == [0, 1400]).all()
            assert not e.waveform[:, e.bad[:, 0]].any()


def test_charge_of_a_quiet_event_is_the_truth_after_attachment(tmp_path, detector):
    config = SMALL_SIMULATION.model_copy(update={"noise": (0.0, 0.0, 0.0), "roi_padding": 0})
    (path,) = make_inputs(tmp_path, detector, (1,), 1, 3, config=config)
    for e in events(path, detector):
        drift = (e.truth[:, 0] + 0.5 - 100) * 0.5  # µs since t = 0; the times of the tracks are at most 120 µs
        arriving = (e.truth[:, 3] * np.exp(-drift / 10_400)).sum()
        for plane in detector.tpc(1).planes:
            # The attachment uses the drift alone, and charge leaves through the sides.
            assert e.waveform[:, plane.column].sum() == pytest.approx(arriving, rel=0.03)


def test_same_seed_same_bytes(tmp_path, detector):
    for name in ("a", "b"):
        make_inputs(tmp_path / name, detector, (1, 3), 1, 2, seed=3)
    make_inputs(tmp_path / "c", detector, (1, 3), 1, 2, seed=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for name, data in contents(tmp_path / "c").items():
        assert contents(tmp_path / "a")[name] != data


def test_an_event_does_not_depend_on_how_many_there_are(tmp_path, detector):
    many = simulate(tmp_path / "many", detector, (1,), 2, 3, 1, SMALL_SIMULATION)
    few = simulate(tmp_path / "few", detector, (1,), 1, 2, 1, SMALL_SIMULATION, first_file=2)
    for a, b in zip(events(few[0], detector), events(many[1], detector), strict=False):
        np.testing.assert_array_equal(a.waveform, b.waveform)
        np.testing.assert_array_equal(a.truth, b.truth)
    first, second, _ = events(many[0], detector)
    assert not np.array_equal(first.waveform, second.waveform)


def test_tracks_go_on_in_the_next_tpc(tmp_path, detector):
    """Beam tracks run along z: those that leave TPC 1 at z = 240 mm enter TPC 3 there."""
    config = SimulationConfig(muons=0, beam_tracks=3, showers=0, beam_angle_deg=0)
    paths = simulate(tmp_path, detector, (1, 3), 1, 4, 0, config)
    found = 0
    for left, right in zip(events(paths[0], detector, 1), events(paths[1], detector, 3), strict=True):
        end, start = left.truth[left.truth[:, 2] == 119], right.truth[right.truth[:, 2] == 0]
        for point in end:
            found += 1
            assert np.abs(start[:, :2] - point[:2]).sum(axis=1).min() <= 4
    assert found > 4


def test_a_full_size_event(tmp_path):
    """ProtoDUNE-SP: a dozen muons, all 2560 channels, the face's planes only."""
    detector = load_detector("protodune-sp")
    (path,) = simulate(tmp_path, detector, events_per_file=1, seed=2)
    tpc = detector.tpc(1)
    (e,) = events(path, detector)
    assert e.waveform.shape == (6000, 2560)
    mine = np.unique(np.concatenate([plane.column for plane in tpc.planes]))
    others = np.setdiff1d(np.arange(2560), mine)
    assert len(others) == 480
    assert not e.waveform[:, others].any()
    sums = [e.waveform[:, np.unique(plane.column)].sum(dtype=np.float64) / e.truth[:, 3].sum() for plane in tpc.planes]
    assert all(0.75 < s < 1.0 for s in sums)  # attachment takes 10 % on average, the thresholds some more


def test_wrong_arguments(tmp_path, detector):
    for options, message in (
        ({"n_files": 0}, "n_files = 0"),
        ({"events_per_file": 0}, "events_per_file = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"sample": "a_b"}, "sample = 'a_b'"),
        ({"tpcs": ()}, "tpcs"),
        ({"tpcs": (1, 1)}, "each TPC once"),
        ({"tpcs": (2,)}, "no TPC 2"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            simulate(tmp_path, detector, **options)
        assert "Fix: " in str(caught.value)
    with pytest.raises(ConfigError, match="no drift volume"):
        simulate(tmp_path, load_detector("protodune-sp"), (0,))
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_senseless_settings_are_refused():
    with pytest.raises(ValidationError, match="muon_count"):
        SimulationConfig(muon_count=3)
    for key, value in (
        ("lifetime_us", -1), ("muons", float("inf")), ("muons", 1e300), ("times_us", (100, -100)),
        ("times_us", (float("nan"), 1)), ("muon_energy_gev", (0, 10)), ("muon_energy_gev", (10, 1)),
        ("shower_energy_gev", (2, 1)), ("beam_energy_gev", (0, 0)), ("beam_angle_deg", 90), ("noise", (1, -1, 1)),
        ("smear_ticks", (-3, 1, 1)), ("gains", (1, 1)), ("roi_threshold", (3, 3, -5)), ("dead_channels", 1.5),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=key):
            SimulationConfig(**{key: value})
