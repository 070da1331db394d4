"""What stored arrays take on disk and to decode, codec by codec, beside numpy's compressed npz."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from larstore.codecs import pack, round_mantissas, unpack_into
from larstore.format import CHARGE, CHUNK_ROWS, COORDS, LIVE, ROUNDED_CHARGE, TRUTH, ArraySpec
from larstore.records import ImageRecord
from tests.benchmarks.store_baselines import ARRAYS, concatenated

TAKEN = {"coords": COORDS, "charge": CHARGE, "live": LIVE, "truth": TRUTH}
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
    settings = (values.itemsize, spec.cname, spec.clevel, spec.shuffle)
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


def totals(units: Sequence[Sequence[ImageRecord]]) -> tuple[float, float, float]:
    """Sizes beside npz: of coords, of all arrays, of all arrays with rounded charges."""
    held = concatenated([image for images in units for image in images])
    npz = {name: npz_bytes(held[name]) for name in ARRAYS}
    ours = {name: measure(TAKEN[name], held[name])[0] for name in ARRAYS}
    rounded = measure(ROUNDED_CHARGE, round_mantissas(held["charge"], KEPT_BITS))[0]
    whole = sum(npz.values())
    return (
        ours["coords"] / npz["coords"],
        sum(ours.values()) / whole,
        (sum(ours.values()) - ours["charge"] + rounded) / whole,
    )
