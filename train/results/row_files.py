"""CSV files that are written part by part, as their rows come, and get their names when all are there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO
from uuid import uuid4

import pandas as pd

from larstore.errors import StoreError


class RowFiles:
    """``FOLDER/NAME.csv`` for each of ``names``, by a context that an error leaves without a trace.

    Raises StoreError where the folder cannot be written, or is one of a store.
    """

    def __init__(self, folder: str | os.PathLike[str], names: tuple[str, ...]) -> None:
        self.folder, self.names = Path(folder), names
        self._parts = {name: self.folder / f".{name}.{uuid4().hex[:8]}.part" for name in names}
        self._streams: dict[str, TextIO] = {}
        self._begun: set[str] = set()

    def __enter__(self) -> Self:
        if (self.folder / "zarr.json").exists():
            raise StoreError(f"{self.folder}: is a store, or a part of one. Fix: another output directory")
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                for name, part in self._parts.items():
                    self._streams[name] = part.open("x", encoding="utf-8", newline="")
            except OSError:
                self._remove()
                raise
        return self

    def add(self, *tables: pd.DataFrame) -> None:
        """Rows for each of the names, with the columns of those before."""
        with self._told():
            for name, table in zip(self.names, tables, strict=True):
                header = name not in self._begun
                table.to_csv(self._streams[name], index=False, header=header, float_format="%.6g")
                self._begun.add(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._told():
                    for stream in self._streams.values():
                        stream.close()
                    for name, part in self._parts.items():
                        part.replace(self.folder / f"{name}.csv")
        finally:
            self._remove()

    def _remove(self) -> None:
        for name, stream in self._streams.items():
            with suppress(OSError):  # a full disk, which was told: what a stream still holds is not wanted
                stream.close()
            self._parts[name].unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror or error}. Fix: another output directory") from error
