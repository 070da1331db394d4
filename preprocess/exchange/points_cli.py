"""Subcommand `import-points`; whatever is heavy is imported when it runs."""

import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from larstore.option_values import whole_numbers

if TYPE_CHECKING:
    from preprocess.exchange.import_points import PointCounts

MANY = 0.5  # of the points in no tiled voxel: most likely those of another event
CHECK = "Are they in cm, and of these events (--file, --tpcs, --window)?"


def import_points_command(
    store: Annotated[Path, typer.Argument(help="A store, which gets a prediction.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Bee .json or .zip, or .npz files.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="Name of the new prediction in the store.")],
    chosen_set: Annotated[str | None, typer.Option("--set", metavar="NAME", help="Which set of a Bee zip.")] = None,
    file: Annotated[
        int | None,
        typer.Option(
            "--file",
            metavar="N",
            help="The n-th cloud is event n of this file in the store. Default: as the file's name or numbers tell.",
        ),
    ] = None,
    tpcs: Annotated[str | None, typer.Option(help="Only images of these TPCs.", metavar="N,N…")] = None,
    t0: Annotated[float, typer.Option("--t0", metavar="US", help="Time (µs) at which the charge was freed.")] = 0.0,
    window: Annotated[
        bool,
        typer.Option(
            "--window", help="Points lie where the read-out shows them, also before zero drift or behind the cathode."
        ),
    ] = False,
    charge: Annotated[bool, typer.Option("--charge", help="A voxel's score is its points' charge, not 1.")] = False,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out events that the store lacks, and count them.")
    ] = False,
) -> None:
    """Put other programs' point clouds into a store as a prediction, to compare them with a network.

    Example: larstore import-points run.zarr wirecell.zip --set img --name wirecell --file 1
    """
    chosen = None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    from preprocess.exchange.import_points import import_points

    done = import_points(
        store, files, name, chosen_set=chosen_set, file=file, tpcs=chosen, t0=t0, window=window, charge=charge,
        skip_unknown=skip_unknown,
    )  # fmt: skip
    counts = done.counts
    for key, value in {**vars(done), **vars(counts)}.items():
        if key != "counts":
            print(f"{key}\t{value:.6g}" if isinstance(value, float) else f"{key}\t{value}")
    print(f"points_outside\t{counts.outside:.6g}\ncharge_outside\t{counts.charge_outside:.6g}")
    print(f"larstore: {_told(counts)}", file=sys.stderr)


def _told(counts: "PointCounts") -> str:
    """Where the points are, in a sentence, and what may be wrong."""
    elsewhere = f"{counts.elsewhere:,} points lie in none of the images"
    if not counts.tiled + counts.untiled:
        return f"no point lies in these images, {elsewhere}" + (f". {CHECK}" if counts.elsewhere else "")
    charge = "" if isnan(counts.charge_outside) else f" and {counts.charge_outside:.2%} of the charge"
    text = f"{counts.outside:.2%} of the points{charge} in these images lie in no tiled voxel; {elsewhere}"
    return text + (f". {CHECK}" if counts.outside > MANY else "")
