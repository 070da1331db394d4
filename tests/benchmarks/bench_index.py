"""How an index of many images opens, finds and grows: a synthetic index, files in random order, as clusters write them.

python -m tests.benchmarks.bench_index [--images 6e7] [--folder PLACE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import larstore
from larstore import table
from larstore.root import read_root
from larstore.testing import make_image, make_store
from tests.benchmarks.side_by_side import machine_line, markdown

EVENTS, TPCS = 10, 6  # images of a file
READING = """
import json, resource, sys, time
import larstore
path, images = sys.argv[1], int(sys.argv[2])
found = {}
def timed(name, call, times=1):
    start = time.perf_counter()
    for _ in range(times):
        value = call()
    found[name] = (time.perf_counter() - start) / times
    return value
def opened():
    store = larstore.open(path)
    len(store)
    return store
store = timed("open and count", opened)
found["peak, GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
files = images // 60
store.image(files // 3, 1, 1)
timed("one image by its key", lambda: store.image(files // 2, 3, 2), 100)
timed("20 files", lambda: len(store.select(files=(files // 3, files // 3 + 19))))
timed("half of the files", lambda: len(store.select(files=(files // 4, 3 * files // 4))))
timed("half of the files, two TPCs", lambda: len(store.select(files=(files // 4, 3 * files // 4), tpcs=[1, 5])))
print(json.dumps(found))
"""


def big_store(path: Path, n_images: int) -> int:
    """A store whose index has so many rows, and hardly any voxels; returns the size of its root."""
    make_store(path, n_files=1, n_events=1)
    root = read_root(path)
    per_file = EVENTS * TPCS
    files = np.random.default_rng(0).permutation(n_images // per_file)
    row = (files[:, None] * per_file + np.arange(per_file)).ravel()
    values = {
        "file": row // per_file,
        "event": row % per_file // TPCS,
        "tpc": row % TPCS,
        "voxel_count": np.random.default_rng(1).integers(1, 5000, len(row)),
        "voxel_start": np.arange(len(row)) * 5000,
    }
    for name, node in root.nodes.items():
        if name.startswith("index/"):
            node["shape"][0] = 0
            column = values.get(name.removeprefix("index/"), np.zeros(len(row))).astype(node["data_type"])
            for file, data in table.appended(path, name, node, column).items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(data)
            node["shape"][0] = len(row)
    data = root.sealed()
    (path / "zarr.json").write_bytes(data)
    return len(data)


def reading(path: Path, n_images: int) -> dict[str, float]:
    """Seconds of each step in a process of its own, and its peak memory."""
    command = [sys.executable, "-c", READING, str(path), str(n_images)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def committing(path: Path) -> tuple[float, float]:
    """Seconds to open a writer, and to commit a block of ten images; the median of five commits."""
    start = time.perf_counter()
    with larstore.StoreWriter(path) as writer:
        opening = time.perf_counter() - start
        seconds = []
        for number in range(5):
            images = [make_image(2_000_000 + number, event) for event in range(10)]
            receipt = larstore.write_block(path, writer.reserve(1), images)
            start = time.perf_counter()
            writer.commit([receipt])
            seconds.append(time.perf_counter() - start)
    return opening, float(np.median(seconds))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=6e7)
    parser.add_argument("--folder", type=Path, help="where the index is written, 1 GB for 6e7 images")
    arguments = parser.parse_args()
    print(machine_line("zarr", "pandas"))
    rows = []
    for n_images in sorted({10_000, 1_000_000, int(arguments.images)}):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / "big.zarr"
            root_bytes = big_store(path, n_images)
            found = reading(path, n_images)
            opening, commit = committing(path)
            rows.append([f"{n_images:,}", f"{root_bytes:,}", *(f"{value:.4g}" for value in found.values()),
                         f"{opening:.3g}", f"{commit:.3g}"])  # fmt: skip
    print(markdown(["images", "root, bytes", *(name if "GB" in name else f"{name}, s" for name in found),
                    "open a writer, s", "commit ten images, s"], rows))  # fmt: skip


if __name__ == "__main__":
    main()
