"""Particles of one event and the electrons they free: cosmic muons, beam tracks, electron showers, delta rays.

Numbers of particles are those of the Particle Data Group: 11 electron, ∓13 µ±, 211 π⁺. Tracks are counted from 1 in
each event: first the particles above, where all electrons of a shower share one number, then the delta rays of muons
and pions (electrons of their own; those of a shower's electrons stay with the shower).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector.model import Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.transport import ELECTRON_MEV, range_steps, transport

MUON_MEV, PION_MEV = 105.6583755, 139.57039  # PDG
ELECTRON, MUON, PION = 11, 13, 211  # PDG
MAX_DELTAS = 4096
SEGMENT_MEV = 10.0  # a shower's energy is carried by electrons of about this energy

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Deposits:
    """Electrons freed in one event.

    Attributes:
        points: (n, 5) x, y, z in mm, time in µs, electrons after recombination and before attachment.
        pdg: (n,) int32 particle, 0 where unknown.
        track: (n,) int32 number of the track in the event, −1 where unknown.
    """

    points: Floats
    pdg: Whole
    track: Whole

    def only(self, chosen: npt.NDArray[np.bool_]) -> "Deposits":
        """Those of a (n,) mask."""
        return Deposits(self.points[chosen], self.pdg[chosen], self.track[chosen])


@dataclass(frozen=True)
class Box:
    """A drift volume: (3,) corners in mm."""

    low: Floats
    high: Floats

    @property
    def size(self) -> Floats:
        """(3,) edges in mm."""
        return self.high - self.low

    @property
    def faces(self) -> Floats:
        """(3,) areas in mm² of the faces across x, y and z."""
        x, y, z = self.size
        return np.array([y * z, x * z, x * y])

    def contains(self, points: Floats) -> npt.NDArray[np.bool_]:
        """Which of the (n, 3) points lie inside; the upper faces do not belong to it."""
        return np.asarray(((points >= self.low) & (points < self.high)).all(axis=1))


@dataclass(frozen=True)
class Particle:
    """Where a particle starts: (3,) mm, (3,) unit vector, kinetic energy and mass in MeV, time in µs.

    ``pdg`` is its kind; ``shower`` marks an electron whose delta rays are not counted as tracks.
    """

    place: Floats
    direction: Floats
    kinetic: float
    mass: float
    time: float
    pdg: int = ELECTRON
    shower: bool = False


def box_of(tpc: Tpc) -> Box:
    """The drift volume of a TPC: anode to cathode, and its pixel grid.

    Raises:
        ConfigError: the detector does not tell where the TPC's cathode is.
    """
    frame = tpc.frame
    if frame.drift_length_mm is None:
        raise ConfigError(
            f"TPC {tpc.number} of {tpc.detector} has no drift volume. Fix: choose a TPC that faces a cathode, "
            "or give cathode_x_mm in the detector YAML."
        )
    x = sorted((frame.anode_x_mm, frame.anode_x_mm + frame.drift_sign * frame.drift_length_mm))
    low = np.array([x[0], frame.origin_y_mm, frame.origin_z_mm])
    return Box(low, np.array([x[1], low[1] + frame.n_y * frame.pixel_mm, low[2] + frame.n_z * frame.pixel_mm]))


def union(boxes: list[Box]) -> Box:
    """The box around boxes."""
    return Box(np.min([b.low for b in boxes], axis=0), np.max([b.high for b in boxes], axis=0))


def make_deposits(
    rng: np.random.Generator,
    world: Box,
    first: Box,
    config: SimulationConfig,
    up: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> Deposits:
    """Electrons freed in one event, none of them outside ``world``.

    Args:
        rng: the event's random numbers.
        world: the box around all TPCs; particles enter through its faces.
        first: one TPC's box. ``config.muons`` is meant for it, and scaled with the area seen from above.
        config: the numbers.
        up: unit vector against gravity; cosmic muons come from there.
    """
    above = float(world.faces @ np.abs(up)) / float(first.faces @ np.abs(up))
    sources = [[_muon(rng, world, config, up)] for _ in range(rng.poisson(config.muons * above))]
    sources += [[_beam_pion(rng, world, config)] for _ in range(rng.poisson(config.beam_tracks))]
    sources += [_shower(rng, world, config) for _ in range(rng.poisson(config.showers))]
    next_track = len(sources) + 1
    found = [Deposits(np.empty((0, 5)), np.empty(0, np.int32), np.empty(0, np.int32))]
    for track, particles in enumerate(sources, start=1):
        for particle in particles:
            made = propagate(rng, particle, world, config, track, next_track)
            next_track = max(next_track, int(made.track.max(initial=0)) + 1)
            found.append(made)
    deposits = Deposits(*(np.concatenate([getattr(d, name) for d in found]) for name in ("points", "pdg", "track")))
    return deposits.only(world.contains(deposits.points[:, :3]))


def electrons(mev: Floats, cm: Floats, config: SimulationConfig) -> Floats:
    """Electrons that escape recombination (modified box) where ``mev`` was deposited along ``cm``."""
    xi = config.box_beta * (mev / cm) / (config.density_g_cm3 * config.field_kv_cm)
    survive = np.clip(np.log(config.box_alpha + xi) / xi, 0.0, 1.0)
    return np.asarray(mev * 1e6 / config.w_ion_ev * survive)


def _muon(rng: np.random.Generator, box: Box, config: SimulationConfig, up: tuple[float, float, float]) -> Particle:
    """A downward muon: intensity ∝ cos²θ, positions uniform over the area that the box shows in its direction."""
    size, faces = box.size, box.faces
    side, other = _across(np.array(up))
    while True:
        cosine = float(rng.random() ** (1.0 / 3.0))  # cos²θ per solid angle
        phi = 2.0 * np.pi * rng.random()
        sine = np.sqrt(1.0 - cosine * cosine)
        direction = sine * np.cos(phi) * side + sine * np.sin(phi) * other - cosine * np.array(up)
        shown = faces * np.abs(direction)
        if rng.random() * np.linalg.norm(faces) < shown.sum():
            break
    axis = int(rng.choice(3, p=shown / shown.sum()))
    place = box.low + rng.random(3) * size
    place[axis] = box.low[axis] if direction[axis] > 0 else box.high[axis]
    # Modified Gaisser spectrum, arXiv:1509.06176.
    grid = np.geomspace(*config.muon_energy_gev, 400)
    flux = (grid * (1.0 + 3.64 / (grid * cosine**1.29))) ** -2.7
    flux *= 1.0 / (1.0 + 1.1 * grid * cosine / 115.0) + 0.054 / (1.0 + 1.1 * grid * cosine / 850.0)
    cumulative = np.cumsum(flux * grid)  # steps are equal in log(E)
    kinetic = float(np.interp(rng.random() * cumulative[-1], cumulative, grid)) * 1000.0
    positive = rng.random() < config.muon_charge_ratio / (1.0 + config.muon_charge_ratio)
    time = float(rng.uniform(*config.times_us))
    return Particle(place, direction, kinetic, MUON_MEV, time, -MUON if positive else MUON)


def _across(direction: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors perpendicular to one, and to each other."""
    axis = np.zeros(3)
    axis[int(np.argmin(np.abs(direction[::-1])))] = 1.0
    side = np.cross(direction, axis[::-1])
    side /= np.linalg.norm(side)
    return np.asarray(side), np.asarray(np.cross(side, direction))


def _forward(rng: np.random.Generator, degrees: float) -> Floats:
    x, y = np.tan(np.radians(degrees)) * rng.standard_normal(2)
    return np.asarray(np.array([x, y, 1.0]) / np.sqrt(x * x + y * y + 1.0))


def _beam_pion(rng: np.random.Generator, box: Box, config: SimulationConfig) -> Particle:
    place = box.low + np.array([*rng.uniform(0.2, 0.8, 2), 0.0]) * box.size
    kinetic = float(rng.uniform(*config.beam_energy_gev)) * 1000.0
    return Particle(place, _forward(rng, config.beam_angle_deg), kinetic, PION_MEV, 0.0, PION)


def _shower(rng: np.random.Generator, box: Box, config: SimulationConfig) -> list[Particle]:
    """An electron shower: electrons along a gamma-shaped profile, 90 % of them within one Molière radius.

    Longitudinal: t^(bT) e^(−bt), b = 0.5, T = ln(E/E_c) − 0.5 (PDG). Lateral: 2 r R²/(r² + R²)², R = a third of the
    Molière radius.
    """
    energy = float(rng.uniform(*config.shower_energy_gev)) * 1000.0
    start = box.low + np.array([*rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.5)]) * box.size
    axis = _forward(rng, config.beam_angle_deg)
    across, upward = _across(axis)
    n = max(1, int(energy / SEGMENT_MEV))
    peak = max(np.log(energy / config.critical_energy_mev) - 0.5, 0.1)
    along = rng.gamma(0.5 * peak + 1.0, 2.0, n) * config.radiation_length_cm * 10.0
    u = rng.random(n)
    radius = config.moliere_radius_cm / 3.0 * np.sqrt(u / (1.0 - u)) * 10.0
    phi = rng.uniform(0.0, 2.0 * np.pi, n)
    # The core is narrow where the shower starts.
    radius *= np.minimum(along / (4.0 * config.radiation_length_cm * 10.0), 1.0)
    places = start + np.outer(along, axis) + np.outer(radius * np.cos(phi), across)
    places += np.outer(radius * np.sin(phi), upward)
    directions = axis + 0.3 * rng.standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    share = rng.exponential(1.0, n)
    share *= energy / share.sum()
    return [Particle(places[i], directions[i], float(share[i]), ELECTRON_MEV, 0.0, shower=True) for i in range(n)]


def propagate(
    rng: np.random.Generator,
    particle: Particle,
    box: Box,
    config: SimulationConfig,
    track: int = 1,
    next_track: int = 2,
) -> Deposits:
    """What a particle and its delta rays (which make no further ones) free in the box.

    ``track`` is its number; delta rays are counted from ``next_track``.
    """
    deltas = np.empty((MAX_DELTAS, 7))
    first, n_deltas = _track(rng, particle, box, config, deltas)
    parts = [first]
    for delta in deltas[:n_deltas]:
        electron = Particle(delta[:3].copy(), delta[3:6].copy(), float(delta[6]), ELECTRON_MEV, particle.time)
        parts.append(_track(rng, electron, box, config, deltas[:0])[0])
    sizes = [len(part) for part in parts]
    pdg = np.full(len(parts), ELECTRON, np.int32)
    pdg[0] = particle.pdg
    tracks = np.full(len(parts), track, np.int32)
    if not particle.shower:
        tracks[1:] = next_track + np.arange(n_deltas)
    return Deposits(np.concatenate(parts), np.repeat(pdg, sizes), np.repeat(tracks, sizes))


def _track(
    rng: np.random.Generator, particle: Particle, box: Box, config: SimulationConfig, deltas: Floats
) -> tuple[Floats, int]:
    steps = range_steps(particle.kinetic, config.step_mm, float(np.linalg.norm(box.size)))
    normals, uniforms = rng.standard_normal((steps, 3)), rng.random((steps, 3))
    deposits = np.empty((steps + 1, 5))
    n, n_deltas = transport(
        particle.place.copy(), particle.direction.copy(), particle.kinetic, particle.mass, config.step_mm,
        config.delta_cut_mev, config.density_g_cm3, config.excitation_ev * 1e-6, config.radiation_length_cm,
        box.low, box.high, normals, uniforms, deposits, deltas,
    )  # fmt: skip
    made = deposits[:n]
    charge = electrons(made[:, 3], made[:, 4], config)
    return np.column_stack([made[:, :3], np.full(n, particle.time), charge]), int(n_deltas)
