"""The worker's side of a run: a task's units are tiled and written into one block."""

import errno
import time
from collections import Counter
from dataclasses import dataclass, field

from distributed import get_worker

import larstore
from larstore.errors import LarstoreError, StoreError
from larstore.records import BlockSpec, Failure, ImageRecord, InputFile, Receipt
from preprocess.config import RunConfig
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.threads import fair_share

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class TaskResult:
    """What a worker returns: only this travels, never arrays.

    Attributes:
        receipts: of what was written.
        failures: units that cannot be done.
        stumbles: units that the file system kept from being read; another worker, or a later try, may do better.
        needed: shards of a block large enough; nothing was done then.
        write_error: why the block could not be written; nothing was done then.
        no_room: that was for want of space, which other workers want too.
    """

    receipts: tuple[Receipt, ...] = ()
    failures: tuple[Failure, ...] = ()
    stumbles: tuple[Failure, ...] = ()
    needed: int = 0
    write_error: str = ""
    no_room: bool = False
    lit_samples: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)


class _WriteError(Exception):
    """Carries what the store's file system refused past the errors of units."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Block:
    """The task's block; tells a file system that refuses from an image that the format cannot hold."""

    def __init__(self, path: str, spec: BlockSpec) -> None:
        # Voxels of many images share shards; pixels fill them soon, and need not wait in memory.
        self._writer = larstore.BlockWriter(path, spec, spec.shard_rows if spec.pixels else None)
        self.seconds = 0.0
        self.keep, self.drop = self._writer.keep, self._writer.drop

    def add(self, image: ImageRecord) -> None:
        start = time.perf_counter()
        try:
            self._writer.add(image)
        except StoreError as error:
            _raise_write_error(error)
            raise
        finally:
            self.seconds += time.perf_counter() - start

    def finish(self, inputs: list[InputFile]) -> tuple[Receipt, ...]:
        start = time.perf_counter()
        try:
            return self._writer.finish(inputs)
        except StoreError as error:
            _raise_write_error(error)
            raise
        finally:
            self.seconds += time.perf_counter() - start


def _raise_write_error(error: StoreError) -> None:
    if isinstance(error.__cause__, OSError):
        raise _WriteError(error) from error


def _stumbled(error: BaseException | None) -> bool:
    """Whether an error comes from the file system and not from what a file holds."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return True
        error = error.__cause__
    return False


def work(path: str, spec: BlockSpec, units: tuple[Unit, ...], config: RunConfig, geometry_hash: str) -> TaskResult:
    """On a worker: tile the units and write their images into one block; a unit that fails does not stop the others."""
    config = config.model_copy(update={"threads": fair_share(config.threads, get_worker().state.nthreads)})
    inputs: list[InputFile] = []
    failures: list[Failure] = []
    stumbles: list[Failure] = []
    lit, notes, seconds = 0, Counter[str](), Counter[str]()
    block = _Block(path, spec)
    try:
        for unit in units:
            try:
                result = process_unit(unit, config, geometry_hash, block.add)
            except larstore.BlockFull:
                raise
            except LarstoreError as error:
                failure = Failure(unit.file, unit.tpc, unit.path, str(error))
                (stumbles if _stumbled(error) else failures).append(failure)
                block.drop()
                continue
            block.keep()
            inputs += result.inputs
            lit += result.lit_samples
            notes += result.notes
            seconds += result.seconds
        receipts = block.finish(inputs)
    except larstore.BlockFull as full:
        return TaskResult(needed=full.needed)
    except _WriteError as error:
        cause = error.cause.__cause__
        assert isinstance(cause, OSError)
        return TaskResult(write_error=str(error), no_room=cause.errno in NO_ROOM)
    seconds["write"] += block.seconds  # type: ignore[assignment]
    return TaskResult(receipts, tuple(failures), tuple(stumbles), 0, "", False, lit, notes, seconds)
