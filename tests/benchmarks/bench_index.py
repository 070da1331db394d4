"""How an index of many images opens, finds and grows: a synthetic index, files in random order, as clusters write them.

python -m tests.benchmarks.bench_index [--images 6e7] [--folder PLACE] [--docs docs]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import larstore
from larstore import table
from larstore.records import Failure
from larstore.root import read_root
from larstore.testing import make_image, make_store
from tests.benchmarks.bars import Bar, bar_table, shown
from tests.benchmarks.side_by_side import machine_line, markdown

EVENTS, TPCS = 10, 6  # images of a file
FAILURES = 1000  # units that failed
COMMITTED = 1_000_000  # images of the index that the bar of a commit is for
ROOT, COMMIT = "root, bytes", "commit ten images, s"
FOUND = {  # step -> the same in a process of its own, and its peak memory in GB
    "finding": """
timed("open and count", opened)
peak("open and count")
files = images // 60
store = opened()
store.image(files // 3, 1, 1)
timed("one image by its key", lambda: store.image(files // 2, 3, 2), 100)
timed("20 files", lambda: len(store.select(files=(files // 3, files // 3 + 19))))
timed("half of the files", lambda: len(store.select(files=(files // 4, 3 * files // 4))))
timed("half of the files, two TPCs", lambda: len(store.select(files=(files // 4, 3 * files // 4), tpcs=[1, 5])))
""",
    "query": """
store = opened()
timed('query="voxel_count > 4000"', lambda: len(store.select(query="voxel_count > 4000")))
peak('query="voxel_count > 4000"')
""",
    "failures": """
store = opened()
assert len(timed("its failures", lambda: store.failures)) > 0
peak("its failures")
""",
    "info": """
import contextlib, io
from larstore.cli import main
sys.argv[1:] = ["info", "--json", path]
def info():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
timed("larstore info", info)
peak("larstore info")
""",
}
READING = """
import json, resource, sys, time
import larstore
path, images = sys.argv[1], int(sys.argv[2])
found = {{}}
def timed(name, call, times=1):
    start = time.perf_counter()
    for _ in range(times):
        value = call()
    found[f"{{name}}, s"] = (time.perf_counter() - start) / times
    return value
def peak(name):
    found[f"{{name}}, peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
def opened():
    store = larstore.open(path)
    len(store)
    return store
{steps}
print(json.dumps(found))
"""
LIMITS = {  # of the largest index, at most
    "open and count, s": 10.0,
    "open and count, peak GB": 4.0,
    "one image by its key, s": 1e-3,
    "20 files, s": 1.0,
    "half of the files, s": 1.0,
}


def big_store(path: Path, n_images: int) -> int:
    """A store whose index has so many rows, and hardly any voxels; returns the size of its root."""
    make_store(path, n_files=1, n_events=1)
    with larstore.StoreWriter(path) as writer:
        writer.commit([], [Failure(number, 1, f"{number}.npz", "made up") for number in range(FAILURES)])
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
    shard_rows = root.attributes["shard_rows"]
    for name in root.row_arrays["voxel"]:  # as long as the images say
        root.set_rows(name, -(-5000 * len(row) // shard_rows) * shard_rows)
    data = root.sealed()
    (path / "zarr.json").write_bytes(data)
    return len(data)


def reading(path: Path, n_images: int) -> dict[str, float]:
    """Seconds of each step, and the peak memory of its process."""
    found: dict[str, float] = {}
    for steps in FOUND.values():
        command = [sys.executable, "-c", READING.format(steps=steps), str(path), str(n_images)]
        found |= json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


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


def bars(found: Mapping[int, Mapping[str, float]]) -> list[Bar]:
    """What was promised of large indices."""
    largest, smallest = max(found), min(found)
    where = f"{largest:,} images"
    rows = [Bar(name, where, limit, found[largest][name], most=True) for name, limit in LIMITS.items()]
    if COMMITTED in found:
        rows.append(Bar(COMMIT, f"{COMMITTED:,} images", 1.0, found[COMMITTED][COMMIT], most=True))
    grown = found[largest][ROOT] - found[smallest][ROOT]
    return [*rows, Bar("growth of the root, bytes", f"{smallest:,} to {largest:,} images", 200, grown, most=True)]


def page(sizes: Sequence[int], folder: Path | None) -> str:
    """The page, in markdown."""
    found: dict[int, dict[str, float]] = {}
    for n_images in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as held:
            path = Path(held) / "big.zarr"
            found[n_images] = {ROOT: big_store(path, n_images)} | reading(path, n_images)
            opening, commit = committing(path)
            found[n_images] |= {"open a writer, s": opening, COMMIT: commit}
    rows = [[name, *(shown(found[n][name]) for n in found)] for name in found[sizes[0]]]
    return f"""# How large an index may be

Written by `python -m tests.benchmarks.bench_index --docs docs` on {time.strftime("%Y-%m-%d")}:
{machine_line("zarr", "pandas")}.

A synthetic index whose files come in random order, as clusters write them, in a store with {FAILURES:,} failures that
nobody settled. Opening and finding, a query, the failures, and `larstore info --json` each in a process of its own.

{bar_table(bars(found))}

{markdown(["", *(f"{n:,} images" for n in found)], rows)}
"""


def main() -> None:
    """Print the page, or write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=6e7)
    parser.add_argument("--folder", type=Path, help="where the index is written, 1 GB for 6e7 images")
    parser.add_argument("--docs", type=Path, help="folder for index-speed.md")
    arguments = parser.parse_args()
    sizes = sorted({10_000, min(COMMITTED, int(arguments.images)), int(arguments.images)})
    text = page(sizes, arguments.folder)
    if arguments.docs is None:
        print(text)
    else:
        (arguments.docs / "index-speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
