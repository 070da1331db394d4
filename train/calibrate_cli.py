"""`larstore calibrate`: charges without median bias at each true charge, as a prediction of their own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from train.cli import FilesOption, StoreArgument, TpcsOption


def calibrate_command(
    store: StoreArgument,
    prediction: Annotated[str, typer.Option("--prediction", help="The charges to calibrate.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new prediction in the store.")],
    fit_store: Annotated[
        Path | None, typer.Option("--fit-store", help="Store with truth to fit with.", show_default="the same")
    ] = None,
    fit_prediction: Annotated[
        str | None,
        typer.Option(
            "--fit-prediction",
            help="The same network's charges of the images to fit with.",
            show_default="--prediction",
        ),
    ] = None,
    fit_files: Annotated[
        str | None, typer.Option("--fit-files", help="Files to fit with, FIRST:LAST.", show_default="all")
    ] = None,
    truth: Annotated[
        Literal["collected", "truth"], typer.Option("--truth", help="What reaches the wires, or what was freed.")
    ] = "collected",
    files: FilesOption = None,
    tpcs: TpcsOption = None,
) -> None:
    """Take the bias at small and large charges away that finite resolution leaves, at the price of resolution.

    Example: larstore calibrate run.zarr --prediction charge --name calibrated --fit-files 1:80 --files 81:160
    """
    from larstore.option_values import inclusive_range, whole_numbers

    chosen = inclusive_range(files, "--files"), None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    fit = inclusive_range(fit_files, "--fit-files")
    from train.results.calibrate_run import calibrate

    result = calibrate(
        store,
        prediction,
        name,
        fit_store=fit_store,
        fit_prediction=fit_prediction,
        fit_files=fit,
        truth=truth,
        files=chosen[0],
        tpcs=chosen[1],
    )
    for key, value in vars(result).items():
        typer.echo(f"{key}\t{value}")
