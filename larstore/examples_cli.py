"""`larstore examples`: list the example configurations, print one, copy one or all."""

from pathlib import Path
from typing import Annotated

import typer

from larstore.store_cli import PANEL


def examples(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An example, e.g. small/ghost3d.", show_default="all of them")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Copy it to this file; without NAME all, to a new folder."),
    ] = None,
) -> None:
    """Configurations to start from: without NAME list them, with NAME print it; with -o copy.

    Example: larstore examples small/ghost3d -o my-net.yaml
    """
    from larstore.examples import copy_example, copy_examples, examples, find_example, title

    if name is None and output is None:
        for each, path in examples().items():
            typer.echo(f"{each}\t{title(path)}")
    elif name is None:
        assert output is not None
        typer.echo(str(copy_examples(output)))
    elif output is None:
        typer.echo(find_example(name).read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo(str(copy_example(find_example(name), output)))


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(rich_help_panel=PANEL)(examples)
