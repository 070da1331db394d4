"""Commands that make a new store from old ones (copy, compact, merge, repair), and delete. Heavy imports wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from larstore.option_values import inclusive_range, whole_numbers
from larstore.selection_options import Events, Files, Query, Samples, Tpcs, choose
from larstore.upkeep_cli import clean, unlock

if TYPE_CHECKING:
    from larstore.store import Store

Source = Annotated[Path, typer.Argument(help="A store (a directory ending in .zarr).", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", help="The new store; must not exist yet.")]
PANEL = "Commands of larstore"


def copy(
    path: Source,
    output: Output,
    files: Files = None,
    events: Events = None,
    tpcs: Tpcs = None,
    query: Query = None,
    sample: Samples = None,
) -> None:
    """Copy a store, or the images of it that are asked for, into a new store, bit by bit.

    Example: larstore copy run.zarr -o part.zarr --files 701:950 --tpcs 1
    """
    from larstore.maintenance import copy_images

    chosen = choose(path, files, events, tpcs, query, sample)
    failures = chosen.store.failures
    first, last = inclusive_range(files, "--files") or (0, 2**63)
    numbers = (-1, *whole_numbers(tpcs, "--tpcs")) if tpcs is not None else None
    keep = failures["file"].between(first, last) & (True if numbers is None else failures["tpc"].isin(numbers))
    with _stoppable(output):
        new = copy_images(chosen, output, failures[keep])
    _tell(new)


def compact(path: Source, output: Output) -> None:
    """Copy what a store still holds into a new store: deleted and replaced images and debris stay behind.

    Example: larstore compact run.zarr -o small.zarr
    """
    from larstore.locations import Url, place_of
    from larstore.maintenance import compact as make
    from larstore.maintenance import size_on_disk

    with _stoppable(output):
        new = make(path, output)
    _tell(new)
    after = size_on_disk(output)
    if isinstance(place_of(path), Url):
        typer.echo(f"{after:,} bytes now; how many it had at the URL is not known")
    else:
        before = size_on_disk(path)
        typer.echo(f"{before:,} bytes before, {after:,} now ({after / before:.0%})")


def merge(
    paths: Annotated[list[Path], typer.Argument(help="Two or more stores.", show_default=False)],
    output: Output,
    prefer: Annotated[
        str | None, typer.Option(metavar="first|last", help="Whose image to take where several hold one key.")
    ] = None,
    same_files: Annotated[
        bool, typer.Option("--same-files", help="Files of one number are one recording, though their inputs differ.")
    ] = False,
) -> None:
    """Merge stores of the same geometry and settings into a new store.

    Example: larstore merge a.zarr b.zarr -o both.zarr
    """
    if prefer not in ("first", "last", None):
        raise typer.BadParameter(f"{prefer!r}: give first or last", param_hint="--prefer")
    from larstore.merging import merge as make

    with _stoppable(output):
        new = make(paths, output, prefer, same_files)  # type: ignore[arg-type]
    _tell(new)


def repair(path: Source, output: Output) -> None:
    """Copy what is right in a damaged store into a new store; damaged images are left out, to be made again.

    Exit 0 also where images were left out: each problem is told with the first of its images, and how many are left
    out. `larstore verify --json` lists all. Example: larstore repair run.zarr -o good.zarr
    """
    from larstore.repairing import repair as make

    with _stoppable(output):
        done = make(path, output)
    for problem in done.report.problems:
        typer.echo(f"damage: {problem}")
    for name in done.predictions:
        typer.echo(f"left out: prediction {name}")
    for name, keys in done.unscored.items():
        typer.echo(f"left out: scores {name} of {len(keys)} image(s)")
    typer.echo(f"left out: {len(done.dropped)} image(s)")
    _tell(done.store)
    if done.dropped:
        typer.echo(f"run 'larstore preprocess' with the same inputs and -o {output} to make them again", err=True)


def delete(
    path: Source,
    files: Files = None,
    events: Events = None,
    tpcs: Tpcs = None,
    query: Query = None,
    sample: Samples = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    break_lock: Annotated[bool, typer.Option("--break-lock", help="Take over the lock of a dead host.")] = False,
) -> None:
    """Delete the images that are asked for. Their rows stay on disk until `larstore compact`.

    Example: larstore delete run.zarr --files 701:710 --query "voxel_count < 10"
    """
    if (files, events, tpcs, query, sample or None) == (None,) * 5:
        raise typer.BadParameter("say which images: give --files, --events, --tpcs, --query or --sample")
    from larstore.errors import LockedError
    from larstore.writer import StoreWriter

    chosen = choose(path, files, events, tpcs, query, sample)
    n_files, voxels = len(set(chosen.column("file").tolist())), int(chosen.column("voxel_count").sum(dtype="int64"))
    what = f"{len(chosen)} of {len(chosen.store)} images, of {n_files} files, with {voxels:,} voxels"
    if dry_run or not len(chosen):
        typer.echo(f"{path}: would delete {what}")
        return
    if not yes:
        typer.confirm(f"{path}: delete {what}?", abort=True, err=True)
    with StoreWriter(path, break_lock=break_lock) as writer:
        if writer.attributes["images_commit"] != chosen.store.attributes["images_commit"]:
            raise LockedError(f"{path}: somebody else committed images meanwhile. Fix: run it again")
        writer.delete(chosen.rows.index.tolist())
    typer.echo(f"{path}: deleted {what}")


@contextmanager
def _stoppable(output: Path) -> Iterator[None]:
    """Say in a line what an interrupt leaves: nothing."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        typer.echo(f"larstore: stopped. {output} was not made, and nothing is left of it", err=True)
        raise typer.Exit(130) from interrupt


def _tell(new: "Store") -> None:
    voxels = int(new.select().column("voxel_count").sum(dtype="int64"))
    typer.echo(f"{new.path}: {len(new)} images, {voxels:,} voxels, {len(new.inputs)} inputs")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (copy, compact, merge, repair, delete, unlock, clean):
        app.command(rich_help_panel=PANEL)(command)
