"""Frames without truth: how much of the lit charge of each plane the kept voxels explain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import larstore
from preprocess.areas import TILE
from preprocess.detector import load_detector
from preprocess.overlap import PATCH, Overlaps, grid_of
from preprocess.sources import open_source
from preprocess.voxels import Tiler
from tests.benchmarks.training_settings import DOWNSAMPLE
from train.results.baselines import plane_agreement

FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)  # of the voxels that are kept
CUT = 0.5  # the score at which the network's choice is told


@dataclass(frozen=True)
class FrameInput:
    """A frame archive of `LARSTORE_TEST_DATA`/frames, and how it is read."""

    name: str
    title: str
    file: str
    detector: str
    tpc: int
    tag: str | None


FRAMES = (
    FrameInput("sp", "ProtoDUNE-SP, simulated by others", "pdsp-sim-sp-0.29.3.tar.bz2", "protodune-sp", 1, None),
    FrameInput(
        "hd", "ProtoDUNE-HD, data of run 27409", "protodunehd-sp-frames-anode1.tar.bz2", "protodune-hd", 2, "gauss1"
    ),
    FrameInput(
        "vd", "ProtoDUNE-VD, data of run 39324", "pdvd_protodune-sp-frames-anode1.tar.bz2", "protodune-vd", 3, "gauss1"
    ),
)


def explain_frame(frame: FrameInput, data: Path, store: Path, prediction: str, threshold: float) -> dict[str, Any]:
    """The curves of a frame: by the network's score, by the agreement of the planes, and by chance.

    Returns ``fraction`` (voxels kept), and per method and plane ``explained`` at these fractions; ``network_at`` what
    the score above `CUT` keeps and explains.
    """
    tiler = Tiler(load_detector(frame.detector).tpc(frame.tpc))
    (event,) = open_source(data / "frames" / frame.file).events(tiler.tpc, **({"tag": frame.tag} if frame.tag else {}))
    (image,) = larstore.open(store).select()
    lit = lit_charge(event.waveform, threshold, event.first_tick)
    n_planes = len(tiler.tpc.planes)
    plane_of = tiler.overlaps.column_plane
    random = np.random.default_rng(5)
    score, n = image.score(prediction), len(image)
    scores = {
        "network": score,
        "plane_agreement": plane_agreement(image.charge, image.live),
        "chance": random.random(n, dtype=np.float32),
    }
    patches_z = grid_of(tiler.tpc).patches[1]
    found: dict[str, Any] = {"title": frame.title, "tpc": frame.tpc, "voxels": n, "fraction": list(FRACTIONS)}
    found["planes"] = [plane.name for plane in tiler.tpc.planes]
    found["lit_charge"] = [float(lit[:, plane_of == p].sum()) for p in range(n_planes)]
    for name, values in scores.items():
        rank = np.empty(n, np.float32)  # from 0, worst first; equal scores in any order, so that fractions are exact
        rank[np.lexsort((random.random(n), values))] = np.arange(n)
        best = best_scores(tiler.overlaps, patches_z, lit.shape, image.coords, rank)
        cuts = [n - round(fraction * n) for fraction in FRACTIONS]
        found[name] = [explained(lit, best, plane_of == p, cuts) for p in range(n_planes)]
    best = best_scores(tiler.overlaps, patches_z, lit.shape, image.coords, score)
    at = [explained(lit, best, plane_of == p, [CUT])[0] for p in range(n_planes)]
    found["network_at"] = {"score": CUT, "kept": float((score >= CUT).mean()), "explained": at}
    return found


def lit_charge(waveform: npt.NDArray[np.float32], threshold: float, first_tick: int = 0) -> npt.NDArray[np.float64]:
    """(blocks of ticks, columns) charge of the samples above ``threshold``."""
    lit = np.where(waveform > threshold, waveform, 0).astype(np.float64)
    block = (np.arange(len(lit)) + first_tick) // DOWNSAMPLE[0]
    blocks = np.zeros((int(block[-1]) + 1, lit.shape[1]))
    np.add.at(blocks, block, lit)
    return blocks


def best_scores(
    overlaps: Overlaps,
    patches_z: int,
    shape: tuple[int, ...],
    coords: npt.NDArray[np.uint16],
    score: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """(blocks, columns) the highest score of the voxels that cross a column in a block of ticks; −inf without any.

    A voxel of 4 × 4 pixels is a tile of the overlaps: it crosses the columns that have a share of the tile.
    """
    assert DOWNSAMPLE[1:] == (TILE, TILE)
    best = np.full(shape, -np.inf, np.float32)
    x, y, z = coords.astype(np.int64).T
    tile = ((y // PATCH) * patches_z + z // PATCH) * PATCH**2 + PATCH * (y % PATCH) + z % PATCH
    n_planes = overlaps.none.shape[1]
    first = overlaps.tile_start[n_planes * tile].astype(np.int64)
    last = overlaps.tile_start[n_planes * (tile + 1)].astype(np.int64)
    for row, column in _entries(overlaps, first, last):
        np.maximum.at(best, (x[row], column), score[row])
    return best


def _entries(overlaps: Overlaps, first: Any, last: Any) -> Iterator[tuple[Any, Any]]:
    """Voxels and one of the columns that each crosses, as often as the fullest tile has columns."""
    for k in range(int((last - first).max(initial=0))):
        row = np.flatnonzero(first + k < last)
        column = overlaps.entry_column[first[row] + k].astype(np.int64)
        wires = column < len(overlaps.column_plane)  # the others stand for parts without wires
        yield row[wires], column[wires]


def explained(lit: Any, best: Any, columns: Any, cuts: Sequence[float]) -> list[float]:
    """For each cut the share of the columns' lit charge that a voxel with score >= cut crosses."""
    charge, reached = lit[:, columns].ravel(), best[:, columns].ravel()
    total = charge.sum()
    return [float(charge[reached >= cut].sum() / total) for cut in cuts]
