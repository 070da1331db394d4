"""A block written bit by bit: many large images go through a worker's memory, not into it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from larstore.block import BlockFull, shards_needed, write_block
from larstore.records import BlockSpec, ImageRecord, InputFile, Receipt


class BlockWriter:
    """Writes images into a block as they come, and holds ``hold_rows`` rows and an image at most (None: all of them).

    What is written at once takes whole shards of the block, and has a receipt of its own: commit all of them together.
    Images come in groups: ``keep`` what was added since the last call, or ``drop`` it, whatever is written of it.
    """

    def __init__(self, path: str | Path, spec: BlockSpec, hold_rows: int | None = None) -> None:
        self._path, self._spec = path, spec
        self._hold_rows = sys.maxsize if hold_rows is None else hold_rows
        self._used = 0  # shards
        self._kept: list[ImageRecord] = []
        self._group: list[ImageRecord] = []
        self._receipts: list[Receipt] = []
        self._group_receipts: list[Receipt] = []

    def add(self, image: ImageRecord) -> None:
        """Take an image of the present group.

        Raises StoreError for one that the format cannot hold, or ``BlockFull``: ask for a larger block then, and begin
        again.
        """
        self._group.append(image)
        # Groups that are kept are written apart from one that may yet be dropped.
        if shards_needed(1, [*self._kept, *self._group]) >= self._hold_rows and self._kept:
            self._receipts.append(self._write(self._kept))
            self._kept = []
        if shards_needed(1, self._group) >= self._hold_rows:
            self._group_receipts.append(self._write(self._group))
            self._group = []

    def keep(self) -> None:
        """The present group is complete."""
        self._kept += self._group
        self._receipts += self._group_receipts
        self._group, self._group_receipts = [], []

    def drop(self) -> None:
        """Forget the present group; shards that it has written already stay behind without a receipt."""
        self._group, self._group_receipts = [], []

    def finish(self, inputs: Sequence[InputFile]) -> tuple[Receipt, ...]:
        """Write what is left; the receipts of all groups that were kept, the last one with their inputs."""
        if self._kept:
            self._receipts.append(self._write(self._kept))
            self._kept = []
        if not self._receipts:
            return ()
        *others, last = self._receipts
        return *others, replace(last, inputs=tuple(inputs))

    def _write(self, images: Sequence[ImageRecord]) -> Receipt:
        spec = self._spec
        n_shards = shards_needed(spec.shard_rows, images)
        if self._used + n_shards > spec.n_shards:
            growth = spec.n_shards if self._receipts or self._group_receipts else 0  # nobody knows what is yet to come
            raise BlockFull(self._used + n_shards + growth, spec.n_shards)
        part = replace(spec, first_shard=spec.first_shard + self._used, n_shards=n_shards)
        self._used += n_shards
        return write_block(self._path, part, images)
