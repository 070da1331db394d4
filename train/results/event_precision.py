"""Average precision of one event from its scores themselves: of few voxels, bins would tell it wrongly."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST_VOXELS = 1 << 20  # of an event whose scores are kept until it ends: 5 MB a method and voxel size


class EventScores:
    """Scores and classes of the event at hand, as long as there are at most ``most`` voxels."""

    def __init__(self, most: int = MOST_VOXELS) -> None:
        self.most = most
        self._parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]] = []
        self._n = 0

    def add(self, score: npt.NDArray[np.float32], kind: npt.NDArray[np.int64]) -> None:
        """Take in voxels of an image: score and class (n,)."""
        self._n += len(score)
        if self._n > self.most:
            self._parts = []
        else:
            self._parts.append((score.astype(np.float32), kind.astype(np.uint8)))

    def take(self, chosen: Floats) -> Floats | None:
        """(...) average precisions of what was taken in, NaN without true voxels; None of more than ``most`` voxels.

        Afterwards another event begins.

        Args:
            chosen: (2, ..., classes) 1 for the classes of true voxels, and for those of ghosts, else 0.
        """
        parts, many = self._parts, self._n > self.most
        self._parts, self._n = [], 0
        if many:
            return None
        found = np.full(chosen.shape[1:-1], np.nan)
        score, kind = (np.concatenate(each) for each in zip(*parts, strict=True)) if parts else (np.empty(0),) * 2
        if not len(score):
            return found
        order = np.argsort(score)[::-1]
        score, kind = score[order], kind[order]
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # voxels of equal score enter together
        is_true, is_ghost = chosen.astype(np.int64)
        for at in np.ndindex(found.shape):
            true = np.cumsum(is_true[at][kind])[last]
            kept = true + np.cumsum(is_ghost[at][kind])[last]
            if true[-1]:
                found[at] = np.diff(true, prepend=0) @ (true / np.maximum(kept, 1)) / true[-1]
        return found
