"""The one command, `larstore`: the store's own subcommands, and those that other packages add by entry point."""

import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from larstore.errors import LarstoreError

EXTRAS = {
    "numba": "preprocess",
    "dask": "preprocess",
    "distributed": "preprocess",
    "dask_jobqueue": "preprocess",
    "scipy": "preprocess",
    "h5py": "preprocess",
    "torch": "train",
    "lightning": "train",
    "torchmetrics": "train",
    "plotly": "all",
    "matplotlib": "train",
}

app = typer.Typer(
    name="larstore",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"larstore {version('larstore')}")
        raise typer.Exit


@app.callback()
def _top(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Wire read-outs of a LArTPC to sparse 3D images in one Zarr store, and to a trained network."""


def build_app() -> typer.Typer:
    """The command line with every installed subcommand; command modules import their heavy packages when called."""
    from larstore import examples_cli, maintenance_cli, store_cli

    for commands in (store_cli, maintenance_cli, examples_cli):
        commands.register(app)
    for entry in sorted(entry_points(group="larstore.commands"), key=lambda e: e.name):
        app.command(entry.name, rich_help_panel=f"Commands of {entry.value.partition('.')[0]}")(entry.load())
    return app


def main() -> None:
    """Run the command line: exit 0 done, 1 failed (one line on stderr), 2 wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        build_app()()
    except LarstoreError as error:
        print(f"larstore: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("larstore: stopped", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"larstore: needs {error.name}. Fix: pip install 'larstore[{extra}]'", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
