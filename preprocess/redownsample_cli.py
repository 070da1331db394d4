"""Subcommand `redownsample`; whatever is heavy is imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from larstore.option_values import inclusive_range, whole_numbers


def redownsample_command(
    store: Annotated[Path, typer.Argument(help="A store that keeps pixels.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new store: created, or continued.")],
    downsample: Annotated[str, typer.Option(metavar="T,Y,Z", help="Ticks, y and z pixels of a voxel, as in 4,2,2.")],
    files: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only files A to B, both included, or only A.")
    ] = None,
    tpcs: Annotated[str | None, typer.Option(help="Only these TPCs, as in 1,5,9.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: one for each core.")] = None,
    break_lock: Annotated[bool, typer.Option("--break-lock", help="Take over the lock of a dead host.")] = False,
) -> None:
    """Make a store with another downsampling from the pixels that `preprocess --save-pix` kept, without tiling again.

    Run again, it does only what is missing.

    Example: larstore redownsample run.zarr -o coarse.zarr --downsample 4,2,2
    """
    numbers = None if tpcs is None else whole_numbers(tpcs, "--tpcs")
    chosen, steps = inclusive_range(files, "--files"), whole_numbers(downsample, "--downsample")
    from preprocess.downsampling import Redownsampled, check, redownsample
    from preprocess.progress import bar

    images, _ = check(store, output, steps, chosen, numbers)  # what is wrong is said in one line, without a bar
    try:
        with bar("downsampling", len(images), "images") as advance:

            def show(done: Redownsampled, n_images: int) -> None:
                advance(done.images + done.images_before)

            done = redownsample(
                store, output, steps, files=chosen, tpcs=numbers, threads=threads, break_lock=break_lock, progress=show
            )
    except KeyboardInterrupt as interrupt:
        print(f"larstore: stopped. {output} keeps what is committed; run it again for the rest", file=sys.stderr)
        raise typer.Exit(130) from interrupt
    print(
        f"{output}: {done.images:,} images ({done.images_before:,} were there before), {done.voxels:,} voxels from "
        f"{done.pixels:,} pixels in {done.seconds:.1f} s"
    )
