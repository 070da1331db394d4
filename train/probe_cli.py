"""`larstore find-lr` and `larstore overfit`: checks before a long training; both leave ``output_dir`` alone."""

from pathlib import Path
from typing import Annotated

import typer

from train.cli import ConfigArgument, SetOption

VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")]


def find_lr_command(
    config: ConfigArgument,
    set_: SetOption = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="HTML", help="Page with the curve; a table .csv comes beside it.")
    ] = Path("find-lr.html"),
    low: Annotated[float, typer.Option("--low", help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="Learning rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option("--steps", help="Steps.")] = 100,
    verbose: VerboseOption = False,
) -> None:
    """Suggest a learning rate: train for some steps while it grows, and look where the loss falls fastest.

    Example: larstore find-lr configs/ghost3d.yaml --set data.data_path=run.zarr -o find-lr.html
    """
    from train.config import load_config

    settings = load_config(config, set_ or [])
    from train.fitting.learning_rate import find_learning_rate, write_rate_test

    test = find_learning_rate(settings, low, high, steps, verbose=verbose)
    table = write_rate_test(test, settings, output)
    typer.echo(f"suggestion\t{test.suggestion:.3g}")
    typer.echo(f"least_loss_at\t{test.least:.3g}")
    typer.echo(f"page\t{output}")
    typer.echo(f"table\t{table}")


def overfit_command(
    config: ConfigArgument,
    set_: SetOption = None,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Batches that are learnt by heart.")] = 1,
    steps: Annotated[int, typer.Option("--steps", min=10, help="Steps.")] = 200,
    factor: Annotated[float, typer.Option("--factor", help="By which the loss has to fall.")] = 2.0,
    verbose: VerboseOption = False,
) -> None:
    """Can the network learn one batch by heart? If not (exit 1), something is wrong with inputs, loss or rate.

    Example: larstore overfit configs/ghost3d.yaml --set data.data_path=run.zarr --steps 200
    """
    from train.config import load_config

    settings = load_config(config, set_ or [])
    from train.fitting.overfitting import check, overfit

    typer.echo("step\tloss")
    every = max(1, steps // 20)

    def tell(step: int, loss: float) -> None:
        if step == 1 or step % every == 0:
            typer.echo(f"{step}\t{loss:.6g}")

    result = overfit(settings, batches, steps, tell=tell, verbose=verbose)
    typer.echo(f"images\t{' '.join(map(str, result.keys))}")
    typer.echo(f"voxels\t{result.voxels}")
    typer.echo(f"true\t{result.true}")
    typer.echo(f"constant_answer\t{result.constant:.6g}")
    typer.echo(f"fell\t{result.fell:.4g}")
    check(result, factor)
