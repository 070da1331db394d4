"""`larstore solve`: charges of voxels by the classical solver, as a prediction of their own."""

from typing import Annotated, Literal

import typer

from train.cli import FilesOption, StoreArgument, TpcsOption


def solve_command(
    store: StoreArgument,
    name: Annotated[str, typer.Option("--name", help="Name of the new prediction in the store.")],
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="Only voxels that this prediction keeps.", show_default="all")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Score from which a voxel is kept.")] = 0.35,
    on_true: Annotated[bool, typer.Option("--on-true", help="Only true voxels: the best the solver can do.")] = False,
    method: Annotated[
        Literal["nnls", "lasso", "lsmr"],
        typer.Option("--method", help="Least squares with charges >= 0; with a penalty on their sum; cut off at 0."),
    ] = "nnls",
    damp: Annotated[float, typer.Option("--damp", help="Shares charge out where the wires leave it open.")] = 0.2,
    penalty: Annotated[float, typer.Option("--penalty", help="Electrons; of --method lasso.")] = 200.0,
    files: FilesOption = None,
    tpcs: TpcsOption = None,
    query: Annotated[str | None, typer.Option("--query", help="Only images for which this holds.")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")] = False,
) -> None:
    """Fit charges of voxels to the charges of the wires, slice by slice; what is there already is kept.

    Example: larstore solve run.zarr --name solved --prediction ghost3d --threshold 0.35
    """
    from larstore.option_values import inclusive_range, whole_numbers

    if prediction is not None and on_true:
        raise typer.BadParameter("give one of --prediction and --on-true", param_hint="--on-true")
    chosen = inclusive_range(files, "--files"), None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    from train.results.solve_run import solve

    result = solve(
        store,
        name,
        kept_by=prediction,
        threshold=threshold,
        on_true=on_true,
        method=method,
        damp=damp,
        penalty=penalty,
        files=chosen[0],
        tpcs=chosen[1],
        query=query,
        verbose=verbose,
    )
    for key, value in vars(result).items():
        typer.echo(f"{key}\t{value:.6g}" if isinstance(value, float) else f"{key}\t{value}")
