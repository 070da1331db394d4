"""Subcommands of `larstore` that need a network or a picture; everything heavy is imported when one is called."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from larstore.selection_options import Events, Files, Query, Samples, Tpcs, choose

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, e.g. train.n_epochs=5."),
]
FilesOption = Annotated[
    str | None, typer.Option("--files", metavar="A:B", help="Only images of files A to B, both included.")
]
TpcsOption = Annotated[str | None, typer.Option("--tpcs", metavar="N,N", help="Only images of these TPCs.")]
ConfigArgument = Annotated[Path, typer.Argument(help="YAML configuration, see larstore examples.", show_default=False)]
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Path of the store.", show_default=False)]

PredictionOption = Annotated[
    str | None, typer.Option("--prediction", help="Show the scores of this prediction.", show_default="the only one")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", help="Score from which a voxel is kept.", show_default="0.5, or 1000 electrons"),
]
MaxPointsOption = Annotated[
    int | None,
    typer.Option(
        "--max-points", min=1, help="Of more voxels 2 × 2 × 2 are drawn as one, and so on.", show_default="200000"
    ),
]


def train(
    config: ConfigArgument,
    epoch: Annotated[
        int | None, typer.Argument(help="With --resume: the epoch to go on from.", show_default="the newest state")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in output_dir.")] = False,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="N|auto", help="Processes on a node (train.devices); auto: one a GPU."),
    ] = None,
    num_nodes: Annotated[
        int | None, typer.Option("--num-nodes", metavar="N", min=1, help="Nodes (train.num_nodes).")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Without data.train_i: processes that predict.")] = 1,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on with the run, or begin it: for batch scripts.")
    ] = False,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")] = False,
) -> None:
    """Train a network on the images of one or several stores; without data.train_i: predict those of inference_i.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 keep the state after the step at hand and end with 128 + their number.

    Example: larstore train configs/ghost3d.yaml --set output_dir=runs/first --set data.data_path=run.zarr
    """
    from train.config import load_config

    if epoch is not None and not resume:
        raise typer.BadParameter(f"the epoch {epoch} needs --resume", param_hint="EPOCH")
    if resume and auto_resume:
        raise typer.BadParameter("give one of --resume and --auto-resume", param_hint="--auto-resume")
    if devices is not None and devices != "auto" and not (devices.isdigit() and int(devices)):
        raise typer.BadParameter(f"{devices!r}: give a number above 0, or auto", param_hint="--devices")
    options = {"devices": devices, "num_nodes": num_nodes}
    given = [f"train.{name}={value}" for name, value in options.items() if value is not None]
    settings = load_config(config, [*(set_ or []), *given])
    if not settings.data.sources("train") and settings.data.sources("inference"):
        from train.inference.run import infer_configured, refuse_copies

        refuse_copies()
        for each in infer_configured(settings, epoch, workers=workers, verbose=verbose):
            _print_values(vars(each))
        return
    from train.processes.ranks import find_ranks

    ranks = find_ranks(settings.train)
    if ranks.started:
        from train.fitting.fit import fit

        result = fit(settings, resume, epoch, auto=auto_resume, verbose=verbose)
    else:
        from train.processes.launch import launch

        result = launch(ranks, settings, resume=resume, epoch=epoch, auto=auto_resume, verbose=verbose)
    if ranks.rank:
        return
    typer.echo(f"checkpoint\t{result.checkpoint}")
    for name, value in (result.summaries[-1] if result.summaries else {}).items():
        typer.echo(f"{name}\t{value:.6g}")


def infer(
    config: ConfigArgument,
    store: Annotated[Path, typer.Option("--store", metavar="STORE", help="Store to predict and to write into.")],
    name: Annotated[str, typer.Option("--name", help="Name of the prediction in the store.")],
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Checkpoint file.")] = None,
    epoch: Annotated[
        str | None,
        typer.Option("--epoch", help="Of the run in output_dir: a number, best or last.", show_default="last"),
    ] = None,
    files: FilesOption = None,
    tpcs: TpcsOption = None,
    query: Annotated[str | None, typer.Option("--query", help="Only images for which this holds.")] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that predict, each on its share of GPUs or cores.")
    ] = 1,
    export: Annotated[
        Literal["yinf"] | None, typer.Option("--export", help="Also write the research code's yinf files to -o.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for what --export writes.")
    ] = None,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log more.")] = False,
) -> None:
    """Predict a score for each voxel and write it into the store; what is there already is kept.

    Example: larstore infer configs/ghost3d.yaml --store run.zarr --name ghost3d --files 951:1000 --workers 4
    """
    from train.config import load_config

    if checkpoint is not None and epoch is not None:
        raise typer.BadParameter("give one of --checkpoint and --epoch", param_hint="--epoch")
    if epoch is not None and not (epoch.isdecimal() or epoch in ("best", "last")):
        raise typer.BadParameter(f"{epoch!r} is no epoch. Fix: a number, best or last", param_hint="--epoch")
    if (export is None) != (output is None):
        raise typer.BadParameter("--export and -o go together", param_hint="--export")
    chosen = _files(files), _tpcs(tpcs)
    settings = load_config(config, set_ or [])
    from train.inference.infer import infer as run
    from train.inference.run import refuse_copies

    refuse_copies()
    result = run(
        settings,
        checkpoint or (int(epoch) if epoch is not None and epoch.isdecimal() else epoch),
        store,
        name,
        files=chosen[0],
        tpcs=chosen[1],
        query=query,
        workers=workers,
        verbose=verbose,
    )
    _print_values(vars(result))
    if output is not None:
        from larstore import open as open_store
        from larstore.yinf import export_yinf

        selection = open_store(store).select(files=chosen[0], tpcs=chosen[1], query=query)
        for path in export_yinf(selection, output, name):
            typer.echo(f"yinf\t{path}")


def evaluate(
    store: StoreArgument,
    prediction: Annotated[
        list[str], typer.Option("--prediction", metavar="NAME", help="Prediction; several times to compare them.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Directory for page, tables, figures.")],
    files: FilesOption = None,
    tpcs: TpcsOption = None,
    truth_threshold: Annotated[
        float, typer.Option("--truth-threshold", help="A voxel is true above this, in electrons (the truth's unit).")
    ] = 0.0,
    coarsen: Annotated[
        list[str] | None,
        typer.Option("--coarsen", metavar="X,Y,Z", help="Also with so many voxels taken as one; several times."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, help="Replicas for the 95 % intervals; 0 for none.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the replicas.")] = 0,
    strata: Annotated[
        str | None,
        typer.Option("--strata", metavar="KIND,KIND|all", help="Also for parts of the voxels: tpc, particle, energy …"),
    ] = None,
    origins: Annotated[
        str | None,
        typer.Option(
            "--origins", metavar="PDG=ORIGIN,…", help="What is beam and what cosmic, by PDG code or sample: 13=cosmic."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="local|FILE", help="Dask cluster that does it.", show_default="this process"),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes of the cluster.")] = None,
) -> None:
    """Compare predictions with the truth: purity, efficiency, charge, with intervals, beside cuts without a network.

    Example: larstore evaluate run.zarr --prediction ghost3d --prediction ghost3d-old --coarsen 2,2,2 -o evaluation
    """
    from contextlib import nullcontext

    from larstore.clusters import cluster_client
    from larstore.option_values import pairs, whole_numbers

    chosen = _files(files), _tpcs(tpcs)
    named = {} if origins is None else pairs(origins, "--origins")
    told = {int(name) if name.lstrip("-").isdigit() else name: origin for name, origin in named.items()}
    grains = [whole_numbers(text, "--coarsen") for text in coarsen or ()]
    from train.results.evaluation import evaluate as run
    from train.results.strata import ALL

    kinds = None if strata is None else list(ALL) if strata == "all" else strata.split(",")
    if told:
        kinds = list(dict.fromkeys([*(kinds or ()), "origin"]))
    several = cluster is not None or workers is not None
    with cluster_client(cluster or "local", workers) if several else nullcontext() as client:
        summary = run(
            store,
            prediction,
            output,
            files=chosen[0],
            tpcs=chosen[1],
            truth_threshold=truth_threshold,
            coarsen=grains,
            bootstrap=bootstrap,
            seed=seed,
            strata=kinds,
            origins=told,
            client=client,
        )
    _print_values(summary)


def view(
    store: StoreArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="HTML", help="Page to write.")],
    file: Annotated[int | None, typer.Argument(help="File number.", show_default=False)] = None,
    event: Annotated[int | None, typer.Argument(help="Event in the file.", show_default=False)] = None,
    tpc: Annotated[int | None, typer.Argument(help="TPC number.", show_default=False)] = None,
    more: Annotated[int, typer.Option("--next", min=0, metavar="N", help="Also the N images after it.")] = 0,
    files: Files = None,
    events: Events = None,
    tpcs: Tpcs = None,
    query: Query = None,
    sample: Samples = None,
    prediction: PredictionOption = None,
    threshold: ThresholdOption = None,
    max_points: MaxPointsOption = None,
) -> None:
    """Events in 3D with their wire planes, one or several, as a page that opens without a network.

    Example: larstore view run.zarr 701 0 1 --next 9 --prediction ghost3d -o events.html
    """
    key = [number for number in (file, event, tpc) if number is not None]
    chosen = any(option is not None for option in (files, events, tpcs, query, sample or None))
    if len(key) not in (0, 3) or bool(key) == chosen or (more and not key):
        raise typer.BadParameter(
            "give FILE EVENT TPC, with or without --next, or choose images with --files, --events, --tpcs, --query or "
            "--sample",
            param_hint="FILE EVENT TPC",
        )
    from train.results.cloud import MAX_POINTS
    from train.results.display.page import images_from, view_images

    part = choose(store, files, events, tpcs, query, sample)
    images = images_from(part, key, 1 + more) if key else list(part)
    view_images(images, output, prediction, threshold, max_points or MAX_POINTS)
    typer.echo(str(output))


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Directory for everything it makes.")],
    events: Annotated[int | None, typer.Option("--events", help="Simulated events.", show_default="enough")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few events and steps: does it run at all?")] = False,
) -> None:
    """The whole way on simulated events, from wire files to DIR/report.html.

    Example: larstore demo -o demo-output
    """
    from train.demo import demo as run

    run(output, events, quick)
    typer.echo(str(output / "report.html"))


def _files(text: str | None) -> tuple[int, int] | None:
    """``A:B`` or a single ``A`` as an inclusive range; wrong usage (exit 2) otherwise."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not first.isdigit() or not (last.isdigit() if colon else True):
        raise typer.BadParameter(f"{text!r} is no range. Fix: for example 701:950", param_hint="--files")
    return int(first), int(last if colon else first)


def _tpcs(text: str | None) -> list[int] | None:
    """``1,5,9`` as numbers; wrong usage (exit 2) otherwise."""
    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise typer.BadParameter(f"{text!r} is no list of TPCs. Fix: for example 1,5,9", param_hint="--tpcs")
    return [int(number) for number in numbers]


def _print_values(values: dict[str, Any]) -> None:
    """One ``name<tab>value`` a line; nested values are left to the files."""
    for name, value in values.items():
        if isinstance(value, float):
            typer.echo(f"{name}\t{value:.6g}")
        elif isinstance(value, (int, str)):
            typer.echo(f"{name}\t{value}")
