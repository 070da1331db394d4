"""`larstore config`: is a training configuration right, and what does it say in full?"""

import typer
import yaml

from train.cli import ConfigArgument, SetOption


def config_command(config: ConfigArgument, set_: SetOption = None) -> None:
    """Check a configuration of `larstore train` without any data, and print it with every default filled in.

    Network, loss, optimiser, scheduler and metrics are made as a training would make them.

    Example: larstore config configs/ghost3d.yaml --set optimizer.lr=1e-3
    """
    from train.config import doubtful_units, load_config, naming_file

    settings = load_config(config, set_ or [])
    from train.fitting.module import ImageModule
    from train.models import build_model

    with naming_file(settings):
        if settings.data.train_i is None:  # for inference; what concerns training alone may be missing
            build_model(settings.model.model_dump())
        else:
            ImageModule(settings, 1)
    for line in doubtful_units(settings):
        typer.echo(line, err=True)
    typer.echo(yaml.safe_dump(settings.plain(), sort_keys=False, allow_unicode=True), nl=False)
