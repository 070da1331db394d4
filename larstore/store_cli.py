"""The store's own commands: info, index, verify, diff, status. Heavy imports wait until a command runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from larstore.selection_options import Events, Files, Query, Samples, Tpcs, choose
from larstore.terminal import result_console

Path_ = Annotated[
    Path, typer.Argument(help="A store (a directory ending in .zarr), or the URL of one.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
PANEL = "Commands of larstore"
SHOWN_FAILURES = 10


def info(
    path: Path_,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Add versions, configuration, commits, inputs, checkpoints.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a store holds: detector, settings, counts, predictions, failures, and where it all came from.

    Example: larstore info run.zarr --provenance
    """
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from larstore.provenance import lines_of, provenance_of
    from larstore.store import open

    store = open(path)
    part, failures = store.select(), store.failures
    shown = {key: value for key, value in store.attributes.items() if key not in ("provenance", "sha256")}
    shown |= {
        "files": len(np.unique(part.column("file"))),
        "images": len(part),
        "voxels": int(part.column("voxel_count").sum()),
        "truth voxels": int(part.column("truth_count").sum()),
        "inputs": len(store.inputs),
        "failures": len(failures),
        "predictions": sorted(store.predictions),
    }
    if store.root.truth_columns:
        shown["truth columns"] = list(store.root.truth_columns)
    if store.root.pixels:
        shown["pixels"] = int(part.column("pixel_count").sum(dtype="int64"))
    origin = provenance_of(store) if provenance else {}
    if as_json:
        typer.echo(json.dumps(shown | origin, indent=1))
        return
    grid = Table(title=str(store.path), show_header=False)
    for key, value in shown.items():
        grid.add_row(key, Text(value if isinstance(value, str) else json.dumps(value)))
    result_console().print(grid)
    first = (failures[name].head(SHOWN_FAILURES).tolist() for name in ("file", "tpc", "error"))
    for file, tpc, error in zip(*first, strict=True):
        typer.echo(f"failed: file {file}{f', TPC {tpc}' if tpc >= 0 else ''}: {error}")
    if len(failures) > SHOWN_FAILURES:
        typer.echo(f"… and {len(failures) - SHOWN_FAILURES} more in larstore.open({str(store.path)!r}).failures")
    for line in lines_of(origin):
        typer.echo(line)


def index(
    path: Path_,
    files: Files = None,
    events: Events = None,
    tpcs: Tpcs = None,
    query: Query = None,
    sample: Samples = None,
    limit: Annotated[int, typer.Option(help="Print at most so many rows; 0 prints all.", min=0)] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all columns.")] = False,
) -> None:
    """The images of a store, one line each.

    Example: larstore index run.zarr --files 701:950 --tpcs 1 --query "voxel_count > 500"
    """
    from rich.table import Table

    part = choose(path, files, events, tpcs, query, sample)
    rows = part.rows
    total = len(rows)
    rows = (rows.head(limit) if limit else rows).reset_index()
    if csv:
        typer.echo(rows.to_csv(index=False), nl=False)
    else:
        sums = [name for name in rows.columns if name.startswith("charge_sum_")]
        names = ["file", "event", "tpc", "voxel_count", "truth_count", *sums, "truth_sum", "n_bad_channels", "run"]
        grid = Table(title=str(part.store.path))
        for name in names:
            grid.add_column(name, overflow="fold")  # a number that is cut short is another one
        for values in rows[names].itertuples(index=False):
            grid.add_row(*(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values))
        result_console().print(grid)
    if total > len(rows):
        typer.echo(f"{total - len(rows)} more images: --limit 0 prints all", err=True)


def verify(
    path: Path_,
    fast: Annotated[bool, typer.Option("--fast", help="Metadata, index and tables only, no voxels.")] = False,
    as_json: Json = False,
) -> None:
    """Check every checksum and every promise of the format; exit 1 on damage, or if a file could not be read.

    Example: larstore verify run.zarr
    """
    from larstore.verification import verify as check

    report = check(path, fast=fast)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        for problem in report.problems:
            typer.echo(f"{'could not be read' if problem.unreadable else 'damage'}: {problem}")
        for note in report.notes:
            typer.echo(f"note: {note}")
        what = "metadata, index and tables" if fast else "everything"
        unread = f", {len(report.unreadable)} of them could not be read" if report.unreadable else ""
        found = f"{what} as it should be" if report.ok else f"{len(report.problems)} problem(s){unread}"
        typer.echo(f"{report.path}: {report.images} images, {report.voxels} voxels, {found}")
    if not report.ok:
        raise typer.Exit(1)


def diff(
    a: Path_,
    b: Annotated[Path, typer.Argument(help="The other store.", show_default=False)],
    limit: Annotated[int, typer.Option(help="Print at most so many differences; 0 prints all.", min=0)] = 50,
) -> None:
    """Compare the images of two stores bit by bit, wherever they lie; exit 1 on a difference.

    Example: larstore diff a.zarr b.zarr
    """
    from larstore.verification import diff as compare

    found = compare(a, b)
    for line in found[: limit or None]:
        typer.echo(line)
    typer.echo(f"{len(found)} difference(s)" if found else "equal", err=bool(found))
    if found:
        raise typer.Exit(1)


def status(
    path: Annotated[Path, typer.Argument(help="A store on this machine's file systems.", show_default=False)],
    as_json: Json = False,
) -> None:
    """How the run that writes to a store is getting on, from any terminal; exit 1 if it failed or was killed.

    Example: larstore status run.zarr
    """
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from larstore.status import run_status

    found = run_status(path)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"verdict": found.verdict}, indent=1))
    else:
        typer.echo(f"{path}: {found.verdict}")
        grid = Table(show_header=False)
        for key, value in found.lines():
            grid.add_row(key, Text(value))
        result_console().print(grid)
    if found.lost:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (info, index, verify, diff, status):
        app.command(rich_help_panel=PANEL)(command)
