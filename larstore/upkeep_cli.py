"""Commands that put in order what killed processes left: unlock and clean. Heavy imports wait."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from larstore.debris import Debris

Source = Annotated[Path, typer.Argument(help="A store (a directory ending in .zarr).", show_default=False)]


def unlock(
    path: Source,
    lock: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this lock, as images or predictions/NAME; repeatable."),
    ] = None,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Also one of another host, if its heartbeat stands still for minutes.")
    ] = False,
) -> None:
    """Show who holds a store's locks, and release those whose process has ended. Exit 1 if one is still held.

    Example: larstore unlock run.zarr --lock images
    """
    from larstore.unlocking import unlock as each

    for line in each(path, lock or (), break_lock):
        typer.echo(line)


def clean(
    path: Source,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0.0, help="Keep what was written within so many days.")
    ] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove files that killed or failed writers left and no commit holds. Refused while anybody writes.

    Example: larstore clean run.zarr --dry-run
    """
    from larstore.cleaning import clean as remove
    from larstore.cleaning import removable

    found = removable(path, older_than)
    if dry_run:
        for debris in found:
            typer.echo(debris.path)
    if dry_run or not found:
        typer.echo(f"{path}: would remove {_summary(found)}")
        return
    if not yes:
        typer.confirm(f"{path}: remove {_summary(found)}?", abort=True, err=True)
    typer.echo(f"{path}: removed {_summary(remove(path, older_than))}")


def _summary(found: "Iterable[Debris]") -> str:
    """How many files of each kind, and their bytes."""
    found = list(found)
    kinds = [debris.kind for debris in found]
    counts = [f"{kinds.count(kind)} {kind}{'s' * (kind != 'metadata')}" for kind in dict.fromkeys(kinds)]
    return f"{', '.join(counts)}: {sum(d.n_bytes for d in found):,} bytes" if found else "nothing"
