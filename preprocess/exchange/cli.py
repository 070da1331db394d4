"""Subcommands `export` and `import-xy`; whatever is heavy is imported when they run."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from larstore.option_values import inclusive_range, whole_numbers


def export_command(
    store: Annotated[Path, typer.Argument(help="A store (a directory ending in .zarr).", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="New file (numl, bee), or a folder (xy, yinf).")],
    to: Annotated[
        Literal["xy", "yinf", "numl", "bee"],
        typer.Option(
            help="xy: the research code's npz; yinf: its npz of scores alone; numl: HDF5 tables; bee: zip for "
            "Wire-Cell's event display."
        ),
    ],
    files: Annotated[str | None, typer.Option(help="Only files A:B, inclusive.", metavar="A:B")] = None,
    events: Annotated[str | None, typer.Option(help="Only events A:B, inclusive.", metavar="A:B")] = None,
    tpcs: Annotated[str | None, typer.Option(help="Only these TPCs.", metavar="N,N…")] = None,
    query: Annotated[str | None, typer.Option(help='Only images for which it holds, e.g. "voxel_count > 500".')] = None,
    prediction: Annotated[str | None, typer.Option(help="Add this prediction's scores.", metavar="NAME")] = None,
    cut: Annotated[float, typer.Option(help="bee: keep the prediction's voxels with a score above it.")] = 0.5,
) -> None:
    """Write images of a store for other programs: xy npz, NuML-like HDF5, or Bee JSON.

    Example: larstore export run.zarr -o run.h5 --to numl --events 0:9
    """
    import larstore
    from larstore.yinf import export_yinf
    from preprocess.exchange.export_bee import export_bee
    from preprocess.exchange.export_numl import export_numl
    from preprocess.exchange.export_xy import export_xy

    chosen = None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    ranges = inclusive_range(files, "--files"), inclusive_range(events, "--events")
    selection = larstore.open(store).select(*ranges, chosen, query)
    if to == "yinf":
        if prediction is None:
            raise typer.BadParameter("yinf files hold a prediction. Fix: --prediction NAME", param_hint="--to")
        paths = export_yinf(selection, output, prediction)
    elif to == "xy":
        paths = export_xy(selection, output, prediction)
    elif to == "numl":
        paths = [export_numl(selection, output, prediction)]
    else:
        paths = [export_bee(selection, output, prediction, cut)]
    for path in paths:
        print(path)
    print(f"{len(selection)} images exported", file=sys.stderr)


def import_xy_command(
    files: Annotated[list[Path], typer.Argument(help="xy files, and yinf files that belong to them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new store.")],
    detector: Annotated[str, typer.Option(help="Name of a detector, or path of a wires file or YAML.")],
    downsample: Annotated[str, typer.Option(help="Ticks, y and z pixels of a voxel in these files.")] = "8,4,4",
    truth_units: Annotated[str, typer.Option(help="Unit of the truth, recorded: electrons, or MeV.")] = "electrons",
    prediction: Annotated[str, typer.Option(help="Name that the scores of yinf files get.", metavar="NAME")] = "yinf",
    joined: Annotated[
        str | None, typer.Option(metavar="1,5,9", help="The files are of these TPCs joined to one, as TPC159.")
    ] = None,
) -> None:
    """Import the research code's xy and yinf files into a new store, without executing their pickles.

    Example: larstore import-xy xy/*_xy-TPC1.npz -o run.zarr --detector protodune-sp-2021
    """
    from preprocess.exchange.import_xy import import_xy

    steps = whole_numbers(downsample, "--downsample")
    if len(steps) != 3 or min(steps) < 1:
        raise typer.BadParameter(f"{downsample!r}: write three whole numbers, as in 8,4,4", param_hint="--downsample")
    together = () if joined is None else whole_numbers(joined, "--joined")
    store = import_xy(files, output, detector, (steps[0], steps[1], steps[2]), truth_units, prediction, together)
    print(output)
    print(f"{len(store)} images; which planes were bad is not in these files: all count as live", file=sys.stderr)
