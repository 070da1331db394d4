"""Reading a store: an epoch in order, beside a bare loop that decodes the same shards, and npz files."""

import tempfile
from pathlib import Path

import numpy as np

import larstore
from larstore.shards import MISSING, decode_chunk, decode_index, pool
from larstore.testing import make_store
from tests.benchmarks.side_by_side import machine_line, print_table, side_by_side

ARRAYS = ("voxels/coords", "voxels/charge", "voxels/truth")


def main() -> None:
    """Print a table for a store of synthetic images."""
    print(machine_line("zarr", "numcodecs"))
    with tempfile.TemporaryDirectory() as folder:
        path = make_store(
            Path(folder) / "run.zarr", n_files=8, n_events=5, n_voxels=30_000, shard_rows=2**21, chunk_rows=2**14
        )
        part = larstore.open(path).select()
        voxels = int(part.column("voxel_count").sum())
        for number, image in enumerate(part):
            np.savez_compressed(Path(folder) / f"{number}.npz", a=image.coords, b=image.charge, c=image.truth)

        layouts = [larstore.open(path).reader(name).layout for name in ARRAYS]

        def bare() -> None:
            for layout in layouts:
                for file in sorted((path / layout.path / "c").rglob("0" if layout.width else "*")):
                    if file.is_file():
                        data = file.read_bytes()
                        body = len(data) - layout.index_bytes
                        index = decode_index(layout, data[body:], body)
                        blobs = [data[o : o + n] for o, n in index.tolist() if o != MISSING]
                        list(pool().map(lambda blob, layout=layout: decode_chunk(layout, blob), blobs))

        def epoch() -> None:
            selection = larstore.open(path).select()
            for start in range(0, len(selection), 8):
                for image in selection.read(start, min(start + 8, len(selection))):
                    _ = image.coords, image.charge, image.truth

        def files() -> None:
            for number in range(len(part)):
                with np.load(Path(folder) / f"{number}.npz") as archive:
                    _ = archive["a"], archive["b"], archive["c"]

        seconds = side_by_side({"decode whole shards": bare, "epoch in order": epoch, "npz per image": files})
        print_table(f"{len(part)} images, {voxels:,} voxels", seconds, "decode whole shards", "voxels", voxels)


if __name__ == "__main__":
    main()
