"""One charged particle through argon: steps, energy loss, scattering, delta rays. A kernel: it checks nothing."""

import math

import numba
import numpy as np
import numpy.typing as npt

ELECTRON_MEV = 0.51099895  # PDG
K_MEV_CM2 = 0.307075  # K of the Bethe formula, MeV cm²/mol, PDG
Z_OVER_A = 18 / 39.948
# Sternheimer's density effect for liquid argon (x0, x1, a, m, C): PDG, as LArSoft's configuration quotes it.
STERNHEIMER = (0.2, 3.0, 0.1956, 3.0, 5.2146)
STOPPED_MEV = 0.05  # below it what is left is deposited in place
LARGEST_DELTA_MEV = 200.0

Floats = npt.NDArray[np.float64]


@numba.njit(cache=True)
def restricted_loss(kinetic: float, mass: float, cut: float, density: float, excitation_mev: float) -> float:
    """Mean energy loss in MeV/cm to electrons below ``cut`` MeV (PDG's restricted Bethe formula)."""
    gamma = 1.0 + kinetic / mass
    beta_gamma_2 = max(gamma * gamma - 1.0, 1e-4)
    beta_2 = beta_gamma_2 / (gamma * gamma)
    ratio = ELECTRON_MEV / mass
    t_max = 2.0 * ELECTRON_MEV * beta_gamma_2 / (1.0 + 2.0 * gamma * ratio + ratio * ratio)
    upper = min(cut, t_max)
    x = 0.5 * math.log10(beta_gamma_2)
    delta = 0.0
    if x >= STERNHEIMER[0]:
        delta = 2.0 * math.log(10.0) * x - STERNHEIMER[4]
        if x < STERNHEIMER[1]:
            delta += STERNHEIMER[2] * (STERNHEIMER[1] - x) ** STERNHEIMER[3]
        delta = max(delta, 0.0)
    logarithm = 0.5 * math.log(2.0 * ELECTRON_MEV * beta_gamma_2 * upper / (excitation_mev * excitation_mev))
    bracket = logarithm - 0.5 * beta_2 * (1.0 + upper / t_max) - 0.5 * delta
    return K_MEV_CM2 * Z_OVER_A * density / beta_2 * max(bracket, 0.5)


@numba.njit(cache=True)
def transport(
    place: Floats, direction: Floats, kinetic: float, mass: float, step_mm: float, cut: float, density: float,
    excitation_mev: float, x0_cm: float, low: Floats, high: Floats, normals: Floats, uniforms: Floats,
    deposits: Floats, deltas: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Propagate until the particle stops, leaves the box or has made ``len(normals)`` steps.

    Args:
        place, direction: (3,) mm and unit vector; changed.
        kinetic, mass, cut: MeV. step_mm: length of a step; density g/cm³; x0_cm: radiation length.
        low, high: (3,) the box.
        normals, uniforms: (steps, 3) random numbers.
        deposits: (steps + 1, 5) out: x, y, z of the middle of the step, deposited MeV, length of the step in cm.
        deltas: (k, 7) out: place, direction, MeV of delta rays; those beyond k are left out.

    Returns:
        Numbers of deposits and of delta rays.
    """
    n_deposits, n_deltas = 0, 0
    step_cm = step_mm / 10.0
    for i in range(len(normals)):
        inside = True
        for axis in range(3):
            if place[axis] < low[axis] or place[axis] > high[axis]:
                inside = False
        if not inside:
            break
        energy = kinetic + mass
        momentum_2 = kinetic * (kinetic + 2.0 * mass)
        beta_2 = momentum_2 / (energy * energy)
        mean = restricted_loss(kinetic, mass, cut, density, excitation_mev) * step_cm
        # Collisions below the cut or T_max: variance (K/2) (Z/A) ρ x T / β², skewed upwards: log-normal.
        gamma, ratio = energy / mass, ELECTRON_MEV / mass
        t_max = 2.0 * ELECTRON_MEV * (gamma * gamma - 1.0) / (1.0 + 2.0 * gamma * ratio + ratio * ratio)
        rate = 0.5 * K_MEV_CM2 * Z_OVER_A * density / beta_2
        spread = math.log(1.0 + rate * min(cut, t_max) * step_cm / (mean * mean))
        loss = mean * math.exp(math.sqrt(spread) * normals[i, 2] - 0.5 * spread)
        part = 1.0
        if loss >= kinetic - STOPPED_MEV:
            part = min(1.0, kinetic / max(loss, 1e-9))
            loss = kinetic
        for axis in range(3):
            deposits[n_deposits, axis] = place[axis] + 0.5 * part * step_mm * direction[axis]
        deposits[n_deposits, 3] = loss
        deposits[n_deposits, 4] = part * step_cm
        n_deposits += 1
        kinetic -= loss
        if kinetic <= STOPPED_MEV:
            break
        for axis in range(3):
            place[axis] += step_mm * direction[axis]
        t_max = min(t_max, LARGEST_DELTA_MEV, 0.5 * kinetic)
        if t_max > cut and n_deltas < len(deltas):
            chance = rate * (1.0 / cut - 1.0 / t_max) * step_cm
            if uniforms[i, 0] < chance:
                u = uniforms[i, 1]
                t = cut * t_max / (t_max - u * (t_max - cut))  # spectrum 1/T²
                cosine = math.sqrt(t / (t + 2.0 * ELECTRON_MEV))
                for axis in range(3):
                    deltas[n_deltas, axis] = place[axis]
                _turn(direction, cosine, 2.0 * math.pi * uniforms[i, 2], deltas[n_deltas, 3:6])
                deltas[n_deltas, 6] = t
                n_deltas += 1
                kinetic -= t
        thickness = step_cm / x0_cm
        theta = 13.6 / math.sqrt(beta_2 * momentum_2) * math.sqrt(thickness) * (1.0 + 0.038 * math.log(thickness))
        ax, ay = theta * normals[i, 0], theta * normals[i, 1]
        angle = math.sqrt(ax * ax + ay * ay)
        _turn(direction, math.cos(angle), math.atan2(ay, ax), direction)
    return n_deposits, n_deltas


@numba.njit(cache=True)
def _turn(direction: Floats, cosine: float, phi: float, out: Floats) -> None:
    """Unit vector at an angle to ``direction``, at azimuth ``phi``; ``out`` may be ``direction``."""
    dx, dy, dz = direction[0], direction[1], direction[2]
    sine = math.sqrt(max(0.0, 1.0 - cosine * cosine))
    if abs(dz) < 0.9:
        ax, ay, az = dy, -dx, 0.0  # direction × z
    else:
        ax, ay, az = 0.0, dz, -dy  # direction × x
    norm = math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / norm, ay / norm, az / norm
    bx, by, bz = dy * az - dz * ay, dz * ax - dx * az, dx * ay - dy * ax
    c, s = sine * math.cos(phi), sine * math.sin(phi)
    x, y, z = cosine * dx + c * ax + s * bx, cosine * dy + c * ay + s * by, cosine * dz + c * az + s * bz
    norm = math.sqrt(x * x + y * y + z * z)
    out[0], out[1], out[2] = x / norm, y / norm, z / norm


def range_steps(kinetic_mev: float, step_mm: float, longest_mm: float) -> int:
    """Steps that a particle can make at most: it loses more than 1 MeV/cm, and scatters around in the box."""
    return int(min(kinetic_mev * 10.0 / step_mm, 2.0 * longest_mm / step_mm)) + 10
