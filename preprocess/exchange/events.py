"""Images by event: the TPCs of one event together, and the numbers that other formats know it by."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from larstore.selection import Selection


@dataclass(frozen=True)
class ExportedEvent:
    """All selected images of one (file, event), and its (run, subrun, event) numbers."""

    file: int
    event: int
    numbers: tuple[int, int, int]
    images: Selection


def by_event(selection: Selection) -> Iterator[ExportedEvent]:
    """The events of a selection, in its order.

    Their numbers are run, subrun and event of the frames where all images know them and no two events share them,
    else file, 0 and event in the file, for all.
    """
    keys = np.stack([selection.column("file"), selection.column("event")], axis=1)
    pairs, first = np.unique(keys, axis=0, return_index=True)
    numbers = event_numbers(selection)[first]
    stops = [*first[1:].tolist(), len(selection)]  # selections are sorted by file, event, TPC
    for (file, event), known, start, stop in zip(pairs.tolist(), numbers.tolist(), first.tolist(), stops, strict=True):
        yield ExportedEvent(file, event, (known[0], known[1], known[2]), selection[start:stop])


def event_numbers(selection: Selection) -> npt.NDArray[np.int64]:
    """(images, 3) run, subrun and event of each image, as ``by_event`` says."""
    keys = np.stack([selection.column("file"), selection.column("event")], axis=1).astype(np.int64)
    frames = np.stack([selection.column(name) for name in ("run", "subrun", "event_id")], axis=1).astype(np.int64)
    n_events, n_frames, n_both = (
        len(np.unique(part, axis=0)) for part in (keys, frames, np.concatenate([keys, frames], axis=1))
    )
    if (frames >= 0).all() and n_events == n_frames == n_both:
        return frames
    return np.insert(keys, 1, 0, axis=1)
