"""How much a task of a run is given: enough to fill a shard, little enough that no worker waits for the last one."""

from dataclasses import dataclass

TASKS_PER_WORKER = 4  # at least so many, so that the last one does not hold the run up, where files allow it
IN_FLIGHT = 2  # tasks for each that can be worked on at once, so that no worker waits for its next one
SPARE = 8  # blocks that there may be besides, so that few workers have TASKS_PER_WORKER all the same
FIRST_BYTES = 16_000_000  # of a task's inputs, until it is known how many voxels they make
TASK_SECONDS = 60.0  # of a task at most, as far as can be told: what is not committed is lost with its worker
FILLED = 0.9  # of a shard: what the voxels of a task are meant to take


@dataclass
class Done:
    """What came back so far: input bytes, voxels, seconds of workers."""

    n_bytes: int
    voxels: int
    seconds: float


@dataclass
class TaskSizes:
    """Sizes of tasks, by what was done so far. A task has a block of its own, which is a file an array at least.

    So many small tasks would be many files: (voxels / rows of a shard + ``IN_FLIGHT`` a slot + ``SPARE``) tasks are
    allowed. Where these are fewer than ``TASKS_PER_WORKER`` a slot, the first ones get more than the last ones, so
    that workers end together all the same. ``n_bytes``: inputs of the whole run; ``most``: bytes of a task that the
    user asked for; ``learns``: whether voxels tell how full a shard is, which they do not where pixels are kept.
    """

    n_bytes: int
    shard_rows: int
    most: float | None = None
    learns: bool = True
    handed: int = 0  # tasks that were handed out, further tries apart
    slots: int = 1  # the most there were

    def at_once(self, slots: int, done: Done) -> int:
        """Tasks to have in flight: one a slot as long as nothing came back, which tells how large others should be."""
        return max(1, slots) * (IN_FLIGHT if done.n_bytes else 1)

    def fitting(self, left: int, slots: int, done: Done) -> float:
        """Input bytes of the next task; ``left``: bytes that were not handed out, ``slots``: tasks at once."""
        self.slots = max(self.slots, slots)
        share = float(self.n_bytes // (max(1, slots) * TASKS_PER_WORKER) + 1)
        if self.most is not None:
            return min(share, self.most)
        known = self.learns and done.voxels > 0
        total = done.voxels * self.n_bytes / max(1, done.n_bytes) if known else 0.0
        tasks = max(1.0, total / self.shard_rows + IN_FLIGHT * self.slots + SPARE - self.handed)
        if left > share * tasks:
            share = 2 * left / (tasks + 1)  # from so much down to nothing in equal steps, they are as many
        if not known:
            return min(share, FIRST_BYTES)
        shard = done.n_bytes * FILLED * self.shard_rows / done.voxels
        return min(share, shard, done.n_bytes * TASK_SECONDS / max(done.seconds, 1e-3))
