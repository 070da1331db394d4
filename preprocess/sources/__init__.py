"""Readers of wire read-outs: Wire-Cell frame archives and "parsed" npz files."""

from pathlib import Path

from larstore.errors import InputError
from preprocess.sources.base import Event, Source
from preprocess.sources.members import is_zip, zip_names
from preprocess.sources.names import ARCHIVE_SUFFIXES, TRUTH_PRODUCTS
from preprocess.sources.parsed import ParsedSource
from preprocess.sources.wirecell import MEMBER, WireCellSource

__all__ = ["TRUTH_PRODUCTS", "Event", "Source", "open_source"]


def open_source(path: str | Path) -> Source:
    """The reader that fits a file: by its first bytes, an npz also by the names of its arrays.

    Raises:
        InputError: no such file, or a format that no reader knows.
    """
    place = Path(path)
    if place.is_dir():
        raise InputError(f"{place}: is a folder. Fix: give the files in it.")
    if not is_zip(place):
        if not place.name.endswith(ARCHIVE_SUFFIXES):
            raise InputError(
                f"{place}: is of no known format. "
                "Fix: give a Wire-Cell frame archive (.tar, .tar.gz, .tar.bz2, .npz) or a parsed .npz."
            )
        return WireCellSource(place)
    names = zip_names(place)
    if any(MEMBER.fullmatch(name) for name in names):
        return WireCellSource(place)
    if any(name.startswith("arr_") for name in names):
        return ParsedSource(place)
    raise InputError(
        f"{place}: holds {', '.join(names[:5]) or 'no arrays'}. "
        "Fix: give a Wire-Cell frame archive (frame_<tag>_<ident> …) or a parsed npz (arr_0 …)."
    )
