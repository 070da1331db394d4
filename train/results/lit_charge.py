"""Where there is no truth: how much of the charge on each plane's wires the kept voxels explain.

A wire's charge in a slice of ticks is explained at a threshold if a voxel with score >= threshold lies on it. A good
score explains nearly all charge with few voxels, chance needs many. Charges of wires are those of the store's voxels,
divided among the wires of each (`train.results.solving.wire_sums`); below 0 they count as 0. A channel that another
face shares holds its charge, too, which no voxel here explains.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from larstore.errors import StoreError
from larstore.image import Image, Values
from train.results.score_bins import Bins
from train.results.solving import slice_wires, wire_sums
from train.results.tallies import EventKey, EventWeights, Tally, interval
from train.results.wire_shares import PlaneWires, plane_wires, voxel_shares

CHANCE = "chance"
MOST_CROSSING = 1024  # voxels on a wire in a slice, from which on it makes no difference how many
FRACTIONS = np.round(10 ** np.linspace(-3, 0, 61), 6)  # of the voxels, at which chance is told
TOLD = (0.01, 0.05, 0.1)  # of the voxels kept, in the summary

Floats = npt.NDArray[np.float64]


class LitCharge:
    """Sums over images without truth; ``add`` each, ``merge`` those of other workers.

    Args:
        bins: of each method's scores.
        weights: of the bootstrap over events.

    Attributes:
        n_images: that were taken in.
        missing: why images could not be taken in, if so.
    """

    def __init__(self, bins: Mapping[str, Bins], weights: EventWeights) -> None:
        self.bins, self._weights = dict(bins), weights
        self.planes: tuple[str, ...] = ()
        self.n_images, self.missing = 0, ""
        self._tallies: dict[str, Tally] = {}  # (1 + planes, bins): voxels, then the charge of each plane by best score
        self._crossing: Tally | None = None  # (planes, voxels on the wire): charge
        self._wires: dict[int, tuple[PlaneWires, ...]] = {}

    def _begin(self, planes: tuple[str, ...]) -> None:
        if self.planes:
            return
        self.planes = planes
        for name, bins in self.bins.items():
            self._tallies[name] = Tally((1 + len(planes), bins.n), self._weights)
        self._crossing = Tally((len(planes), MOST_CROSSING + 1), self._weights)

    def add(self, key: EventKey, image: Image, scores: Mapping[str, Values]) -> None:
        """Take in an image and the scores (n,) of each method."""
        store, tpc = image.store, image.key[2]
        if store.geometry.joined:
            self.missing = "the TPCs of the images are joined, their wires are not"
            return
        if tpc not in self._wires:
            try:
                self._wires[tpc] = plane_wires(store.geometry, tpc)
            except StoreError as error:
                self.missing = str(error).partition(" Fix:")[0]
                return
        self._begin(tuple(store.attributes["planes"]))
        assert self._crossing is not None
        self.n_images += 1
        shares = voxel_shares(self._wires[tpc], store.geometry.tpcs[tpc], store.attributes["downsample"], image.coords)
        number = np.unique(image.coords[:, 0], return_inverse=True)[1].astype(np.int64)
        places = {name: bins.index(scores[name]) for name, bins in self.bins.items()}
        found = {name: np.zeros((1 + len(self.planes), bins.n)) for name, bins in self.bins.items()}
        crossing = np.zeros(self._crossing.shape)
        for name, bins in self.bins.items():
            found[name][0] = np.bincount(places[name], minlength=bins.n)
        for p, share in enumerate(shares):
            _, matrix = slice_wires(number, share)
            live = (image.live >> p & 1).astype(bool)
            charge, told = wire_sums(matrix, image.charge[:, p].astype(np.float64), live)
            charge = np.where(told, np.maximum(charge, 0.0), 0.0)
            many = np.diff(matrix.indptr)
            crossing[p] = np.bincount(np.minimum(many, MOST_CROSSING), charge, MOST_CROSSING + 1)
            for name, bins in self.bins.items():
                best = _largest(places[name], matrix)
                found[name][1 + p] = np.bincount(best, charge, bins.n)
        for name, values in found.items():
            self._tallies[name].add(key, values)
        self._crossing.add(key, crossing)

    def merge(self, other: Self) -> None:
        """Add what another one took in of other events."""
        self.missing = self.missing or other.missing
        if not other.planes:
            return
        self._begin(other.planes)
        self.n_images += other.n_images
        for name, tally in self._tallies.items():
            tally.merge(other._tallies[name])
        assert self._crossing is not None
        assert other._crossing is not None
        self._crossing.merge(other._crossing)

    def _curve(self, name: str) -> tuple[Floats, Floats]:
        """By threshold, the highest first: (1 + B, bins) voxels kept, (1 + B, planes, bins) explained, of all."""
        sums = np.cumsum(self._tallies[name].sums[..., ::-1], axis=2)
        whole = sums[..., -1:]
        parts = np.divide(sums, whole, out=np.full_like(sums, np.nan), where=whole > 0)
        return parts[:, 0], parts[:, 1:]

    def _chance(self) -> Floats:
        """(1 + B, planes, fractions) that voxels kept at random explain: 1 - (1 - fraction)^k of wires with k."""
        assert self._crossing is not None
        sums = self._crossing.sums
        found = 1 - (1 - FRACTIONS) ** np.arange(MOST_CROSSING + 1)[:, None]
        whole = sums.sum(axis=2, keepdims=True)
        empty = np.full((*sums.shape[:2], len(FRACTIONS)), np.nan)
        return np.asarray(np.divide(sums @ found, whole, out=empty, where=whole > 0))

    def table(self) -> pd.DataFrame:
        """Columns method, plane, threshold (lowest score kept), kept (of the voxels), explained, low, high."""
        rows: list[dict[str, Any]] = []
        for name, bins in self.bins.items() if self.planes else ():
            kept, explained = self._curve(name)
            used = np.flatnonzero(np.diff(kept[0], prepend=0.0) > 0)
            for p, plane in enumerate(self.planes):
                for at in used.tolist():
                    low, high = interval(explained[:, p, at])
                    rows.append({"method": name, "plane": plane, "threshold": bins.thresholds[bins.n - 1 - at],
                                 "kept": kept[0, at], "explained": explained[0, p, at],
                                 "low": low, "high": high})  # fmt: skip
        chance = self._chance() if self.planes else None
        for p, plane in enumerate(self.planes):
            assert chance is not None
            for at, fraction in enumerate(FRACTIONS.tolist()):
                low, high = interval(chance[:, p, at])
                rows.append({"method": CHANCE, "plane": plane, "threshold": np.nan, "kept": fraction,
                             "explained": chance[0, p, at], "low": low, "high": high})  # fmt: skip
        return pd.DataFrame(rows, columns=["method", "plane", "threshold", "kept", "explained", "low", "high"])

    def told(self) -> dict[str, Any]:
        """What one asks for first: of each method and plane the charge explained by 1, 5 and 10 % of the voxels."""
        found: dict[str, Any] = {"images": self.n_images, "missing": self.missing or None, "kept": list(TOLD)}
        table = self.table()
        found["explained"] = {
            str(method): {
                str(plane): np.interp(TOLD, [0, *rows["kept"]], [0, *rows["explained"]]).tolist()
                for plane, rows in of_method.groupby("plane", sort=False)
            }
            for method, of_method in table.groupby("method", sort=False)
        }
        return found


def _largest(place: npt.NDArray[np.int64], matrix: Any) -> npt.NDArray[np.int64]:
    """(wires,) the largest of the numbers ``place`` (n,) of the voxels on each wire; every wire has one."""
    if not matrix.shape[0]:
        return np.zeros(0, np.int64)
    return np.asarray(np.maximum.reduceat(place[matrix.indices], matrix.indptr[:-1]))
