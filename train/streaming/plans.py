"""What an epoch of one or several selections holds: which images are drawn, how often, in which batches."""

import math
from collections.abc import Sequence

import numpy as np

from larstore.errors import ConfigError
from train.streaming.batches import BatchPlan, Numbers, cut_batches, epoch_order, within_budget


class EpochPlanner:
    """The batches of any epoch, computed from the voxel counts alone: the same in every process.

    Without ``weights`` an epoch holds every image exactly once. With them it holds ``epoch_images`` draws: selection s
    gets ``weights[s] / sum(weights)`` of them, to a whole number and at least one, the same in each epoch. It goes
    through its own shuffled order, from where the last epoch stopped, and through a new one when that is exhausted:
    no image comes again before all others of its selection did. Selections take turns image by image, in a random
    order of the same shares, so that batches are mixed and each selection is still read run by run.

    Args:
        counts: voxels of each image, an array a selection.
        batch_size, max_voxels: of a batch, None = no limit.
        over_budget: see `train.streaming.batches.within_budget`.
        shuffle: a new order each epoch, else the selections' own one after another.
        window: runs of consecutive images that are shuffled together.
        weights: of the selections, None = every image once.
        epoch_images: draws of an epoch; None = as many as there are images.
        names: of the selections, for errors.

    Raises:
        ConfigError: no image is left, an image exceeds the budget, or the weights make no sense.
    """

    def __init__(
        self,
        counts: Sequence[Numbers],
        *,
        batch_size: int | None,
        max_voxels: int | None,
        over_budget: str,
        shuffle: bool,
        seed: int,
        window: int,
        weights: Sequence[float] | None,
        epoch_images: int | None,
        names: Sequence[str],
    ) -> None:
        self.batch_size, self.max_voxels, self.shuffle = batch_size, max_voxels, shuffle
        self.seed, self.window = seed, window
        self.first = np.cumsum([0, *map(len, counts)])  # position of each selection's first image
        budgeted = [within_budget(c, max_voxels, over_budget, n) for c, n in zip(counts, names, strict=True)]
        self.kept = [kept for kept, _ in budgeted]
        self.planned = np.concatenate([planned for _, planned in budgeted])
        all_counts = np.concatenate(list(counts))
        over = all_counts > (max_voxels or math.inf)
        self.n_skipped = int(over.sum()) if over_budget == "skip" else 0
        self.over = over if over_budget == "crop" else np.zeros(len(over), bool)  # images that are cropped
        for kept, name in zip(self.kept, names, strict=True):
            if not len(kept) and (weights is not None or not any(map(len, self.kept))):
                raise ConfigError(f"{name}: every image exceeds max_voxels = {max_voxels}. Fix: raise data.max_voxels")
        self.draws = self._shares(weights, epoch_images)

    def _shares(self, weights: Sequence[float] | None, epoch_images: int | None) -> list[int]:
        """Draws of each selection in an epoch."""
        sizes = [len(kept) for kept in self.kept]
        if weights is None:
            if epoch_images is not None:
                raise ConfigError(f"epoch_images = {epoch_images} needs weights. Fix: add them, [1] for one selection")
            return sizes
        if len(weights) != len(sizes) or not all(math.isfinite(w) and w > 0 for w in weights):
            raise ConfigError(f"weights {list(weights)}: Fix: a number above 0 for each of {len(sizes)} selections")
        if not self.shuffle:
            raise ConfigError("weights are for shuffled streams. Fix: shuffle=True, or no weights")
        n = sum(sizes) if epoch_images is None else epoch_images
        if n < len(sizes):
            raise ConfigError(f"epoch_images = {n} is less than one a store. Fix: {len(sizes)} or more")
        return shares(weights, n)

    def __call__(self, epoch: int) -> BatchPlan:
        """The batches of an epoch."""
        if not self.shuffle:
            order = np.concatenate([kept + f for kept, f in zip(self.kept, self.first[:-1], strict=True)])
            return self._cut(order, np.full(len(order), epoch, np.int64))
        order, passes = self._drawn(epoch)
        return self._cut(order, passes).by_position()

    def _cut(self, order: Numbers, passes: Numbers) -> BatchPlan:
        return cut_batches(order, self.planned, batch_size=self.batch_size, max_voxels=self.max_voxels, passes=passes)

    def _drawn(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Positions and passes of an epoch's draws."""
        turns = np.repeat(np.arange(len(self.draws)), self.draws)
        if len(self.draws) > 1:
            turns = np.random.default_rng([self.seed, epoch, len(self.draws)]).permutation(turns)
        order, passes = np.empty(len(turns), np.int64), np.empty(len(turns), np.int64)
        for source, n in enumerate(self.draws):
            if n:
                mine = turns == source
                order[mine], passes[mine] = self._of_source(source, n * epoch, n)
        return order, passes

    def _of_source(self, source: int, done: int, n: int) -> tuple[Numbers, Numbers]:
        """The ``n`` draws of a selection that follow its first ``done``."""
        kept, first = self.kept[source], int(self.first[source])
        counts = self.planned[first : int(self.first[source + 1])][kept]
        parts: list[Numbers] = []
        passes: list[Numbers] = []
        while n:
            turn, offset = divmod(done, len(kept))
            order = epoch_order(counts, seed=self.seed, epoch=turn, source=source, window=self.window)
            part = kept[order[offset : offset + n]] + first
            parts.append(part)
            passes.append(np.full(len(part), turn, np.int64))
            done, n = done + len(part), n - len(part)
        return np.concatenate(parts), np.concatenate(passes)


def shares(weights: Sequence[float], n: int) -> list[int]:
    """``n`` in proportion to the weights: whole numbers of 1 or more that sum to it, by largest remainders."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * n
    whole = np.maximum(np.floor(exact).astype(np.int64), 1)
    while whole.sum() < n:
        whole[np.argmax(exact - whole)] += 1
    while whole.sum() > n:  # where rare ones were given their one
        whole[np.argmax(np.where(whole > 1, whole - exact, -np.inf))] -= 1
    return [int(value) for value in whole]
