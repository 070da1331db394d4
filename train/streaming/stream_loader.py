"""`StreamLoader`: a DataLoader over an `ImageStream` that can stop and continue between any two batches."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from train.streaming.ahead import ReadAhead, batch_bytes, pinned
from train.streaming.samples import Batch, Failure, Task
from train.streaming.slots import Parcel, Slots

if TYPE_CHECKING:
    from train.streaming.stream import ImageStream

READ_AHEAD_MB = 256.0
VOXEL_BYTES = 64  # of a batch, about
MOST_WAITING = 4  # batches a worker keeps ready at most
SMALL = 1 << 16  # bytes, for what is not voxels


class StreamLoader(DataLoader[Batch]):
    """A DataLoader over an `ImageStream` that knows its length and can stop and continue between any two batches.

    Its state is the stream's, kept in the main process, whatever the number of workers and what they have read ahead:
    what was handed out counts.

    Args:
        stream: the batches.
        num_workers: processes that prepare batches; 0 = a thread does, the store's own threads decode for it, and where
            none is ready, whoever asks for a batch helps.
        start_method: of the processes: "fork", "spawn" or "forkserver".
        pin_memory: for copies to a GPU.
        read_ahead_mb: what may wait to be used, in MB; one batch more is in the making. 0 = without workers each batch
            is made when it is asked for.
    """

    def __init__(
        self,
        stream: "ImageStream",
        num_workers: int = 0,
        start_method: str = "spawn",
        pin_memory: bool = False,
        read_ahead_mb: float = READ_AHEAD_MB,
    ) -> None:
        self.read_ahead = int(read_ahead_mb * 1e6)
        waiting = 0
        if num_workers:
            plan = stream.plan(stream.epoch)
            largest = max((int(stream.planner.planned[plan[b]].sum()) for b in range(len(plan))), default=0)
            size = largest * VOXEL_BYTES
            waiting = max(1, min(MOST_WAITING, self.read_ahead // max(1, num_workers * size)))
            # Beside those that wait: one in the making, and two in use.
            stream.slots = Slots(num_workers, waiting + 3, 2 * size + SMALL)
        super().__init__(
            stream,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            multiprocessing_context=start_method if num_workers else None,
            persistent_workers=num_workers > 0,
            prefetch_factor=waiting or None,
            pin_memory=pin_memory,
        )
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.stream.begin()
        if self.num_workers:
            yield from self._handed_out(super().__iter__())
            return
        tasks, load = self.stream.tasks()

        def make(task: Task) -> Batch:
            return pinned(load(task)) if self.pin_memory else load(task)

        if not self.read_ahead:
            yield from self._handed_out(map(make, tasks))
        else:
            with closing(ReadAhead(tasks, make, self.read_ahead, batch_bytes)) as batches:
                yield from self._handed_out(batches)

    def _handed_out(self, batches: Iterator[Batch | Parcel | Failure]) -> Iterator[Batch]:
        for batch in batches:
            if isinstance(batch, Failure):
                raise batch.error
            self.stream.advance()
            if isinstance(batch, Parcel):
                yield batch.open()
            else:
                yield batch
            del batch  # else it would be held, and its slot, while the next one is waited for

    def state_dict(self) -> dict[str, Any]:
        """See `ImageStream.state_dict`."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ImageStream.load_state_dict`."""
        self.stream.load_state_dict(state)


def _as_it_is(batch: Any) -> Any:
    return batch
