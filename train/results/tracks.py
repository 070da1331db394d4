"""Straight pieces of muon tracks, found in the truth of an image, and the charge along them in layers of voxels.

A piece is a line (principal component of its true voxels, weighted with their truth) and a run of **layers**: planes of
voxels along the coordinate that the line crosses fastest. The line's length in a layer is the voxel's size divided by
the direction's part along that coordinate, exactly and for all layers, so that dQ/dx has no error of binning: whole
voxels along the line of sight would hold now one, now two voxels a centimetre.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from larstore.errors import StoreError

MUON = 13
LEAST_VOXELS = 50  # true voxels of a track; the research code's cut on clusters
LEAST_LAYERS = 8  # of a piece, after the track's first and last layer, which it may cross in part, are taken off
PIECE_CM = 40.0  # longer ones bend: a muon of 1 GeV scatters by 0.5 cm in 40 cm
STRAIGHT_CM = 1.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A straight part of a track.

    Attributes:
        axis: the voxel coordinate (0, 1, 2 = x, y, z) that layers are counted along.
        first, last: layers, both included.
        centre, direction: (3,) of its line, in cm from the corner of voxel (0, 0, 0); the direction, of length 1,
            leads to higher layers.
        layer_cm: length of the line in a layer.
        spread_cm: square root of the second eigenvalue: rms distance of the truth from the line, along the worse axis.
    """

    axis: int
    first: int
    last: int
    centre: Floats
    direction: Floats
    layer_cm: float
    spread_cm: float

    def __len__(self) -> int:
        return self.last - self.first + 1

    def at(self, layers: npt.NDArray[np.floating[Any]]) -> Floats:
        """(n, 3) places of the line, in cm, ``layers`` layers from the begin of the first one."""
        begin = self.first * self.layer_cm * self.direction[self.axis]
        along = (begin - self.centre[self.axis]) / self.direction[self.axis] + layers * self.layer_cm
        return np.asarray(self.centre + along[:, None] * self.direction)

    def near(self, coords: npt.NDArray[Any], size_cm: Floats, tube_cm: float) -> npt.NDArray[np.int64]:
        """Rows of the voxels (n, 3) in these layers whose centres are at most ``tube_cm`` from the line."""
        layer = coords[:, self.axis]
        rows = np.flatnonzero((layer >= self.first) & (layer <= self.last))
        apart = (coords[rows] + 0.5) * size_cm - self.centre
        square = (apart**2).sum(axis=1) - (apart @ self.direction) ** 2
        return np.asarray(rows[square <= tube_cm**2])

    def layers(self, coords: npt.NDArray[Any], charge: npt.NDArray[Any]) -> Floats:
        """(layers,) sums of the charge (n,) of voxels (n, 3) that are in these layers."""
        at = coords[:, self.axis].astype(np.int64) - self.first
        return np.bincount(at, weights=charge, minlength=len(self)).astype(np.float64)  # without rows it counts


@dataclass(frozen=True)
class Track:
    """A muon in an image: its straight pieces in the order of their layers, and its first and last true voxel."""

    number: int
    pdg: int
    n_voxels: int
    pieces: tuple[Piece, ...]
    ends: npt.NDArray[np.int64]  # (2, 3) voxels
    bent: int  # pieces that were left out because they are not straight


def voxel_size_cm(store: Any) -> Floats:
    """(3,) size of a store's voxels; StoreError where the drift speed is not known."""
    size = store.attributes["voxel_mm"]
    if size[0] is None:
        raise StoreError(
            f"{store.path}: the geometry does not tell the drift speed, so not the size of a voxel. "
            "Fix: preprocess with a detector that has it"
        )
    return np.array(size, np.float64) / 10.0


def muon_tracks(
    image: Any, size_cm: Floats, piece_cm: float = PIECE_CM, straight_cm: float = STRAIGHT_CM
) -> Iterator[Track]:
    """The muons of an image with at least ``LEAST_VOXELS`` true voxels; nothing where it tells no pdg and track.

    Args:
        image: with truth voxels and the truth columns pdg and track.
        size_cm: (3,) of a voxel.
        piece_cm: about the length of a piece.
        straight_cm: pieces whose ``spread_cm`` is larger are left out.
    """
    voxels, columns = image.truth_voxels, image.truth_columns
    if voxels is None or not {"pdg", "track"} <= set(columns):
        return
    muon = np.flatnonzero((np.abs(columns["pdg"]) == MUON) & (columns["track"] >= 0) & (voxels[1] > 0))
    numbers, inverse, counts = np.unique(columns["track"][muon], return_inverse=True, return_counts=True)
    for i in np.flatnonzero(counts >= LEAST_VOXELS):
        rows = muon[inverse == i]
        coords, value = voxels[0][rows].astype(np.int64), voxels[1][rows].astype(np.float64)
        pieces, bent, ends = _pieces(coords, value, size_cm, piece_cm, straight_cm)
        if pieces:
            yield Track(int(numbers[i]), int(columns["pdg"][rows[0]]), len(rows), pieces, ends, bent)


def principal_axis(points: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Centre (3,), direction (3,) and eigenvalues (3,), the largest first, of weighted points (n, 3)."""
    share = weights / weights.sum()
    centre = share @ points
    apart = points - centre
    values, vectors = np.linalg.eigh((apart * share[:, None]).T @ apart)
    return centre, vectors[:, 2], values[::-1].clip(min=0.0)


def _pieces(
    coords: npt.NDArray[np.int64], value: Floats, size_cm: Floats, piece_cm: float, straight_cm: float
) -> tuple[tuple[Piece, ...], int, npt.NDArray[np.int64]]:
    points = (coords + 0.5) * size_cm
    _, direction, _ = principal_axis(points, value)
    axis = int(np.argmax(np.abs(direction) / size_cm))
    layer = coords[:, axis]
    order = np.argsort(layer, kind="stable")
    ends = coords[order[[0, -1]]]
    inner = np.arange(int(layer.min()) + 1, int(layer.max()))
    length = len(inner) * size_cm[axis] / abs(direction[axis])
    found: list[Piece] = []
    bent = 0
    for layers in np.array_split(inner, max(1, round(length / piece_cm))):
        if len(layers) < LEAST_LAYERS:
            continue
        here = (layer >= layers[0]) & (layer <= layers[-1])
        if here.sum() < LEAST_LAYERS:
            continue
        centre, own, values = principal_axis(points[here], value[here])
        own = own * np.sign(own[axis] or 1.0)
        spread = float(np.sqrt(values[1]))
        if spread > straight_cm or own[axis] < 0.1:
            bent += 1
            continue
        step = float(size_cm[axis] / own[axis])
        found.append(Piece(axis, int(layers[0]), int(layers[-1]), centre, own, step, spread))
    return tuple(found), bent, ends
