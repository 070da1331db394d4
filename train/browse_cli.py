"""`larstore browse`: all events of a store in one's browser; everything heavy is imported when it is called."""

import os
import sys
from typing import Annotated

import typer

from larstore.selection_options import Events, Files, Query, Samples, Tpcs, choose
from train.cli import MaxPointsOption, PredictionOption, StoreArgument, ThresholdOption


def browse_command(
    store: StoreArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address only, start no browser.")] = False,
    files: Files = None,
    events: Events = None,
    tpcs: Tpcs = None,
    query: Query = None,
    sample: Samples = None,
    prediction: PredictionOption = None,
    threshold: ThresholdOption = None,
    max_points: MaxPointsOption = None,
) -> None:
    """All events of a store in the browser, to search and to step through: on this machine only, until Ctrl-C.

    Prints an address with a random part, which keeps other users of the machine out. Nothing is written.

    Example: larstore browse run.zarr --prediction ghost3d
    """
    from train.results.cloud import MAX_POINTS
    from train.results.display.browsing import Browser
    from train.results.display.serving import BrowseServer

    part = choose(store, files, events, tpcs, query, sample)
    browser = Browser(part, prediction, threshold, max_points or MAX_POINTS)
    with BrowseServer(browser, port) as server:
        typer.echo(server.url)
        sys.stdout.flush()
        typer.echo("Ctrl-C ends it.", err=True)
        if not no_open and _has_display():
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)


def _has_display() -> bool:
    """Whether a browser would have a window; without one a browser in the terminal would be started."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))
