"""Particles and energy loss against textbook numbers."""

import numpy as np
import pytest

from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.particles import (
    ELECTRON,
    MUON,
    MUON_MEV,
    PION,
    PION_MEV,
    Box,
    Particle,
    _muon,
    _shower,
    electrons,
    make_deposits,
    propagate,
    union,
)
from preprocess.simulation.transport import ELECTRON_MEV, range_steps, restricted_loss, transport

CONFIG = SimulationConfig()
BOX = Box(np.array([0.0, 0.0, 0.0]), np.array([3600.0, 6000.0, 2300.0]))


def run(kinetic, mass, seed=0, cut=0.5, size=1e6, steps=None, start=(0.0, 0.0, 0.0), n_deltas=4096):
    rng = np.random.default_rng(seed)
    steps = steps or range_steps(kinetic, 2.0, size)
    out, deltas = np.empty((steps + 1, 5)), np.empty((n_deltas, 7))
    n, k = transport(
        np.array(start), np.array([0.0, 0.0, 1.0]), kinetic, mass, 2.0, cut, 1.396, 197e-6, 14.0,
        np.full(3, -size), np.full(3, size), rng.standard_normal((steps, 3)), rng.random((steps, 3)), out, deltas,
    )  # fmt: skip
    return out[:n], deltas[:k]


def test_minimum_ionisation_is_the_textbook_number():
    """PDG: 2.11 MeV/cm for liquid argon. Without a cut, muons around βγ = 3.5."""
    losses = [restricted_loss(t, MUON_MEV, 1e9, 1.396, 197e-6) for t in np.geomspace(50, 5000, 300)]
    assert min(losses) == pytest.approx(2.11, rel=0.02)
    assert np.geomspace(50, 5000, 300)[np.argmin(losses)] == pytest.approx(266, rel=0.3)


def test_recombination():
    """Facts of JINST 8 P08005's modified box: R(2.1 MeV/cm) = 0.705, 62.7 ke/cm."""
    made = electrons(np.array([2.1]), np.array([1.0]), CONFIG)
    assert made[0] == pytest.approx(62_700, rel=2e-3)
    assert made[0] * 23.6e-6 / 2.1 == pytest.approx(0.705, abs=1e-3)
    dense, thin = electrons(np.array([20.0, 1e-9]), np.array([1.0, 1.0]), CONFIG)
    assert dense / 20.0 < made[0] / 2.1
    assert thin >= 0


@pytest.mark.parametrize(("mass", "kinetic"), [(MUON_MEV, 150.0), (ELECTRON_MEV, 30.0), (ELECTRON_MEV, 0.3)])
def test_a_stopping_particle_deposits_all_its_energy(mass, kinetic):
    deposits, deltas = run(kinetic, mass)
    assert deposits[:, 3].sum() + deltas[:, 6].sum() == pytest.approx(kinetic, abs=0.051)
    assert (deposits[:, 3] > 0).all()
    assert (deposits[:, 4] > 0).all()


def test_range_is_the_integral_of_the_loss():
    kinetic = 200.0
    energies = np.linspace(1.0, kinetic, 4000)
    step = energies[1] - energies[0]
    expected = sum(step / restricted_loss(t, MUON_MEV, 1e9, 1.396, 197e-6) for t in energies)
    lengths = [run(kinetic, MUON_MEV, seed, cut=1e3)[0][:, 4].sum() for seed in range(20)]
    assert np.mean(lengths) == pytest.approx(expected, rel=0.05)


def test_delta_rays_follow_the_rate():
    """N(> T) ≈ 0.097 / T[MeV] per cm at β ≈ 1."""
    energies, centimetres = [], 0.0
    for seed in range(40):
        deposits, deltas = run(100_000.0, MUON_MEV, seed, steps=2000)
        energies.append(deltas[:, 6])
        centimetres += deposits[:, 4].sum()
    found = np.concatenate(energies)
    for threshold in (0.5, 1.0, 5.0):
        expected = 0.0966 * (1 / threshold - 1 / 200.0) * centimetres
        assert (found > threshold).sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_multiple_scattering_is_highland_s():
    """Spread across after 1 m at 5 GeV: θ₀ x / √3, with θ₀ of the 2 mm steps added in quadrature."""
    across = [run(5000.0, MUON_MEV, seed, steps=500)[0][-1, :2] for seed in range(400)]
    momentum = np.sqrt(5000.0 * (5000.0 + 2 * MUON_MEV))
    per_step = 0.2 / 14.0
    theta = 13.6 / momentum * np.sqrt(100 / 14.0) * (1 + 0.038 * np.log(per_step))
    assert np.std(across) == pytest.approx(theta * 1000 / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, -0.6, 0.8)])
def test_muons_come_down_and_cross_the_box(up):
    rng = np.random.default_rng(0)
    muons = [_muon(rng, BOX, CONFIG, up) for _ in range(3000)]
    directions = np.array([m.direction for m in muons])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    assert (directions @ up < 0).all()
    places = np.array([m.place for m in muons])
    low, high = np.isclose(places, BOX.low), np.isclose(places, BOX.high)
    assert ((low & (directions > 0)) | (high & (directions < 0))).any(axis=1).all()  # they start on their way in
    times = np.array([m.time for m in muons])
    assert times.min() < -3200
    assert times.max() > 3000


def test_the_angles_and_charges_of_muons():
    """A flat box sees cos²θ of intensity as cos³θ of rate, mean cosine 4/5, any azimuth alike; µ⁺/µ⁻ 1.268."""
    rng = np.random.default_rng(1)
    flat = Box(np.zeros(3), np.array([1.0, 1e5, 1e5]))
    muons = [_muon(rng, flat, CONFIG, (1.0, 0.0, 0.0)) for _ in range(3000)]
    directions = np.array([m.direction for m in muons])
    assert np.mean(-directions[:, 0]) == pytest.approx(0.8, abs=0.015)
    sideways = directions[:, 1:]
    np.testing.assert_allclose(np.mean(sideways, axis=0), 0, atol=0.04)
    assert np.std(sideways[:, 0]) == pytest.approx(np.std(sideways[:, 1]), rel=0.1)
    positive = np.mean([m.pdg == -MUON for m in muons])
    assert positive == pytest.approx(1.268 / 2.268, abs=4 * 0.5 / np.sqrt(3000))
    assert {abs(m.pdg) for m in muons} == {MUON}


def test_showers_carry_their_energy():
    rng = np.random.default_rng(0)
    for _ in range(10):
        parts = _shower(rng, BOX, CONFIG)
        energy = sum(p.kinetic for p in parts)
        assert 300 <= energy <= 2000
        assert all(p.mass == ELECTRON_MEV for p in parts)


def test_deposits_lie_inside():
    for seed in range(6):
        made = make_deposits(np.random.default_rng(seed), BOX, BOX, CONFIG)
        assert BOX.contains(made.points[:, :3]).all()
        assert (made.points[:, 4] >= 0).all()
        assert len(made.points) == len(made.pdg) == len(made.track)
    none = SimulationConfig(muons=0, beam_tracks=0, showers=0)
    assert make_deposits(np.random.default_rng(0), BOX, BOX, none).points.shape == (0, 5)


@pytest.mark.parametrize(("up", "shift"), [((0.0, 1.0, 0.0), (0, 0, 2300)), ((1.0, 0.0, 0.0), (0, 6000, 0))])
def test_muons_scale_with_the_area_seen_from_above(up, shift):
    wide = union([BOX, Box(BOX.low + shift, BOX.high + shift)])
    deep = union([BOX, Box(BOX.low - 1000 * np.array(up), BOX.high)])
    config = SimulationConfig(muons=15, beam_tracks=0, showers=0)

    def muons(world):
        made = [make_deposits(np.random.default_rng(i), world, BOX, config, up) for i in range(12)]
        return np.mean([len(np.unique(m.points[:, 3])) for m in made])

    for world, expected in ((BOX, 15), (wide, 30), (deep, 15)):
        assert muons(world) == pytest.approx(expected, abs=4 * np.sqrt(expected / 12))


def test_tracks_of_muons_are_counted_before_their_delta_rays():
    config = SimulationConfig(muons=6, beam_tracks=0, showers=0)
    made = make_deposits(np.random.default_rng(3), BOX, BOX, config)
    tracks, first = np.unique(made.track, return_index=True)
    for track in tracks:
        assert len(np.unique(made.pdg[made.track == track])) == 1
        assert len(np.unique(made.points[made.track == track, 3])) == 1
    muons, deltas = tracks[made.pdg[first] != ELECTRON], tracks[made.pdg[first] == ELECTRON]
    assert set(np.abs(made.pdg[first])) == {MUON, ELECTRON}
    assert tracks.min() == 1
    assert muons.max() < deltas.min()
    assert len(deltas) > 50
    assert deltas.max() - deltas.min() + 1 >= len(deltas)


def test_a_shower_is_one_track():
    config = SimulationConfig(muons=0, beam_tracks=0, showers=4, shower_energy_gev=(0.2, 0.3))
    made = make_deposits(np.random.default_rng(1), BOX, BOX, config)
    tracks = np.unique(made.track)
    assert set(made.pdg) == {ELECTRON}
    np.testing.assert_array_equal(tracks, 1 + np.arange(len(tracks)))
    for track in tracks:  # 0.2 … 0.3 GeV are 4 to 8 million electrons; some leave
        assert 1e6 < made.points[made.track == track, 4].sum() < 1e7


def test_a_particle_s_delta_rays_get_numbers_of_their_own_unless_it_is_of_a_shower():
    start, along = np.array([1800.0, 3000.0, 1.0]), np.array([0.0, 0.0, 1.0])
    pion = Particle(start, along, 5000.0, PION_MEV, 7.0, PION)
    made = propagate(np.random.default_rng(0), pion, BOX, CONFIG, 5, 40)
    assert set(np.unique(made.pdg)) == {ELECTRON, PION}
    assert set(np.unique(made.track[made.pdg == PION])) == {5}
    deltas = np.unique(made.track[made.pdg == ELECTRON])
    np.testing.assert_array_equal(deltas, 40 + np.arange(len(deltas)))
    assert (made.points[:, 3] == 7.0).all()
    member = Particle(start, along, 50.0, ELECTRON_MEV, 0.0, shower=True)
    made = propagate(np.random.default_rng(0), member, BOX, CONFIG, 5, 40)
    assert set(made.track) == {5}
    assert set(made.pdg) == {ELECTRON}
