"""What stored arrays take on disk and to decode, codec by codec, beside numpy's compressed npz."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np

import larstore
from larstore.codecs import pack, round_mantissas, unpack_into
from larstore.format import CHARGE, CHUNK_ROWS, COORDS, LIVE, ROUNDED_CHARGE, TRUTH, ArraySpec
from larstore.records import ImageRecord
from tests.benchmarks.bars import Bar
from tests.benchmarks.store_baselines import ARRAYS, NpzFiles, concatenated

TAKEN = {"coords": COORDS, "charge": CHARGE, "live": LIVE, "truth": TRUTH}
COORDS_BAR, ARRAYS_BAR, ROUNDED_BAR = 0.3, 0.9, 0.6  # of the npz
KEPT_BITS = 9  # of a charge's mantissa: to 1e-3
TRIED: dict[str, Sequence[ArraySpec]] = {
    "coords": [
        COORDS,
        replace(COORDS, clevel=8),
        replace(COORDS, cname="lz4hc", clevel=9),
        replace(COORDS, shuffle="bitshuffle"),
        replace(COORDS, transposed=False, shuffle="bitshuffle"),
    ],
    "charge": [
        CHARGE,
        replace(CHARGE, clevel=9),
        replace(CHARGE, cname="zstd", shuffle="bitshuffle"),
        replace(CHARGE, cname="zstd", clevel=5),
        replace(CHARGE, cname="lz4", clevel=5, shuffle="bitshuffle"),
    ],
    "rounded charge": [ROUNDED_CHARGE, replace(ROUNDED_CHARGE, cname="zstd", clevel=1), CHARGE],
    "truth": [TRUTH, replace(TRUTH, clevel=9), replace(TRUTH, cname="zstd"), replace(TRUTH, cname="lz4", clevel=9)],
    "live": [LIVE, replace(LIVE, clevel=9), replace(LIVE, cname="zstd"), replace(LIVE, cname="lz4", clevel=9)],
}


def npz_bytes(values: np.ndarray) -> int:
    """Size in a `savez_compressed`."""
    held = io.BytesIO()
    np.savez_compressed(held, a=values)
    return len(held.getvalue())


def measure(spec: ArraySpec, values: np.ndarray) -> tuple[int, float, float]:
    """Bytes of all chunks, seconds to encode them, and to decode them with one thread."""
    chunks = [values[start : start + CHUNK_ROWS] for start in range(0, len(values), CHUNK_ROWS)]
    ordered = [np.ascontiguousarray(chunk.T if spec.transposed else chunk) for chunk in chunks]
    block = CHUNK_ROWS * values[:1].nbytes  # one a chunk, as a store has them
    settings = (values.itemsize, spec.cname, spec.clevel, spec.shuffle, block)
    start = time.perf_counter()
    blobs = [pack(chunk, *settings) for chunk in ordered]
    encoding = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for blob, chunk in zip(blobs, ordered, strict=True):
            unpack_into(blob, chunk)
        times.append(time.perf_counter() - start)
    return sum(map(len, blobs)), encoding, float(np.median(times))


def codec_rows(samples: dict[str, Sequence[Sequence[ImageRecord]]]) -> Iterator[list[str]]:
    """A row a codec: size beside npz for each sample, and speeds on the first."""
    arrays = {name: concatenated([i for images in units for i in images]) for name, units in samples.items()}
    for held in arrays.values():
        held["rounded charge"] = round_mantissas(held["charge"], KEPT_BITS)
    for array, specs in TRIED.items():
        npz = {name: npz_bytes(held[array.removeprefix("rounded ")]) for name, held in arrays.items()}
        for spec in specs:
            found = {name: measure(spec, held[array]) for name, held in arrays.items()}
            _, encoding, decoding = next(iter(found.values()))
            n_bytes = next(iter(arrays.values()))[array].nbytes
            how = "column by column, " if spec.transposed else ""
            taken = spec in (TAKEN.get(array), ROUNDED_CHARGE if array == "rounded charge" else None)
            yield [
                array if spec is specs[0] else "",
                f"{how}{spec.cname} {spec.clevel}, {spec.shuffle}" + (" (**taken**)" if taken else ""),
                *(f"{found[name][0] / npz[name]:.3f}" for name in arrays),
                f"{n_bytes / encoding / 1e9:.2f}",
                f"{n_bytes / decoding / 1e9:.2f}",
            ]


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sizes_on_disk(store: Path, rounded: Path, npz: NpzFiles) -> dict[str, int]:
    """Bytes of the files that were written: of the npz and of the store, coords and all arrays, and of all else."""
    members = [member for path in npz.paths for member in ZipFile(path).infolist()]
    compressed = {name: sum(m.compress_size for m in members if m.filename == f"{name}.npy") for name in ARRAYS}
    return {
        "npz coords": compressed["coords"],
        "npz": sum(compressed.values()),
        "coords": bytes_below(store / "voxels/coords"),
        "arrays": bytes_below(store / "voxels"),
        "rounded arrays": bytes_below(rounded / "voxels"),
        "all else": bytes_below(store) - bytes_below(store / "voxels"),
    }


def size_rows(sizes: Mapping[str, Mapping[str, int]]) -> tuple[list[list[str]], list[Bar]]:
    """A row a sample for the table of sizes beside npz, and their bars."""
    rows, bars = [], []
    for name, size in sizes.items():
        coords, arrays = size["coords"] / size["npz coords"], size["arrays"] / size["npz"]
        rounded, rest = size["rounded arrays"] / size["npz"], size["all else"] / size["npz"]
        rows.append([name, *(f"{ratio:.3f}" for ratio in (coords, arrays, rounded, rest))])
        bars += [
            Bar("size on disk, coords, × npz", name, COORDS_BAR, coords, most=True),
            Bar("size on disk, all arrays, × npz", name, ARRAYS_BAR, arrays, most=True),
            Bar("size on disk, all arrays, charges rounded, × npz", name, ROUNDED_BAR, rounded, most=True),
        ]
    return rows, bars


def most_files(store: larstore.Store, blocks: int) -> float:
    """The most files that a store may have, of which so many blocks were written at once, or for which nothing came."""
    arrays = [path for paths in store.root.row_arrays.values() for path in paths]
    voxels = int(store.select().column("voxel_count").sum())
    return len(arrays) * (voxels / store.attributes["shard_rows"] + blocks) + 150


def files_bar(name: str, path: Path, blocks: int) -> Bar:
    """The number of a store's files."""
    files = sum(file.is_file() for file in path.rglob("*"))
    return Bar("files", name, most_files(larstore.open(path), blocks), files, most=True)
