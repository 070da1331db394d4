"""Subcommand `inspect`; whatever is heavy is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from larstore.terminal import result_console


def inspect_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files of read-outs or of deposits.")],
    events: Annotated[int, typer.Option(min=1, help="Look at so many events at most.")] = 10,
) -> None:
    """Show what is inside input files: formats, tags, shapes, units, fitting detectors, and the command to read them.

    It warns where the charge along tracks says that the unit is not the electron, and where a file is not
    zero-suppressed.

    Example: larstore inspect frames.tar.bz2
    """
    from preprocess.inspection import inspect
    from preprocess.inspection.tables import show

    console = result_console()
    for path in files:
        show(inspect(path, events), console)
