"""What is to be predicted, in pieces that a process takes at once; and their scores, whole shards of a store again."""

from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from larstore.image import Image
from train.inference.predictor import Predictor, Rows, Scores, cut

PIECE_VOXELS = 262_144  # a piece is closed at so many; it costs a worker some ms besides
PIECE_IMAGES = 4096

Groups = Mapping[int, Sequence[Image]]  # first shard -> images, as `PredictionWriter.groups` gives them


@dataclass(frozen=True)
class Piece:
    """Consecutive batches of the images of one shard. ``batches``: rows of the index."""

    number: int
    shard: int
    batches: tuple[Rows, ...]

    @property
    def rows(self) -> Rows:
        """Of all its images."""
        return np.concatenate(self.batches)


def in_pieces(groups: Groups, max_voxels: int) -> list[Piece]:
    """All images in pieces, in the order of the store. Batches do not depend on who predicts them."""
    found: list[Piece] = []
    for shard, images in sorted(groups.items()):
        held: list[Rows] = []
        voxels = n_images = 0
        sizes = np.array([len(image) for image in images], np.int64)
        rows = np.array([image.row for image in images], np.int64)
        size_of = dict(zip(rows.tolist(), sizes.tolist(), strict=True))
        for batch in cut(rows, sizes, max_voxels):
            held.append(batch)
            voxels += sum(size_of[row] for row in batch.tolist())
            n_images += len(batch)
            if voxels >= PIECE_VOXELS or n_images >= PIECE_IMAGES:
                found.append(Piece(len(found), shard, tuple(held)))
                held, voxels, n_images = [], 0, 0
        if held:
            found.append(Piece(len(found), shard, tuple(held)))
    return found


def predict_here(predictor: Predictor, pieces: Sequence[Piece]) -> Generator[tuple[Piece, Scores], None, None]:
    """Each piece with its (voxels, outputs), predicted by this process."""
    outputs = predictor(batch for piece in pieces for batch in piece.batches)
    for piece in pieces:
        yield piece, np.concatenate(list(islice(outputs, len(piece.batches))))


class Gathering:
    """Puts the scores of pieces, in whatever order they come, together to those of whole shards."""

    def __init__(self, groups: Groups, pieces: Sequence[Piece]) -> None:
        self._groups = groups
        self._missing = Counter(piece.shard for piece in pieces)
        self._held: dict[int, dict[int, Scores]] = defaultdict(dict)

    def add(self, piece: Piece, scores: Scores) -> list[tuple[Image, Scores]] | None:
        """The images of the piece's shard with their (n, outputs), once all are there; None before."""
        held = self._held[piece.shard]
        held[piece.number] = scores
        self._missing[piece.shard] -= 1
        if self._missing[piece.shard]:
            return None
        values = np.concatenate([part for _, part in sorted(self._held.pop(piece.shard).items())])
        images = self._groups[piece.shard]
        ends = np.cumsum([len(image) for image in images])
        return list(zip(images, np.split(values, ends[:-1]), strict=True))
