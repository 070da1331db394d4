"""Subcommands `detector`, `simulate` and `preprocess`; whatever is heavy is imported when they run."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from larstore.option_values import inclusive_range, whole_numbers
from larstore.terminal import result_console

DEFAULT_EVENTS = 10
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one for each core.")]


def detector(
    name: Annotated[
        str | None, typer.Argument(help="Name of a detector, or path of a wires file or YAML; none: a list of names.")
    ] = None,
    tpc: Annotated[
        int | None, typer.Option(help="Only this TPC; of the picture, by default the first live one.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also draw the wires of a face: an HTML page.")
    ] = None,
) -> None:
    """Show a detector: faces, planes, pitches, angles, channels, pixel grids and drift.

    Example: larstore detector protodune-sp --tpc 1 -o wires.html
    """
    from preprocess.detector import load_detector
    from preprocess.detector.tables import faces_table, header_lines, names_table

    console = result_console()
    if name is None:
        if tpc is not None or output is not None:
            raise typer.BadParameter("is needed for --tpc and -o", param_hint="NAME")
        console.print(names_table())
        return
    found = load_detector(name)
    table = faces_table(found, tpc)
    console.print(found.name, *header_lines(found), table, sep="\n", markup=False, highlight=False)
    if output is not None:
        from preprocess.detector.picture import draw_face

        live = [number for number, each in found.tpcs.items() if each.live]
        number = tpc if tpc is not None else (live or list(found.tpcs))[0]
        print(draw_face(found, number, output))


def simulate(
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE…]", help="Further files behind that of --depos.", hidden=True)
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files, made if missing.")],
    detector: Annotated[
        str, typer.Option(help="Name of a detector, or path of a wires file or YAML.")
    ] = "protodune-sp",
    events: Annotated[int | None, typer.Option(min=1, help="Events in all [10].")] = None,
    events_per_file: Annotated[
        int | None, typer.Option(min=1, help="Events in each file; the last one may hold fewer [10].")
    ] = None,
    tpcs: Annotated[str, typer.Option(help="TPCs, as in 1,5,9.")] = "1",
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same one gives the same bytes.")] = 0,
    first_file: Annotated[int, typer.Option(min=0, help="Number of the first file.")] = 1,
    sample: Annotated[str, typer.Option(help="Name of the sample, part of the file names.")] = "Sim",
    depos: Annotated[
        list[Path] | None,
        typer.Option("--depos", metavar="FILE…", help="Read out these deposits: a file for each of them."),
    ] = None,
    place: Annotated[
        str | None, typer.Option(metavar="X,Y,Z[,ROT]", help="Where the deposits' origin goes: mm, degrees about y.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with simulation settings.")] = None,
    overrides: Overrides = None,
    workers: Workers = None,
) -> None:
    """Simulate events, or read out deposits that another program made: frames in the Wire-Cell format, and their truth.

    Example: larstore simulate -o sim --detector protodune-sp --events 40 --seed 1
    """
    given = [*(depos or []), *(more or [])]
    if not depos and (more or place is not None):
        raise typer.BadParameter("is needed for files and --place", param_hint="--depos")
    if depos and (events is not None or events_per_file is not None):
        raise typer.BadParameter("the files of --depos tell how many events", param_hint="--events")
    events, events_per_file = events or DEFAULT_EVENTS, events_per_file or DEFAULT_EVENTS
    from larstore.settings import apply_overrides, check, read_yaml
    from preprocess.progress import bar
    from preprocess.simulation import SimulationConfig
    from preprocess.simulation.parallel import simulate_files
    from preprocess.sources import Place

    values: dict[str, Any] = {} if config is None else read_yaml(config)
    apply_overrides(values, overrides or [])
    settings = check(SimulationConfig, values, str(config or "options"))
    chosen = whole_numbers(tpcs, "--tpcs")
    where = None if place is None else Place.parse(place)
    with bar("simulating", len(given) or -(-events // events_per_file), "files") as advance:
        paths = simulate_files(
            output, detector, chosen, events, events_per_file, seed, settings, first_file, sample, workers, advance,
            given, where,
        )  # fmt: skip
    for path in paths:
        print(path)


def preprocess(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT…", help="Files, folders or patterns.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The store: created, or continued.")] = None,
    detector: Annotated[str | None, typer.Option(help="Name of a detector, or path of a wires file or YAML.")] = None,
    tpcs: Annotated[str | None, typer.Option(help="Only these TPCs, as in 1,5,9.")] = None,
    truth: Annotated[
        list[str] | None, typer.Option(help="Truth product, in order of preference; 'none' for real data.")
    ] = None,
    files: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only files A to B, both included, or only A.")
    ] = None,
    first_file: Annotated[int | None, typer.Option(min=0, help="Number of the first file without one.")] = None,
    file_pattern: Annotated[str | None, typer.Option(help="Pattern whose first group is the file number.")] = None,
    downsample: Annotated[str | None, typer.Option(help="Ticks, y and z pixels of a voxel [8,4,4].")] = None,
    threshold: Annotated[float | None, typer.Option(help="Electrons a tick above which a sample is lit [1].")] = None,
    min_live_planes: Annotated[int | None, typer.Option(min=1, help="Planes with a real signal [2].")] = None,
    bad_channels: Annotated[
        str | None, typer.Option(metavar="FILE|1,2,3", help="Bad channels: numbers, or a file of CHANNEL [FIRST END].")
    ] = None,
    zero_channels: Annotated[
        str | None,
        typer.Option(metavar="keep|bad", help="Channels with nothing but zeros in an event; by default keep."),
    ] = None,
    max_voxels: Annotated[int | None, typer.Option(min=1, help="The most voxels of an image [20000000].")] = None,
    save_pix: Annotated[
        bool, typer.Option("--save-pix", help="Keep the full resolution too, for `larstore redownsample`.")
    ] = False,
    charge_bits: Annotated[
        int | None, typer.Option(min=1, max=22, help="Round charges to so many bits of mantissa; 9: to 1e-3.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Factor to electrons; default: the format's own.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag of the frames, where a file holds several.")] = None,
    sample: Annotated[str | None, typer.Option(help="Name of the sample, recorded with the inputs.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="local|FILE.yaml|ADDRESS", help="Where the workers run; configs/clusters has examples."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|MIN:MAX", help="Workers, or jobs of the cluster; default: one for each core."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a worker that tile an event [1].")] = None,
    log: Annotated[Path | None, typer.Option(help="File that gets a line a minute; default: beside the store.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of these settings.")] = None,
    overrides: Overrides = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Make the images of these inputs again, also of changed inputs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, what it costs, and the job script; then stop.")
    ] = False,
    driver_job: Annotated[
        bool, typer.Option("--driver-job", help="Submit this command as a job of the cluster, and stop.")
    ] = False,
    break_lock: Annotated[bool, typer.Option("--break-lock", help="Take over the lock of a dead host.")] = False,
) -> None:
    """Tile wire read-outs into a store; run again, it does only what is missing.

    Example: larstore preprocess sim -o run.zarr --detector protodune-sp --tpcs 1
    """
    from preprocess.config import load_run_config, parse_workers

    try:
        parse_workers(workers)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--workers") from error
    options: dict[str, Any] = {
        "inputs": inputs or None,
        "output": output,
        "detector": detector,
        "tpcs": None if tpcs is None else whole_numbers(tpcs, "--tpcs"),
        "truth": truth,
        "files": inclusive_range(files, "--files"),
        "first_file": first_file,
        "file_pattern": file_pattern,
        "downsample": None if downsample is None else whole_numbers(downsample, "--downsample"),
        "threshold": threshold,
        "min_live_planes": min_live_planes,
        "bad_channels": bad_channels,
        "zero_channels": zero_channels,
        "max_voxels": max_voxels,
        "save_pix": save_pix or None,
        "charge_bits": charge_bits,
        "scale": scale,
        "tag": tag,
        "sample": sample,
        "cluster": cluster,
        "workers": workers,
        "threads": threads,
        "log": log,
    }
    for name, value in (("INPUT…", inputs), ("-o", output), ("--detector", detector)):
        if not value and config is None:
            raise typer.BadParameter("is needed, here or in --config", param_hint=name)
    settings = load_run_config(config, options, overrides)
    if dry_run:
        from preprocess.dry_run import print_plan

        print_plan(settings, redo)
        return
    if driver_job:
        from preprocess.run_command import submit

        print(submit(settings, [argument for argument in sys.argv[1:] if argument != "--driver-job"], redo))
        return
    from preprocess.run_command import run_and_print

    try:
        summary = run_and_print(settings, break_lock, redo)
    except KeyboardInterrupt as interrupt:
        print(_stopped(settings.output), file=sys.stderr)
        raise typer.Exit(130) from interrupt
    if summary.units_left:
        print(_stopped(settings.output), file=sys.stderr)
        raise typer.Exit(130)
    if summary.units_failed:
        raise typer.Exit(1)


def _stopped(output: Path) -> str:
    return f"larstore: stopped. {output} keeps what is committed; run it again for the rest"
