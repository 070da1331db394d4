"""A store that was damaged and repaired is made whole again by the next run, with the damaged units alone."""

import numpy as np

import larstore
from larstore.repairing import repair
from larstore.root import read_root
from larstore.shards import layout_of
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.detector import load_detector
from preprocess.plan import make_plan
from preprocess.runner import run

DETECTOR = "protodune-sp-2021"


def write_npz(path, seed):
    """Two events whose three planes are lit in a few places."""
    rng = np.random.default_rng(seed)
    events = np.zeros((2, 64, 2560), np.float32)
    for event in events:
        event[rng.integers(0, 64, 400), rng.integers(0, 2560, 400)] = rng.uniform(0.1, 5, 400)
    np.savez(path, *events)


def test_a_repaired_store_is_completed_by_the_next_run(tmp_path):
    for number in (1, 2):
        write_npz(tmp_path / f"a_{number}_wire-TPC1.npz", number)
    options = {"detector": DETECTOR, "shard_rows": 65536, "chunk_rows": 8}
    config = RunConfig(inputs=(str(tmp_path),), output=tmp_path / "run.zarr", **options)
    with make_cluster("local", 1) as client:
        run(config, client)
        image = larstore.open(config.output).image(2, 1, 1)
        layout = layout_of("voxels/charge", read_root(config.output).nodes["voxels/charge"])
        shard, row = divmod(image.summary("voxel_start") + len(image) - 1, layout.shard_rows)
        file = config.output / layout.file(shard)
        data = bytearray(file.read_bytes())
        index = np.frombuffer(data[-layout.index_bytes : -4], "<u8").reshape(-1, 2)
        data[int(index[row // layout.chunk_rows, 0]) + 20] ^= 1
        whole = larstore.open(config.output)
        keys = whole.index.index.tolist()
        good = {key: whole.image(*key).charge.tobytes() for key in keys}
        file.write_bytes(data)
        done = repair(config.output, tmp_path / "good.zarr")
        assert done.dropped == [(2, 1, 1)]
        again = config.model_copy(update={"output": tmp_path / "good.zarr"})
        plan = make_plan(again, load_detector(DETECTOR), larstore.open(again.output))
        assert [(unit.file, unit.tpc) for unit in plan.units] == [(2, 1)]
        summary = run(again, client)
        assert (summary.units_done, summary.units_before, summary.units_failed) == (1, 1, 0)
        assert run(again, client).units_done == 0
    store = larstore.open(again.output)
    assert {key: store.image(*key).charge.tobytes() for key in store.index.index} == good
    assert store.failures.empty
    assert larstore.verify(store.path).ok
