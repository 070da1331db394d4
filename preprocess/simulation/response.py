"""From electrons in argon to what signal processing hands on: drift, diffusion, filter smear, noise, regions."""

import math
from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError
from preprocess.detector.model import Tpc
from preprocess.simulation.config import SimulationConfig
from preprocess.simulation.noise import add_noise, shape
from preprocess.simulation.particles import Box, box_of
from preprocess.simulation.regions import copy_regions, find_regions, keep_connected, lose_prolonged, room_for

Floats = npt.NDArray[np.float64]
Waveform = npt.NDArray[np.float32]
REACH = 4.0  # a Gaussian is cut at this many σ: 6e-5 of it is lost
CM2_S_TO_MM2_US = 1e-4
MIN_SIGMA = 1e-3  # in ticks or mm; without any smear the charge stays in one tick and strip


class Response:
    """The response of one TPC. Building it prepares the planes' strip edges and the colours of the noise.

    Attributes:
        tpc, config: what it was built from.
        boxes: the drift volumes of the partners, whose charge arrives on shared channels too.
        plane_of: (columns,) the plane of each column, −1 for those of the other face.

    Raises:
        ConfigError: a TPC without drift constants, or with more than the three planes the settings have numbers for.
    """

    def __init__(self, tpc: Tpc, config: SimulationConfig, partners: Sequence[Tpc] = ()) -> None:
        self.tpc, self.config = tpc, config
        self._own = _Face(tpc, config)
        self._partners = [_Face(partner, config) for partner in partners]
        self.boxes: list[Box] = [box_of(partner) for partner in partners]
        self.n_ticks = tpc.frame.n_ticks
        self.plane_of = np.full(len(tpc.channels), -1, np.int64)
        for index, plane in enumerate(tpc.planes):
            self.plane_of[plane.column] = index
        last = len(tpc.planes) - 1  # it collects
        self._shapes = [shape(config, self._own.tick, self.n_ticks, index < last) for index in range(last + 1)]

    def charge(self, deposits: Floats) -> Waveform:
        """(columns, ticks) electrons without noise, of (n, 5) deposits x, y, z [mm], t [µs], electrons.

        Deposits in a partner's drift volume drift to that face, and arrive where its wires share this TPC's channels.
        Charge beyond the outermost wires' strips, or outside the read-out window, is lost.
        """
        out = np.zeros((len(self.tpc.channels), self.n_ticks), np.float32)
        for box, partner in zip(self.boxes, self._partners, strict=True):
            beyond = box.contains(deposits[:, :3])
            partner.add(deposits[beyond], out)
            deposits = deposits[~beyond]
        self._own.add(deposits, out)
        return out

    def read_out(self, charge: Waveform, rng: np.random.Generator, dead: npt.NDArray[np.int64]) -> Waveform:
        """(ticks, columns) as after signal processing: noise, regions of interest, gaps, dead columns set to 0.

        Args:
            charge: (columns, ticks) of ``charge``; gets the noise added.
            rng: random numbers of this event and TPC.
            dead: dead columns.
        """
        config = self.config
        n_planes = len(self.tpc.planes)
        rms = np.array(config.noise[:n_planes])
        for index, plane_shape in enumerate(self._shapes):
            if rms[index] > 0:
                add_noise(rng, plane_shape, rms[index], np.flatnonzero(self.plane_of == index), charge)
        charge[dead] = 0.0
        room = room_for(len(charge), self.n_ticks, config.roi_padding)
        threshold = np.array(config.roi_threshold[:n_planes]) * rms
        regions = room[: find_regions(charge, self.plane_of, threshold, config.roi_padding, room)]
        kept = np.empty(len(regions), np.bool_)
        keep_connected(charge, self.plane_of, np.array(config.roi_sure[:n_planes]) * rms, regions, kept)
        regions = regions[kept]
        if config.gaps > 0:
            uniforms = rng.random((len(charge), self.n_ticks // config.gap_piece + 1), dtype=np.float32)
            limit = config.gap_peak * rms
            limit[-1] = 0.0  # the collected signal has one sign: nothing cancels
            lose_prolonged(
                charge, regions, self.plane_of, limit, config.gap_ticks, config.gap_piece, config.gaps, uniforms
            )
        out = np.zeros((self.n_ticks, len(charge)), np.float32)
        copy_regions(charge, regions, out)
        return out


class _Face:
    """The wires of one face, ready to be charged."""

    def __init__(self, tpc: Tpc, config: SimulationConfig) -> None:
        speed, tick, n_ticks = tpc.frame.drift_speed_mm_us, tpc.frame.tick_us, tpc.frame.n_ticks
        if speed is None or tick is None or n_ticks < 1 or len(tpc.planes) > len(config.noise):
            raise ConfigError(
                f"TPC {tpc.number} of {tpc.detector}: drift speed {speed}, tick {tick} µs, {n_ticks} ticks, "
                f"{len(tpc.planes)} planes. Fix: simulate a detector with drift constants and at most three planes."
            )
        self.tpc, self.config = tpc, config
        self.speed, self.tick = float(speed), float(tick)
        self.edges = []
        for plane in tpc.planes:
            middle = 0.5 * (plane.offset_mm[1:] + plane.offset_mm[:-1])
            half = 0.5 * plane.pitch_mm
            self.edges.append(np.concatenate([[plane.offset_mm[0] - half], middle, [plane.offset_mm[-1] + half]]))

    def add(self, deposits: Floats, out: Waveform) -> None:
        """Add the charge of (n, 5) deposits to (columns, ticks)."""
        config = self.config
        drift_us = drift_time(self.tpc, deposits[:, 0])
        ticks = self.tpc.to_ticks(deposits[:, 0], deposits[:, 3])
        arriving = deposits[:, 4] * surviving(drift_us, config)
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


def drift_time(tpc: Tpc, x_mm: Floats) -> Floats:
    """Time in µs that electrons from ``x_mm`` take to the TPC's anode; 0 for those behind it."""
    speed = tpc.frame.drift_speed_mm_us
    assert speed is not None  # checked when the response was built
    return np.asarray(np.maximum(tpc.frame.drift_sign * (x_mm - tpc.frame.anode_x_mm) / speed, 0.0))


def surviving(drift_us: Floats, config: SimulationConfig) -> Floats:
    """The share of electrons that attachment leaves after a drift of so many µs."""
    if config.lifetime_us is None:
        return np.ones_like(drift_us)
    return np.asarray(np.exp(-drift_us / config.lifetime_us))


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
