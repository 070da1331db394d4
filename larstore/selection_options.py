"""The options with which commands choose images; pandas is imported when they are used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from larstore.option_values import inclusive_range, whole_numbers

if TYPE_CHECKING:
    from larstore.selection import Selection

Files = Annotated[str | None, typer.Option(help="Only files A:B, inclusive.", metavar="A:B")]
Events = Annotated[str | None, typer.Option(help="Only events A:B, inclusive.", metavar="A:B")]
Tpcs = Annotated[str | None, typer.Option(help="Only these TPCs.", metavar="N,N…")]
Query = Annotated[str | None, typer.Option(help='Only images for which it holds, e.g. "voxel_count > 500".')]
Samples = Annotated[
    list[str] | None, typer.Option("--sample", help="Only of inputs of this sample; may be given again.")
]


def choose(
    path: Path, files: str | None, events: str | None, tpcs: str | None, query: str | None, sample: list[str] | None
) -> "Selection":
    """The images of a store that the options choose; a wrong value is wrong usage, another mistake a StoreError."""
    from larstore.store import open

    numbers = None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    ranges = inclusive_range(files, "--files"), inclusive_range(events, "--events")
    return open(path).select(*ranges, numbers, query, sample or None)
