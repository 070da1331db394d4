"""Subcommand `closure`; whatever is heavy is imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from larstore.option_values import numbers, whole_numbers

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any simulation setting.")]


def closure_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page and tables, made if missing.")],
    detector: Annotated[str, typer.Option(help="Name of a detector, or path of a detector YAML.")] = "protodune-sp",
    tpcs: Annotated[str, typer.Option(help="TPCs, as in 1,5; their events are pooled.")] = "1",
    tracks: Annotated[int, typer.Option(min=0, help="Single muons of all directions in each TPC.")] = 60,
    events: Annotated[int, typer.Option(min=0, help="Whole events in each TPC, or of each file of --depos.")] = 2,
    depos: Annotated[
        list[Path] | None, typer.Option(help="File of deposits instead of generated events; may repeat.")
    ] = None,
    noise_free: Annotated[
        bool, typer.Option("--noise-free", help="No noise: no response, then diffusion, then filter smear.")
    ] = False,
    threshold: Annotated[str, typer.Option(help="Electrons a tick; several are compared, as in 1,100.")] = "1",
    dead: Annotated[str, typer.Option(help="Fractions of dead channels to compare, as in 0,0.05.")] = "0,0.05",
    seed: Annotated[int, typer.Option(min=0, help="Seed of events, noise and dead channels.")] = 0,
    config: Annotated[Path | None, typer.Option(help="YAML with simulation settings.")] = None,
    overrides: Overrides = None,
) -> None:
    """Simulate, tile, compare with the truth: efficiency, purity, charge, against the angle to the wire planes.

    Writes closure.html, closure.csv (pooled) and closure-events.csv (event by event); the table goes to stdout.

    Example: larstore closure -o closure --detector protodune-sp --tracks 200 --threshold 1,100,300
    """
    from larstore.settings import apply_overrides, check, read_yaml
    from preprocess.closure.closure import closure
    from preprocess.closure.terminal import print_table
    from preprocess.simulation.config import SimulationConfig

    values: dict[str, Any] = {} if config is None else read_yaml(config)
    apply_overrides(values, overrides or [])
    done = closure(
        output,
        detector=detector,
        tpcs=whole_numbers(tpcs, "--tpcs"),
        tracks=tracks,
        events=events,
        depos=depos or [],
        config=check(SimulationConfig, values, str(config or "options")),
        noise_free=noise_free,
        thresholds=numbers(threshold, "--threshold"),
        dead=numbers(dead, "--dead"),
        seed=seed,
        command="larstore " + " ".join(sys.argv[1:]),
    )
    print_table(done.table, done.planes)
    for path in done.written:
        print(path)
