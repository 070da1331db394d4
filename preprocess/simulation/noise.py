"""Noise as signal processing leaves it: limited by the filter, and coloured on induction planes."""

import numpy as np
import numpy.typing as npt
from scipy import fft

from preprocess.simulation.config import SimulationConfig

Waveform = npt.NDArray[np.float32]
BLOCK = 256  # rows that are transformed at once: some MB
CUT = 1e-3  # frequencies with less than this fraction of the largest amplitude are left out


def amplitude(mhz: npt.NDArray[np.float64], config: SimulationConfig, tick_us: float, induction: bool
              ) -> npt.NDArray[np.float64]:  # fmt: skip
    """Relative amplitude of the noise at frequencies in MHz, 0 at 0.

    The electronics' noise is white once its response is divided out. The Gaussian filter of ``noise_ticks`` ends it
    above. On induction planes two lobes of opposite sign, ``induction_us`` apart, are divided out as well:
    |sin(π f t)| up to their best frequency 1/2t, so slow noise is raised like 1/f until the filter
    1 − exp(−(f/``noise_low_mhz``)²) ends it below.
    """
    sigma_us = config.noise_ticks * tick_us
    found = np.exp(-0.5 * (2.0 * np.pi * mhz * sigma_us) ** 2)
    found[mhz <= 0] = 0.0
    if induction and config.induction_us > 0:
        best = 0.5 / config.induction_us
        lobes = np.sin(np.pi * np.clip(mhz, 1e-9, best) * config.induction_us)
        found /= lobes
    if induction and config.noise_low_mhz > 0:
        found *= 1.0 - np.exp(-((mhz / config.noise_low_mhz) ** 2))
    return np.asarray(found)


def shape(config: SimulationConfig, tick_us: float, n_ticks: int, induction: bool) -> npt.NDArray[np.float32]:
    """(frequency,) factors for pairs of standard normals that ``add_noise`` turns into noise of rms 1.

    Frequencies are those of a real Fourier transform of ``length(n_ticks)``, without the high ones that carry nothing.
    """
    size = length(n_ticks)
    found = amplitude(fft.rfftfreq(size, tick_us), config, tick_us, induction)
    found[-1] = 0.0  # the highest frequency has no phase to draw
    kept = int(np.flatnonzero(found > CUT * found.max())[-1]) + 1
    power = 4.0 * float((found[:kept] ** 2).sum())  # of the transform of unit normals in both parts
    return np.asarray(found[:kept] * size / np.sqrt(power), np.float32)


def length(n_ticks: int) -> int:
    """Ticks that are transformed: at least ``n_ticks``, and a product of small primes."""
    return int(fft.next_fast_len(n_ticks, real=True))


def add_noise(rng: np.random.Generator, shape: npt.NDArray[np.float32], rms: float, rows: npt.NDArray[np.int64],
              charge: Waveform) -> None:  # fmt: skip
    """Add noise of an rms in electrons a tick to ``rows`` of (columns, ticks) charge."""
    n_ticks = charge.shape[1]
    factor = shape * np.float32(rms)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        normals = rng.standard_normal((len(block), len(shape), 2), dtype=np.float32)
        normals *= factor[:, None]
        noise = fft.irfft(normals.view(np.complex64)[:, :, 0], length(n_ticks), axis=1, overwrite_x=True)
        charge[block] += noise[:, :n_ticks]
