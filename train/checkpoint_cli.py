"""Subcommand `import-checkpoint`; torch is imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from train.cli import SetOption


def import_checkpoint_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Its checkpoint_NNN.pth.tar.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NEW", help="Checkpoint to write.")],
    config: Annotated[Path, typer.Option("--config", help="YAML whose model block is the network's.")],
    input_planes: Annotated[
        str | None, typer.Option("--input-planes", metavar="P,P,P", help="Planes in the order the network takes them.")
    ] = None,
    tpc: Annotated[
        int | None,
        typer.Option(
            "--tpc", metavar="N", help="Or the ProtoDUNE-SP TPC it was trained on: u,w,v of odd ones, v,w,u of even."
        ),
    ] = None,
    input_scale: Annotated[
        float, typer.Option("--input-scale", metavar="X", help="Its inputs are electrons × X.")
    ] = 0.001,
    set_: SetOption = None,
) -> None:
    """Make a checkpoint of the 2021 research code one of larstore, with the order and scale of its inputs.

    Example: larstore import-checkpoint checkpoint_019.pth.tar -o ghost3d.ckpt --config configs/ghost3d.yaml --tpc 1
    """
    if (input_planes is None) == (tpc is None):
        raise typer.BadParameter(
            "give --input-planes or --tpc, one of them: the file does not say it, for example --input-planes u,w,v",
            param_hint="--input-planes",
        )
    from train.config import doubtful_units, load_config
    from train.resuming.importing import import_checkpoint

    settings = load_config(config, set_ or [])
    planes = None if input_planes is None else [name.strip() for name in input_planes.split(",")]
    done = import_checkpoint(old, output, settings, input_planes=planes, tpc=tpc, input_scale=input_scale)
    for line in doubtful_units(settings):  # data.round is kept with the network
        print(line, file=sys.stderr)
    charge = settings.data.charge
    if (charge.transform, charge.scale) != ("linear", input_scale):
        used = f"data.charge of {config} is {charge.transform}, {charge.scale:g}"
        print(f"{used}; the checkpoint's is linear, {input_scale:g}, and counts where it is used", file=sys.stderr)
    for name, value in vars(done).items():
        shown = ",".join(value) if isinstance(value, tuple) else "not known" if value is None else value
        typer.echo(f"{name}\t{shown}")
