"""One image of a store: its arrays are read when first asked for, and its voxels know their place in the detector."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from larstore.errors import DamageError, StoreError
from larstore.format import PLACES, truth_names
from larstore.records import Pixels

if TYPE_CHECKING:
    from larstore.store import Store

PIECE_ROWS = 1 << 20  # pixels that are read at once

Coords = npt.NDArray[np.uint16]
Values = npt.NDArray[np.float32]


def pack(coords: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """(n, 3) coordinates as one number each, in the same order."""
    return np.asarray(coords.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1], dtype=np.int64))


def at_voxels(coords: Coords, others: Coords, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values (m,) of the sorted voxels ``others`` (m, 3) at the voxels ``coords`` (n, 3); 0 where there is none."""
    found = np.zeros(len(coords), dtype=values.dtype)
    if len(others):
        keys, wanted = pack(others), pack(coords)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        same = keys[at] == wanted
        found[same] = values[at[same]]
    return found


class Image:
    """The sparse 3D picture of one (file, event, TPC). ``loaded`` may hold arrays that were read together."""

    def __init__(self, store: "Store", row: int, loaded: dict[str, npt.NDArray[Any]] | None = None) -> None:
        self.store = store
        self.row = row
        self._loaded = loaded or {}

    def __repr__(self) -> str:
        file, event, tpc = self.key
        return f"<Image file={file} event={event} tpc={tpc}: {len(self)} voxels>"

    def _repr_html_(self) -> str:
        from larstore.notebook_views import image_html

        return image_html(self)

    def __len__(self) -> int:
        return int(self.summary("voxel_count"))

    def summary(self, name: str) -> Any:
        """This image's entry in a column of the index, as a plain Python value. DamageError for a negative count."""
        value = self.store.index_columns.column(name)[self.row].item()
        if name in PLACES and value < -name.endswith("_start"):
            raise DamageError(
                f"{self.store.path}/index: {name} of image (file, event, tpc) {self.key} is {value}. "
                f"Fix: restore index/{name}, or list all damage with 'larstore verify {self.store.path}'"
            )
        return value

    @property
    def input_path(self) -> str:
        """Path of the input that it was made from, "" if none is known."""
        row = self.summary("input")
        return str(self.store.inputs["path"].iloc[row]) if row >= 0 else ""

    @property
    def key(self) -> tuple[int, int, int]:
        """(file, event, tpc)."""
        return self.store.index_columns.keys(self.row)

    @property
    def coords(self) -> Coords:
        """(n, 3) uint16: x (drift), y, z in voxels, sorted."""
        return self._array("voxels/coords", "voxel")

    @property
    def charge(self) -> Values:
        """(n, planes) float32 in the store's units (electrons), planes in drift order."""
        return self._array("voxels/charge", "voxel")

    @property
    def live(self) -> npt.NDArray[np.uint8]:
        """(n,) uint8: bit p is set where plane p's charge comes from real wires only."""
        return self._array("voxels/live", "voxel")

    @property
    def truth(self) -> Values | None:
        """(n,) float32 true electrons (0: a ghost, NaN: not known), or None where the input had no truth."""
        if np.isnan(self.summary("truth_sum")):
            return None
        return self._array("voxels/truth", "voxel")

    @property
    def truth_voxels(self) -> tuple[Coords, Values] | None:
        """All voxels with truth, tiled or not: coords (m, 3) and value (m,), or None where the input had no truth."""
        if self.summary("truth_start") < 0:
            return None
        return self._array("truth/coords", "truth"), self._array("truth/value", "truth")

    @property
    def truth_columns(self) -> dict[str, npt.NDArray[Any]]:
        """What is known of each truth voxel besides its value: collected (m,) float32, pdg, track (m,) int32.

        Holds the columns that this image has; empty where the input told nothing.
        """
        if not self.store.root.truth_columns:
            return {}
        names = truth_names(self.summary("truth_columns"))
        return {name: self._array(f"truth/{name}", "truth") for name in names}

    @property
    def pixels(self) -> Pixels:
        """This image at full resolution, and its truth points; StoreError where the store does not keep them."""
        points = self.truth_points
        coords, charge, live = (self._array(f"pixels/{name}", "pixel") for name in ("coords", "charge", "live"))
        return replace(points, coords=coords, charge=charge, live=live)

    @property
    def truth_points(self) -> Pixels:
        """The truth points of ``pixels``, without the pixels. StoreError where the store does not keep them."""
        self._refuse_without_pixels()
        nothing = (np.empty((0, 3), np.uint16), np.empty((0, len(self.store.root.planes)), np.float32))
        if self.summary("point_start") < 0:
            return Pixels(*nothing, np.empty(0, np.uint8))
        places, values = (self._array(f"pixels/truth_{name}", "point") for name in ("coords", "value"))
        names = truth_names(self.summary("truth_columns")) if self.store.root.truth_columns else ()
        columns = {name: self._array(f"pixels/truth_{name}", "point") for name in names}
        return Pixels(*nothing, np.empty(0, np.uint8), places, values, columns)

    def pixel_pieces(
        self, ticks: int, rows: int = PIECE_ROWS
    ) -> Iterator[tuple[Coords, Values, npt.NDArray[np.uint8]]]:
        """``pixels``' coords, charge and live, about ``rows`` rows at a time, so that few are in memory.

        A piece ends where the tick divided by ``ticks`` changes. StoreError where the store does not keep them.
        """
        self._refuse_without_pixels()
        read, start = self.store.read_rows, self.summary("pixel_start")
        stop, length = start + self.summary("pixel_count"), rows
        while start < stop:
            end = min(start + length, stop)
            x = read("pixels/coords", start, end)
            if end < stop:  # the last run of ticks may go on in the next piece
                run = x[:, 0].astype(np.int64) // ticks
                whole = int(np.searchsorted(run, run[-1]))
                length = rows if whole else 2 * length
                x = x[:whole]
            if len(x):
                charge, live = (read(f"pixels/{name}", start, start + len(x)) for name in ("charge", "live"))
                yield x, charge, live
            start += len(x)

    def _refuse_without_pixels(self) -> None:
        if not self.store.root.pixels or self.summary("pixel_start") < 0:
            raise StoreError(
                f"{self.store.path}: keeps no pixels of image {self.key}. "
                "Fix: run 'larstore preprocess --save-pix' into a new store"
            )

    @property
    def collected(self) -> Values:
        """(n,) float32 true electrons that reach the wires, 0: a ghost, NaN: not known, or the input did not tell."""
        voxels, columns = self.truth_voxels, self.truth_columns
        if voxels is None or "collected" not in columns:
            return np.full(len(self), np.nan, dtype=np.float32)
        found = at_voxels(self.coords, voxels[0], columns["collected"])
        truth = self.truth
        return found if truth is None else np.where(np.isnan(truth), truth, found)

    def score(self, name: str) -> Values:
        """(n,) float32 of prediction ``name``, NaN where it has not been predicted."""
        key = f"predictions/{name}/score"
        if key not in self._loaded:
            start = self.summary("voxel_start")
            self._loaded[key] = self.store.read_scores(name, start, start + len(self))
        return self._loaded[key]

    def position(self, t0: float = 0.0) -> npt.NDArray[np.float64]:
        """(n, 3) voxel centres x, y, z in cm in the detector's frame, for charge freed at time ``t0`` (µs).

        Of a joined image they are right to half a voxel. Raises StoreError where the geometry does not tell the drift
        speed, tick or tick of zero drift, and for a ``t0`` where TPCs that drift to both sides are joined.
        """
        return self.position_of(self.coords, t0)

    def position_of(self, coords: npt.NDArray[Any], t0: float = 0.0) -> npt.NDArray[np.float64]:
        """``position`` for any voxels (k, 3) of this image's TPC, as for its truth voxels; raises the same."""
        tpc = self.key[2]
        try:
            frame = self.store.geometry.tpcs[tpc]
        except KeyError as error:
            raise StoreError(
                f"{self.store.path}: geometry/ has no TPC {tpc}. Fix: preprocess with its detector"
            ) from error
        speed, tick_us, zero = frame.drift_speed_mm_us, frame.tick_us, frame.tick_zero_drift
        if speed is None or tick_us is None or zero is None:
            raise StoreError(
                f"{self.store.path}: TPC {tpc} has no drift speed, tick length or tick of zero drift. "
                "Fix: preprocess with a detector that defines them"
            )
        if t0 and frame.joined_origin is not None:
            self._refuse_both_sides(t0)
        origin = np.asarray(frame.joined_origin or (0, 0, 0), dtype=np.float64)
        centre = (coords.astype(np.float64) - origin + 0.5) * np.asarray(self.store.attributes["downsample"])
        drift_us = (centre[:, 0] - zero) * tick_us - t0
        x = frame.anode_x_mm + frame.drift_sign * drift_us * speed
        y = frame.origin_y_mm + centre[:, 1] * frame.pixel_mm
        z = frame.origin_z_mm + centre[:, 2] * frame.pixel_mm
        return np.stack([x, y, z], axis=1) / 10.0

    def _refuse_both_sides(self, t0: float) -> None:
        geometry = self.store.geometry
        if len({geometry.tpcs[n].drift_sign for n in geometry.joined}) > 1:
            raise StoreError(
                f"{self.store.path}: t0 = {t0} moves TPCs {geometry.joined}, which drift to both sides, apart. "
                "Fix: t0 = 0, or the images of the single TPCs"
            )

    def _array(self, path: str, kind: str) -> npt.NDArray[Any]:
        if path not in self._loaded:
            start = self.summary(f"{kind}_start")
            self._loaded[path] = self.store.read_rows(path, start, start + self.summary(f"{kind}_count"))
        return self._loaded[path]
