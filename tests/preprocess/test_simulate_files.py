"""What `simulate` writes: the same bytes from the same seed, read back by the reader."""

import numpy as np
import pytest
from pydantic import ValidationError

from larstore.errors import ConfigError, InputError
from preprocess.detector import load_detector
from preprocess.simulation import simulate
from preprocess.simulation.config import SimulationConfig
from preprocess.sources import TRUTH_PRODUCTS, open_source
from preprocess.sources.depos import DepoEvent
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


def test_truth_columns_are_written_beside_the_truth(tmp_path, detector):
    """collected = electrons × exp(−drift / lifetime), with the time of the particle taken out of the tick."""
    config = SMALL_SIMULATION.model_copy(update={"lifetime_us": 500.0, "times_us": (0.0, 0.0), "beam_tracks": 2.0})
    (path,) = make_inputs(tmp_path, detector, (1,), 1, 2, config=config)
    with np.load(path.with_name("sim_Sim_1_depoElectron-TPC1.npz")) as archive:
        names = ("arr", "collected", "pdg", "track", "outside")
        assert sorted(archive.files) == sorted(f"{name}_{i}" for name in names for i in (0, 1))
        for event in (0, 1):
            truth, collected = archive[f"arr_{event}"], archive[f"collected_{event}"]
            drift = (truth[:, 0] + 0.5 - 100) * 0.5  # µs, the middle of the tick
            np.testing.assert_allclose(collected, truth[:, 3] * np.exp(-drift / 500.0), rtol=6e-4)
            assert (collected < truth[:, 3]).all()
            assert archive[f"pdg_{event}"].dtype == archive[f"track_{event}"].dtype == np.int32
            assert set(np.abs(archive[f"pdg_{event}"])) <= {11, 13, 211}
            assert (archive[f"track_{event}"] >= 1).all()


def test_a_list_of_dead_channels(tmp_path, detector):
    config = SMALL_SIMULATION.model_copy(update={"dead_channels": (7, 250, 251)})
    paths = simulate(tmp_path, detector, (1, 3), 1, 1, 0, config)
    for path, number, expected in zip(paths, (1, 3), ([7], [250, 251]), strict=True):
        (e,) = events(path, detector, number)
        assert detector.tpc(number).channels[e.bad[:, 0]].tolist() == expected
        assert not e.waveform[:, e.bad[:, 0]].any()
    with pytest.raises(ConfigError, match="no channel 250"):
        simulate(tmp_path, detector, (1,), 1, 1, 0, config)


class Given:
    """A file of deposits in memory."""

    def __init__(self, path, made):
        self.path, self.made, self.n_events = path, made, len(made)

    def events(self, config):
        for number, (points, pdg, track) in enumerate(self.made):
            yield DepoEvent(number, points, pdg, track)


def straight(y, n=50):
    points = np.column_stack(
        [np.linspace(100, 700, n), np.full(n, y), np.linspace(20, 220, n), np.zeros(n), np.full(n, 5e4)]
    )
    return points, np.full(n, 2212, np.int32), np.arange(n, dtype=np.int32)


def test_given_deposits_are_read_out(tmp_path, detector):
    """File i of the list is file first_file + i; events keep their order, particles and tracks."""
    one, two = Given("a", [straight(100.0), straight(200.0)]), Given("b", [straight(150.0)])
    paths = simulate(tmp_path, detector, (1,), seed=1, first_file=5, depos=[one, two])
    assert [p.name for p in paths] == ["sim_Sim_5_wire-TPC1.tar.gz", "sim_Sim_6_wire-TPC1.tar.gz"]
    for path, source in zip(paths, (one, two), strict=True):
        read = events(path, detector)
        assert [e.event for e in read] == list(range(source.n_events))
        for e, (points, pdg, track) in zip(read, source.made, strict=True):
            np.testing.assert_array_equal(e.truth[:, 1], np.floor(points[:, 1] / 2))
            np.testing.assert_array_equal(e.truth[:, 3], points[:, 4])
            np.testing.assert_array_equal(e.truth_columns["pdg"], pdg)
            np.testing.assert_array_equal(e.truth_columns["track"], track)
            collected = e.waveform[:, detector.tpc(1).planes[2].column].sum(dtype=np.float64)
            assert collected == pytest.approx(e.truth_columns["collected"].sum(), rel=0.03)


def test_given_deposits_do_not_depend_on_their_neighbours(tmp_path, detector):
    both = simulate(
        tmp_path / "a", detector, (1,), depos=[Given("a", [straight(100.0)]), Given("b", [straight(200.0)])]
    )
    alone = simulate(tmp_path / "b", detector, (1,), depos=[Given("b", [straight(200.0)])], first_file=2)
    assert both[1].read_bytes() == alone[0].read_bytes()


def test_deposits_elsewhere_are_refused(tmp_path, detector):
    with pytest.raises(InputError, match=r"far\.json: no deposit of its 1 events lies in TPC 1\..*Fix: "):
        simulate(tmp_path, detector, (1,), depos=[Given("far.json", [straight(5000.0)])])
    assert list(tmp_path.iterdir()) == []
    paths = simulate(tmp_path, detector, (1, 3), depos=[Given("near", [straight(100.0)])])
    for number, outside in ((1, 0), (3, 50)):
        with np.load(tmp_path / f"sim_Sim_1_depoElectron-TPC{number}.npz") as archive:
            assert archive["outside_0"] == outside
    assert [len(e.truth) for p, n in zip(paths, (1, 3), strict=True) for e in events(p, detector, n)] == [50, 0]


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
        ("dead_channels", [3, -1]), ("gaps", 1.1), ("gap_piece", 0), ("noise_low_mhz", -0.1), ("roi_sure", (1, 1)),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=key):
            SimulationConfig(**{key: value})
