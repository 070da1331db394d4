"""Readers of wire read-outs and of deposits; the format is recognised by a file's content."""

from pathlib import Path

from preprocess.sources.base import Event, Source
from preprocess.sources.depos import DepoEvent, DepoSource, Place, open_depos
from preprocess.sources.names import TRUTH_PRODUCTS
from preprocess.sources.options import ReadOptions
from preprocess.sources.registry import find_reader, known_readers

__all__ = [
    "TRUTH_PRODUCTS",
    "DepoEvent",
    "DepoSource",
    "Event",
    "Place",
    "ReadOptions",
    "Source",
    "known_readers",
    "open_depos",
    "open_source",
]


def open_source(path: str | Path) -> Source:
    """The reader that fits a file of wire read-outs.

    Raises:
        InputError: no such file, or a format that no reader of read-outs knows.
    """
    place = Path(path)
    source = find_reader(place, "frames").open(place)
    assert isinstance(source, Source)
    return source
