"""Subcommand `join`; whatever is heavy is imported when it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from larstore.option_values import inclusive_range, whole_numbers

if TYPE_CHECKING:
    from distributed import Client

    from preprocess.joining.joining import Joined

SHOWN = 10  # events that are named


def join_command(
    store: Annotated[Path, typer.Argument(help="A store with images of single TPCs.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new store: created, or continued.")],
    tpcs: Annotated[str, typer.Option(metavar="1,5,9", help="The TPCs to join, in any order.")],
    files: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only files A to B, both included, or only A.")
    ] = None,
    incomplete: Annotated[
        str, typer.Option(metavar="skip|keep", help="Events that lack a TPC: leave them out, or keep what they have.")
    ] = "skip",
    ticks: Annotated[
        int | None, typer.Option(min=1, help="Ticks of the read-out; default: as the detector says.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option("--predictions", metavar="NAME,NAME|all", help="Join these predictions, too.")
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(
            "--bridge",
            metavar="NAME",
            help="Bridge the gaps between faces where this prediction's scores at both edges say so.",
        ),
    ] = None,
    bridge_above: Annotated[
        float | None,
        typer.Option(
            "--bridge-above", metavar="SCORE", help="A score above this at both edges bridges.", show_default="0.01"
        ),
    ] = None,
    bridge_reach: Annotated[
        int | None,
        typer.Option(
            "--bridge-reach", metavar="N", min=0, help="Voxels by which both edges may differ.", show_default="8"
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: one for each core, 8 at most.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Join on a Dask cluster instead, as `larstore preprocess` does.")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|MIN:MAX", help="Worker processes of the cluster, or how few and many.")
    ] = None,
    break_lock: Annotated[bool, typer.Option("--break-lock", help="Take over the lock of a dead host.")] = False,
) -> None:
    """Join the images of several TPCs of each event into one, in a common frame with the true gap between them.

    Run again, it does only what is missing.

    Example: larstore join run.zarr -o joined.zarr --tpcs 1,5,9 --predictions all --bridge ghost3d
    """
    numbers, chosen = whole_numbers(tpcs, "--tpcs"), inclusive_range(files, "--files")
    if incomplete not in ("skip", "keep"):
        raise typer.BadParameter(f"{incomplete!r}: give skip or keep", param_hint="--incomplete")
    number = inclusive_range(workers, "--workers")
    for option, value in (("--bridge-above", bridge_above), ("--bridge-reach", bridge_reach)):
        if value is not None and bridge is None:
            raise typer.BadParameter(f"{value}: needs --bridge NAME", param_hint=option)
    import larstore
    from preprocess.interrupts import terminable
    from preprocess.joining.bridge import ABOVE, REACH
    from preprocess.joining.joining import Joined, check, join
    from preprocess.progress import bar

    # What is wrong is said in one line, without a bar.
    above, reach = ABOVE if bridge_above is None else bridge_above, REACH if bridge_reach is None else bridge_reach
    names = [] if predictions is None else [name.strip() for name in predictions.split(",")]
    if names == ["all"]:
        names = sorted(larstore.open(store).predictions)
    plan = check(
        store, output, numbers, files=chosen, incomplete=incomplete, ticks=ticks, predictions=names, bridge=bridge,
        bridge_above=above, bridge_reach=reach,
    )  # fmt: skip
    left = [
        *sorted(set(plan.store.predictions) - set(plan.predictions)),
        *(["pixels"] if plan.store.root.pixels else []),
    ]
    if left:
        print(f"larstore: not joined, only in {store}: {', '.join(left)}", file=sys.stderr)
    try:
        with terminable(), _connected(cluster, number) as client, bar("joining", len(plan.events), "events") as advance:

            def show(done: Joined, n_events: int) -> None:
                advance(done.images + done.images_before)

            done = join(
                store, output, numbers, files=chosen, incomplete=incomplete, ticks=ticks, predictions=names,
                bridge=bridge, bridge_above=above, bridge_reach=reach, threads=threads, client=client,
                break_lock=break_lock, progress=show,
            )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        print(f"larstore: stopped. {output} keeps what is committed; run it again for the rest", file=sys.stderr)
        raise typer.Exit(130) from interrupt
    _tell(done, output, incomplete == "keep", bridge is not None)
    if done.failures:
        raise typer.Exit(1)


@contextmanager
def _connected(cluster: str | None, workers: tuple[int, int] | None) -> "Iterator[Client | None]":
    """A client of a cluster, if one is asked for."""
    if cluster is None and workers is None:
        yield None
        return
    from preprocess.cluster import make_cluster

    with make_cluster(cluster or "local", workers) as client:
        yield client


def _tell(done: "Joined", output: Path, kept: bool, bridged: bool) -> None:
    """The result to stdout, what is not in it to stderr."""
    x, y, z = done.shape
    more = f"; {done.bridged:,} bridge gaps" if bridged else ""
    print(
        f"{output}: {done.images:,} images ({done.images_before:,} were there before), {done.voxels:,} voxels "
        f"({done.shared:,} on another TPC's, summed{more}) in a frame of {x or '?'} × {y} × {z}, {done.seconds:.1f} s"
    )
    for name, (written, lacking_scores) in done.predictions.items():
        more = f"; {lacking_scores:,} lack a TPC's scores" if lacking_scores else ""
        print(f"prediction {name}: {written:,} images{more}")
    lacking = [f"({file}, {event}) lacks {','.join(map(str, tpcs))}" for file, event, tpcs in done.incomplete]
    _list(f"{'joined without' if kept else 'left out for'} a missing TPC: (file, event)", lacking)
    _list(
        "left out, run, subrun or frame number differ between TPCs: (file, event)", [f"{key}" for key in done.differing]
    )
    _list("failed:", [f"file {each.file}, {each.error}" for each in done.failures])


def _list(what: str, events: list[str]) -> None:
    if events:
        more = f"; and {len(events) - SHOWN:,} more" if len(events) > SHOWN else ""
        listed = "; ".join(events[:SHOWN])
        print(f"larstore: {len(events):,} event(s) {what} {listed}{more}", file=sys.stderr)
