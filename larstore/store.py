"""A store opened for reading: never written to, not even a lock, and seen as it was when it was opened."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from larstore import table
from larstore.conditions import Where
from larstore.errors import DamageError, StoreError
from larstore.format import FAILURE_COLUMNS, INPUT_COLUMNS, kind_of
from larstore.geometry import WIRE_COLUMNS, Geometry, TpcGeometry
from larstore.image import Image
from larstore.index import Index
from larstore.locations import Place, Url, place_of
from larstore.reading import CHECKED_BYTES, ShardReader, read_pieces, read_together
from larstore.root import Root, read_root
from larstore.selection import Selection
from larstore.shards import layout_of


def open(path: str | os.PathLike[str] | Url, storage_options: Mapping[str, Any] | None = None) -> "Store":
    """Open a store for reading: a path, or a URL that fsspec knows (``http://``, ``s3://``, …) and its options.

    Raises StoreError (no store, newer format) or DamageError (root damaged).
    """
    return Store(place_of(path, storage_options))


class Store:
    """One commit of a store. Pickles as its path and root document: a worker process sees the same commit."""

    def __init__(self, path: Place, root: Root | None = None) -> None:
        self.path: Any = path  # what a writer is given is a Path
        self.root = read_root(path) if root is None else root
        self.index_columns = Index(path, self.root)
        self._readers: dict[str, ShardReader] = {}
        self._frames: dict[str, pd.DataFrame] = {}
        self._geometry: Geometry | None = None
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path, self.root)

    def __repr__(self) -> str:
        a = self.attributes
        return f"<Store {self.path}: {len(self)} images, {a['detector']}, commit {a['commit']}>"

    def _repr_html_(self) -> str:
        from larstore.notebook_views import store_html

        return store_html(self)

    def __len__(self) -> int:
        return len(self.index_columns.live)

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes: format_version, detector, geometry_hash, tick_us, voxel_mm, downsample, units, …"""
        return self.root.attributes

    @property
    def index(self) -> pd.DataFrame:
        """One row per image, indexed by (file, event, tpc) and sorted by it; newest, not deleted rows only."""
        with self._lock:
            if "index" not in self._frames:
                self._frames["index"] = self.index_columns.frame(self.index_columns.live)
            return self._frames["index"].copy(deep=False)

    @property
    def inputs(self) -> pd.DataFrame:
        """The input files: path, file number, size in bytes, sha256, sample. The index's ``input`` is a row here."""
        return self._table("inputs", INPUT_COLUMNS)

    @property
    def failures(self) -> pd.DataFrame:
        """Work units that failed and were not processed by a later commit: file, tpc, input, error, commit.

        tpc = -1: the file could not even be looked into; any later image of it settles that.
        """
        failed = self._table("failures", FAILURE_COLUMNS)
        failed = failed.drop_duplicates(["file", "tpc", "input"], keep="last")
        if failed.empty:
            return failed
        done = self._last_commits(failed["file"].to_numpy())
        later = done.reindex(pd.MultiIndex.from_frame(failed[["file", "tpc"]]), fill_value=-1).to_numpy()
        of_file = done.groupby(level="file").max().reindex(failed["file"], fill_value=-1).to_numpy()
        later = np.where(failed["tpc"] < 0, of_file, later)
        return failed[later <= failed["commit"].to_numpy()].reset_index(drop=True)

    def _last_commits(self, files: npt.NDArray[Any]) -> "pd.Series[int]":
        """(file, tpc) -> commit of its newest image, of these files; takes no memory for images of others."""
        columns, live = self.index_columns, self.index_columns.live
        rows = live[np.isin(columns.column("file")[live], files)]
        newest = pd.DataFrame({name: columns.column(name)[rows] for name in ("file", "tpc", "commit")})
        return newest.groupby(["file", "tpc"])["commit"].max()

    def _table(self, group: str, columns: dict[str, str]) -> pd.DataFrame:
        with self._lock:
            if group not in self._frames:
                data = {
                    c: table.read_column(self.path, f"{group}/{c}", self.root.nodes[f"{group}/{c}"]) for c in columns
                }
                self._frames[group] = pd.DataFrame(data)
            return self._frames[group].copy(deep=False)

    @property
    def predictions(self) -> dict[str, dict[str, Any]]:
        """Name of each prediction -> its attributes (config, checkpoint_sha256, done shards, …)."""
        return {name: dict(self.root.nodes[f"predictions/{name}"]["attributes"]) for name in self.root.predictions}

    @property
    def geometry(self) -> Geometry:
        """The wires and frames that the images were tiled with; checked against the geometry hash."""
        with self._lock:
            if self._geometry is None:
                self._geometry = self._read_geometry()
            return self._geometry

    def _read_geometry(self) -> Geometry:
        wires: dict[str, npt.NDArray[Any]] = {}
        for name in WIRE_COLUMNS:
            if name in ("tail", "head"):
                parts = [self._column(f"geometry/{name}_{axis}") for axis in "xyz"]
                wires[name] = np.stack(parts, axis=1)
            else:
                wires[name] = self._column(f"geometry/{name}")
        frames = self.root.nodes["geometry"]["attributes"].get("tpcs")
        try:
            tpcs = TypeAdapter(dict[int, TpcGeometry]).validate_python(frames)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DamageError(
                f"{self.path}/geometry: attribute tpcs.{where}: {first['msg']}. Fix: restore the root from a copy"
            ) from error
        geometry = Geometry(self.attributes["detector"], wires, tpcs)
        if geometry.hash != self.attributes["geometry_hash"]:
            raise DamageError(
                f"{self.path}/geometry: does not match the root's geometry_hash. Fix: restore geometry/ from a copy"
            )
        return geometry

    def _column(self, path: str) -> npt.NDArray[Any]:
        return table.read_column(self.path, path, self.root.nodes[path])

    def select(
        self,
        files: tuple[int, int] | None = None,
        events: tuple[int, int] | None = None,
        tpcs: Sequence[int] | None = None,
        query: str | None = None,
        sample: str | Sequence[str] | None = None,
        where: "Where | None" = None,
    ) -> Selection:
        """The images that fit all conditions; only the index is read, and an empty result is fine.

        Args:
            files, events: inclusive ranges, (first, last).
            tpcs: any of these TPCs.
            query: an expression over the index's columns, e.g. ``"voxel_count > 500"``.
            sample: made from an input of this sample, or of one of these; see ``inputs``.
            where: a mask, one boolean an image in the index's order, or a function of the index's table that returns
                one. Query and function see the images that fit all other conditions.

        Raises:
            StoreError: a condition that makes no sense for this store, such as a sample that it does not have.
        """
        return Selection(self, self.index_columns.live).select(files, events, tpcs, query, sample, where)

    def image(self, file: int, event: int, tpc: int) -> Image:
        """One image by its key; StoreError if the store has none."""
        row = self.index_columns.find(file, event, tpc)
        if row is None:
            raise StoreError(
                f"{self.path}: no image with file={file} event={event} tpc={tpc}. "
                f"Fix: 'larstore index {self.path}' lists what there is"
            )
        return Image(self, row)

    def reader(self, path: str) -> ShardReader:
        """The checked reader of a sharded array, e.g. ``voxels/coords``."""
        with self._lock:
            if path not in self._readers:
                if path not in self.root.nodes:
                    raise StoreError(
                        f"{self.path}: no array {path}. Fix: 'larstore info {self.path}' lists what there is"
                    )
                kind = kind_of(path)
                layout = layout_of(path, self.root.nodes[path])

                def owners(start: int, stop: int) -> str:
                    return self.index_columns.owners(kind, start, stop)

                self._readers[path] = ShardReader(self.path, layout, owners)
            return self._readers[path]

    def read_rows(self, path: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) of a sharded array; DamageError where they are missing or fail a checksum."""
        return self.reader(path).read(start, stop)

    def read_arrays(
        self, paths: Sequence[str], start: int, stop: int, out: Sequence[npt.NDArray[Any] | None] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """``read_rows`` of several arrays with one kind of rows: path -> rows [start, stop).

        ``out``: room for each, or None, that is filled instead, (rows, *width) of a type that holds the array's.
        """
        arrays = read_together([self.reader(path) for path in paths], start, stop, out)
        return dict(zip(paths, arrays, strict=True))

    def read_ranges(self, wanted: Sequence[tuple[str, int, int, npt.NDArray[Any] | None]]) -> list[npt.NDArray[Any]]:
        """Rows of several arrays at several places, in one go: (path, start, stop, room or None) each.

        Other rows are only to be read: they may lie in chunks that are kept for their neighbours.
        """
        return read_pieces([self.reader(path).piece(start, stop, room, True) for path, start, stop, room in wanted])

    def read_scores(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Scores of rows [start, stop), NaN in shards that prediction ``name`` has not committed."""
        group = self.root.nodes.get(f"predictions/{name}")
        if group is None:
            known = ", ".join(sorted(self.predictions)) or "none"
            raise StoreError(
                f"{self.path}: no prediction {name!r}, known: {known}. Fix: run 'larstore infer --name {name}'"
            )
        reader = self.reader(f"predictions/{name}/score")
        if 4 * (stop - start) > CHECKED_BYTES:  # before memory is taken: are there such voxels
            self.reader("voxels/coords").expect(start, stop)
        out = np.full(max(stop - start, 0), np.nan, dtype=np.float32)
        size = reader.layout.shard_rows
        for first, last in group["attributes"]["done"]:
            low, high = max(start, first * size), min(stop, (last + 1) * size, reader.layout.rows)
            if low < high:
                out[low - start : high - start] = reader.read(low, high)
        return out
