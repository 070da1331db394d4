"""The store's own commands: info, index, verify, diff. Heavy imports wait until a command runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from larstore.option_values import inclusive_range, whole_numbers
from larstore.terminal import result_console

Path_ = Annotated[Path, typer.Argument(help="A store (a directory ending in .zarr).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
PANEL = "Commands of larstore"


def info(
    path: Path_,
    provenance: Annotated[bool, typer.Option("--provenance", help="Add software versions and settings.")] = False,
    as_json: Json = False,
) -> None:
    """What a store holds: detector, settings, counts, predictions, failures.

    Example: larstore info run.zarr
    """
    from rich.table import Table
    from rich.text import Text

    from larstore.store import open

    store = open(path)
    part = store.select()
    shown = {key: value for key, value in store.attributes.items() if key not in ("provenance", "sha256")}
    shown |= {
        "files": len(set(part.column("file").tolist())),
        "images": len(part),
        "voxels": int(part.column("voxel_count").sum()),
        "truth voxels": int(part.column("truth_count").sum()),
        "inputs": len(store.inputs),
        "failures": len(store.failures),
        "predictions": sorted(store.predictions),
    }
    if store.root.truth_columns:
        shown["truth columns"] = list(store.root.truth_columns)
    if store.root.pixels:
        shown["pixels"] = int(part.column("pixel_count").sum(dtype="int64"))
    if provenance:
        shown["provenance"] = store.attributes["provenance"]
    if as_json:
        typer.echo(json.dumps(shown, indent=1))
        return
    grid = Table(title=str(path), show_header=False)
    for key, value in shown.items():
        grid.add_row(key, Text(value if isinstance(value, str) else json.dumps(value)))
    result_console().print(grid)


def index(
    path: Path_,
    files: Annotated[str | None, typer.Option(help="Only files A:B, inclusive.", metavar="A:B")] = None,
    events: Annotated[str | None, typer.Option(help="Only events A:B, inclusive.", metavar="A:B")] = None,
    tpcs: Annotated[str | None, typer.Option(help="Only these TPCs.", metavar="N,N…")] = None,
    query: Annotated[str | None, typer.Option(help='Only images for which it holds, e.g. "voxel_count > 500".')] = None,
    limit: Annotated[int, typer.Option(help="Print at most so many rows; 0 prints all.", min=0)] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all columns.")] = False,
) -> None:
    """The images of a store, one line each.

    Example: larstore index run.zarr --files 701:950 --tpcs 1 --query "voxel_count > 500"
    """
    from rich.table import Table

    from larstore.store import open

    numbers = None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    ranges = inclusive_range(files, "--files"), inclusive_range(events, "--events")
    rows = open(path).select(*ranges, numbers, query).rows
    total = len(rows)
    rows = (rows.head(limit) if limit else rows).reset_index()
    if csv:
        typer.echo(rows.to_csv(index=False), nl=False)
    else:
        sums = [name for name in rows.columns if name.startswith("charge_sum_")]
        names = ["file", "event", "tpc", "voxel_count", "truth_count", *sums, "truth_sum", "n_bad_channels", "run"]
        grid = Table(*names, title=str(path))
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
    """Check every checksum and every promise of the format; exit 1 on damage.

    Example: larstore verify run.zarr
    """
    from larstore.verification import verify as check

    report = check(path, fast=fast)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        for problem in report.problems:
            typer.echo(f"damage: {problem}")
        for note in report.notes:
            typer.echo(f"note: {note}")
        what = "metadata, index and tables" if fast else "everything"
        found = f"{what} as it should be" if report.ok else f"{len(report.problems)} problem(s)"
        typer.echo(f"{path}: {report.images} images, {report.voxels} voxels, {found}")
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


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (info, index, verify, diff):
        app.command(rich_help_panel=PANEL)(command)
