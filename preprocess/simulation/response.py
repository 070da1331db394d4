"""From electrons in argon to what signal processing hands on: drift, diffusion, filter smear, noise, regions."""

import math

import numba
import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector.model import Tpc
from preprocess.simulation.config import SimulationConfig

Floats = npt.NDArray[np.float64]
Waveform = npt.NDArray[np.float32]
REACH = 4.0  # a Gaussian is cut at this many σ: 6e-5 of it is lost
CM2_S_TO_MM2_US = 1e-4
MIN_SIGMA = 1e-3  # in ticks or mm; without any smear the charge stays in one tick and strip


class Response:
    """The response of one TPC. Building it prepares the planes' strip edges.

    Raises:
        ConfigError: a TPC without drift constants, or with more than the three planes the settings have numbers for.
    """

    def __init__(self, tpc: Tpc, config: SimulationConfig) -> None:
        self.tpc, self.config = tpc, config
        speed, tick, n_ticks = tpc.frame.drift_speed_mm_us, tpc.frame.tick_us, tpc.frame.n_ticks
        if speed is None or tick is None or n_ticks < 1 or len(tpc.planes) > len(config.noise):
            raise ConfigError(
                f"TPC {tpc.number} of {tpc.detector}: drift speed {speed}, tick {tick} µs, {n_ticks} ticks, "
                f"{len(tpc.planes)} planes. Fix: simulate a detector with drift constants and at most three planes."
            )
        self.speed, self.tick, self.n_ticks = float(speed), float(tick), n_ticks
        self.edges = []
        for plane in tpc.planes:
            middle = 0.5 * (plane.offset_mm[1:] + plane.offset_mm[:-1])
            half = 0.5 * plane.pitch_mm
            self.edges.append(np.concatenate([[plane.offset_mm[0] - half], middle, [plane.offset_mm[-1] + half]]))
        self.plane_of = np.full(len(tpc.channels), -1, np.int64)  # columns of the other face belong to no plane
        for index, plane in enumerate(tpc.planes):
            self.plane_of[plane.column] = index

    def charge(self, deposits: Floats) -> Waveform:
        """(columns, ticks) electrons without noise, of (n, 5) deposits x, y, z [mm], t [µs], electrons.

        Charge beyond the outermost wires' strips, or outside the read-out window, is lost.
        """
        config = self.config
        out = np.zeros((len(self.tpc.channels), self.n_ticks), np.float32)
        drift_us = np.maximum(
            self.tpc.frame.drift_sign * (deposits[:, 0] - self.tpc.frame.anode_x_mm) / self.speed, 0.0
        )
        ticks = self.tpc.to_ticks(deposits[:, 0], deposits[:, 3])
        arriving = deposits[:, 4] * (np.exp(-drift_us / config.lifetime_us) if config.lifetime_us else 1.0)
        long_mm2 = 2.0 * config.diffusion_l_cm2_s * CM2_S_TO_MM2_US * drift_us
        trans_mm2 = 2.0 * config.diffusion_t_cm2_s * CM2_S_TO_MM2_US * drift_us
        for index, plane in enumerate(self.tpc.planes):
            sigma_tick = np.sqrt(long_mm2 / (self.speed * self.tick) ** 2 + config.smear_ticks[index] ** 2)
            sigma_mm = np.sqrt(trans_mm2 + (config.smear_pitches[index] * plane.pitch_mm) ** 2)
            pitch = deposits[:, 1] * plane.normal[0] + deposits[:, 2] * plane.normal[1]
            spread(
                ticks, pitch, arriving * config.gains[index], np.maximum(sigma_tick, MIN_SIGMA),
                np.maximum(sigma_mm, MIN_SIGMA), self.edges[index], plane.column, out,
            )  # fmt: skip
        return out

    def read_out(self, charge: Waveform, rng: np.random.Generator, dead: npt.NDArray[np.int64]) -> Waveform:
        """(ticks, columns) as after signal processing: noise, regions of interest, dead columns set to 0.

        Noise exists only where a signal reaches (4 σ): there are no regions of pure noise.

        Args:
            charge: (columns, ticks) of ``charge``; gets the noise added.
            rng: random numbers of this event and TPC.
            dead: dead columns.
        """
        config = self.config
        n_planes = len(self.tpc.planes)
        charge[dead] = 0.0
        if any(config.noise[:n_planes]):
            rows = np.count_nonzero(charge, axis=1)
            normals = rng.standard_normal(int(rows.sum()), dtype=np.float32)
            memory = math.exp(-1.0 / config.noise_ticks) if config.noise_ticks > 0 else 0.0
            add_noise(charge, self.plane_of, np.array(config.noise, np.float32), memory, normals)
        out = np.zeros((self.n_ticks, len(charge)), np.float32)
        threshold = np.array(config.roi_threshold) * np.array(config.noise)
        keep_regions(charge, self.plane_of, threshold, config.roi_padding, out)
        return out


@numba.njit(cache=True)
def spread(
    ticks: Floats, pitch: Floats, charge: Floats, sigma_tick: Floats, sigma_mm: Floats, edges: Floats,
    column: npt.NDArray[np.int32], out: Waveform,
) -> None:  # fmt: skip
    """Add (n,) charges, Gaussian around (tick, pitch), integrated over ticks × strips, to (columns, ticks).

    Tick i is the integral over i … i + 1, strip w that over ``edges[w]`` … ``edges[w + 1]``.
    """
    n_ticks, n_wires = out.shape[1], len(edges) - 1
    in_tick = np.empty(n_ticks)
    root = math.sqrt(2.0)
    for i in range(len(ticks)):
        first = max(0, math.floor(ticks[i] - REACH * sigma_tick[i]))
        last = min(n_ticks - 1, math.floor(ticks[i] + REACH * sigma_tick[i]))
        if first > last:
            continue
        scale = 1.0 / (root * sigma_tick[i])
        before = math.erf((first - ticks[i]) * scale)
        for t in range(first, last + 1):
            after = math.erf((t + 1 - ticks[i]) * scale)
            in_tick[t] = 0.5 * (after - before)
            before = after
        scale = 1.0 / (root * sigma_mm[i])
        reach = REACH * sigma_mm[i]
        wire = max(0, np.searchsorted(edges, pitch[i] - reach, side="right") - 1)
        if wire >= n_wires:
            continue
        low = math.erf((edges[wire] - pitch[i]) * scale)
        while wire < n_wires and edges[wire] <= pitch[i] + reach:
            high = math.erf((edges[wire + 1] - pitch[i]) * scale)
            part = 0.5 * (high - low) * charge[i]
            if part > 0.0:
                row = column[wire]
                for t in range(first, last + 1):
                    out[row, t] += part * in_tick[t]
            low = high
            wire += 1


@numba.njit(cache=True)
def add_noise(
    charge: Waveform,
    plane_of: npt.NDArray[np.int64],
    rms: npt.NDArray[np.float32],
    memory: float,
    normals: npt.NDArray[np.float32],
) -> None:
    """Add noise where charge is not 0; first-order autoregressive, ``memory``: correlation of neighbouring ticks."""
    fresh = math.sqrt(1.0 - memory * memory)
    drawn = 0
    for row in range(charge.shape[0]):
        plane = plane_of[row]
        previous, last = 0.0, -2
        for t in range(charge.shape[1]):
            if charge[row, t] != 0.0:
                normal = normals[drawn]
                drawn += 1
                previous = memory * previous + fresh * normal if last == t - 1 else normal
                last = t
                if plane >= 0:
                    charge[row, t] += rms[plane] * previous


@numba.njit(cache=True)
def keep_regions(
    charge: Waveform, plane_of: npt.NDArray[np.int64], threshold: Floats, padding: int, out: Waveform
) -> None:
    """Copy (columns, ticks) to (ticks, columns) within ``padding`` ticks of samples above the plane's threshold.

    Negative samples become 0, as signal processing leaves them out of its regions.
    """
    n_ticks = charge.shape[1]
    for row in range(charge.shape[0]):
        if plane_of[row] < 0:
            continue
        limit = threshold[plane_of[row]]
        written = 0
        for t in range(n_ticks):
            if charge[row, t] > limit:
                for k in range(max(written, t - padding), min(n_ticks, t + padding + 1)):
                    if charge[row, k] > 0.0:
                        out[k, row] = charge[row, k]
                written = min(n_ticks, t + padding + 1)
