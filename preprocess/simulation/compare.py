"""What frames look like, in numbers that can be set side by side: simulated events and recorded ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from preprocess.detector.model import Tpc

QUANTILES = (0.1, 0.5, 0.9, 0.99)
BRIDGE = 12  # signal processing sets negative samples to 0, which cuts its regions into pieces


@dataclass(frozen=True)
class PlaneSummary:
    """The regions of interest of one plane in some frames, as ``regions_of`` finds them.

    Attributes:
        lit: fraction of (channel, tick) samples that are not 0.
        regions: number of regions per channel and frame.
        length: (quantile,) ticks of a region, at ``QUANTILES``; NaN without regions, as the next two.
        peak: (quantile,) largest sample of a region, electrons a tick.
        charge: (quantile,) sum of a region, electrons.
        total: sum of all samples, electrons per frame.
    """

    lit: float
    regions: float
    length: tuple[float, ...]
    peak: tuple[float, ...]
    charge: tuple[float, ...]
    total: float


@dataclass(frozen=True)
class FrameSummary:
    """Some frames of one TPC.

    Attributes:
        planes: by name, in drift order.
        ratio: charge of each plane over that of the last one, which collects; NaN where that is empty.
    """

    planes: dict[str, PlaneSummary]
    ratio: dict[str, float]


def summarise(tpc: Tpc, waveforms: Iterable[npt.NDArray[np.floating]]) -> FrameSummary:
    """Summary of (ticks, columns) waveforms in electrons; at least one, all of this TPC."""
    found: list[list[npt.NDArray[np.float64]]] = [[] for _ in tpc.planes]
    lit = np.zeros(len(tpc.planes))
    samples = np.zeros(len(tpc.planes))
    frames = 0
    for waveform in waveforms:
        frames += 1
        for index, plane in enumerate(tpc.planes):
            traces = np.ascontiguousarray(waveform[:, np.unique(plane.column)].T, dtype=np.float32)
            found[index].append(regions_of(traces))
            lit[index] += np.count_nonzero(traces)
            samples[index] += traces.size
    planes = {}
    for index, plane in enumerate(tpc.planes):
        regions = np.concatenate(found[index])
        planes[plane.name] = PlaneSummary(
            lit=float(lit[index] / samples[index]),
            regions=len(regions) / (frames * len(np.unique(plane.column))),
            length=_quantiles(regions[:, 1]),
            peak=_quantiles(regions[:, 2]),
            charge=_quantiles(regions[:, 3]),
            total=float(regions[:, 3].sum() / frames),
        )
    last = planes[tpc.planes[-1].name].total
    return FrameSummary(planes, {name: p.total / last if last else float("nan") for name, p in planes.items()})


def table(summaries: dict[str, FrameSummary]) -> str:
    """A Markdown table, a row for each sample and plane; lengths in ticks, peaks and charges in electrons."""
    head = ("sample", "plane", "lit %", "regions a channel", "length 10/50/90/99 %", "peak 10/50/90/99 %",
            "median charge", "sum / last plane")  # fmt: skip
    lines = [_row(head), _row(["---"] * len(head))]
    for sample, summary in summaries.items():
        for name, plane in summary.planes.items():
            cells = (
                sample, name, f"{100 * plane.lit:.2f}", f"{plane.regions:.2f}", _slashes(plane.length),
                _slashes(plane.peak), f"{plane.charge[QUANTILES.index(0.5)]:.0f}", f"{summary.ratio[name]:.3f}",
            )  # fmt: skip
            lines.append(_row(cells))
    return "\n".join(lines)


def regions_of(traces: npt.NDArray[np.float32], bridge: int = BRIDGE) -> npt.NDArray[np.float64]:
    """(region, 4) channel row, ticks, peak and sum of the regions of (channels, ticks) traces.

    Regions are what is not 0; where they are ``bridge`` ticks apart or less, they are one.
    """
    edges = np.diff(np.pad(traces != 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, first = np.nonzero(edges == 1)
    last = np.nonzero(edges == -1)[1]
    if len(rows):
        new = np.append(True, (rows[1:] != rows[:-1]) | (first[1:] - last[:-1] > bridge))
        rows, first = rows[new], first[new]
        last = last[np.append(new[1:], True)]
    out = np.empty((len(rows), 4))
    _measure(traces, rows, first, last, out)
    return out


@numba.njit(cache=True)
def _measure(
    traces: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64], out: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    for i in range(len(rows)):
        peak, total = -np.inf, 0.0
        for t in range(first[i], last[i]):
            value = traces[rows[i], t]
            peak = max(peak, value)
            total += value
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = rows[i], last[i] - first[i], peak, total


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    if not len(values):
        return (float("nan"),) * len(QUANTILES)
    return tuple(float(q) for q in np.quantile(values, QUANTILES))


def _slashes(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
