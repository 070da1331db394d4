"""`larstore dqdx`: dQ/dx along muon tracks, before and after deghosting, beside the truth."""

from pathlib import Path
from typing import Annotated

import typer

from train.cli import FilesOption, StoreArgument, TpcsOption


def dqdx_command(
    store: StoreArgument,
    prediction: Annotated[str, typer.Option("--prediction", help="Name of the prediction that deghosts.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Directory for tables and figures.")],
    threshold: Annotated[float, typer.Option("--threshold", help="Score from which a voxel is kept.")] = 0.5,
    charge: Annotated[
        str | None, typer.Option("--charge", metavar="NAME", help="Also the charges that this prediction holds.")
    ] = None,
    charge_scale: Annotated[
        float | None,
        typer.Option(
            "--charge-scale", help="What these are in: electrons × this.", show_default="data.scale of its training"
        ),
    ] = None,
    lifetime: Annotated[
        str | None,
        typer.Option(
            "--lifetime",
            metavar="MS|truth",
            help="Correct charges for an electron lifetime, for charge freed at t = 0; or for what the truth says.",
            show_default="not corrected",
        ),
    ] = None,
    segment: Annotated[float, typer.Option("--segment", help="Length of a segment, cm.")] = 1.0,
    tube: Annotated[float, typer.Option("--tube", help="Charge up to so far from the axis is a track's, cm.")] = 2.5,
    piece: Annotated[float, typer.Option("--piece", help="Length of a straight piece, cm.")] = 40.0,
    straight: Annotated[
        float, typer.Option("--straight", help="Largest root of a piece's second eigenvalue, cm.")
    ] = 1.0,
    files: FilesOption = None,
    tpcs: TpcsOption = None,
    query: Annotated[str | None, typer.Option("--query", help="Only images for which this holds.")] = None,
    bootstraps: Annotated[
        int, typer.Option("--bootstraps", min=0, max=1000, help="Samples of tracks, for the errors.")
    ] = 100,
) -> None:
    """Measure dQ/dx along the muon tracks of simulated images: most probable value, width, and stopping muons.

    Example: larstore dqdx run.zarr --prediction ghost3d -o dqdx
    """
    from larstore.option_values import inclusive_range, whole_numbers

    chosen = inclusive_range(files, "--files"), None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    if lifetime is not None and lifetime != "truth":
        try:
            corrected: float | str | None = float(lifetime)
        except ValueError as error:
            raise typer.BadParameter(f"{lifetime!r}: give ms, or truth", param_hint="--lifetime") from error
    else:
        corrected = lifetime
    from larstore.selection import expect_tpcs
    from larstore.store import open as open_store
    from train.results.dqdx import dqdx
    from train.results.dqdx_pages import write
    from train.results.dqdx_segments import Settings
    from train.results.row_files import RowFiles
    from train.streaming.choosing import expect_images

    opened = open_store(store)
    expect_tpcs(opened, chosen[1], "--tpcs")
    selection = opened.select(files=chosen[0], tpcs=chosen[1], query=query)
    expect_images(selection)
    settings = Settings(threshold, charge, charge_scale, segment, tube, piece, straight, corrected, bootstraps)
    with RowFiles(output, ("segments", "tracks")) as files_of_rows:
        tables = dqdx(selection, prediction, settings, files_of_rows.add)
    about = {"store": str(store), "detector": opened.attributes["detector"], "prediction": prediction}
    page = write(tables, output, about, settings)
    for name, value in tables.counts.items():
        typer.echo(f"{name}\t{value}")
    for _, row in tables.fits.iterrows():
        typer.echo(f"mpv_{row['method']}\t{row['mpv']:.6g}")
    typer.echo(f"page\t{page}")
