"""Workers that die, stumble or remember too much: no unit is lost, or given up, for another one's fault."""

import copy
import os
import signal
import threading
import time

import pytest
import yaml
from distributed import Client, LocalCluster

import larstore
from preprocess.cluster import make_cluster
from preprocess.config import RunConfig
from preprocess.runner import run
from preprocess.testing import SMALL_DETECTOR, make_inputs, small_detector, write_small_detector
from tests.preprocess.small_runs import fault, make_config, write_read_out

FILES = 7


@pytest.mark.fault(
    "a unit kills its worker each time (a crash, too much memory)",
    "after two deaths it is tried alone, after the third it is recorded in `failures/`; all others are done",
)
@pytest.mark.parametrize("task_bytes", [1, pytest.param(10**9, marks=pytest.mark.slow)], ids=["alone", "batched"])
def test_a_unit_that_kills_its_workers_is_given_up_alone(tmp_path, task_bytes):
    config = make_config(tmp_path, task_bytes=task_bytes)
    with make_cluster("local", 2) as client:
        client.register_worker_callbacks(fault("a_5_", "kill"))
        summary = run(config, client)
    assert [failure.file for failure in summary.failures] == [5]
    assert "its worker died 3 times" in summary.failures[0].error
    store = larstore.open(config.output)
    assert {key[0] for key in store.index.index} == set(range(FILES)) - {5}
    assert list(store.failures["file"]) == [5]
    assert larstore.verify(config.output).ok


@pytest.mark.fault(
    "a fault of the program in one unit",
    "it is recorded with type and message, its traceback is in the log; all others are done",
)
def test_a_bug_in_one_unit_is_a_failure_with_its_type(tmp_path, caplog):
    config = make_config(tmp_path, task_bytes=10**9)
    with make_cluster("local", 1) as client:
        client.register_worker_callbacks(fault("a_3_", "raise"))
        summary = run(config, client)
    assert summary.units_done == FILES - 1
    assert [failure.error for failure in summary.failures] == [
        f"{tmp_path / 'raw' / 'a_3_wire-TPC1.npz'}: ZeroDivisionError: planted fault"
    ]
    assert "Traceback" in caplog.text


@pytest.mark.fault(
    "a worker dies under a scheduler with Dask's own settings",
    "what it held is done again, at the latest by the next run",
)
def test_a_cluster_with_dasks_own_settings_loses_nothing(tmp_path):
    """There dask itself gives a dead worker's tasks to another one, with the block that they had."""
    config = make_config(tmp_path)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.register_worker_callbacks(fault("none", "0"))
        victim = next(iter(client.run(os.getpid).values()))

        def kill() -> None:
            while not (config.output / "voxels" / "coords" / "c").is_dir():
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        run(config, client)
        killer.join()
        run(config, client)  # the second execution of a written block may have been refused
    assert {key[0] for key in larstore.open(config.output).index.index} == set(range(FILES))
    assert larstore.verify(config.output).ok


@pytest.mark.fault(
    "a detector's file is edited while workers live on",
    "they read it again: the store equals that of new workers",
)
def test_a_detector_file_that_was_edited_is_read_again_by_old_workers(tmp_path):
    path = write_small_detector(tmp_path)
    make_inputs(tmp_path / "raw", small_detector(tmp_path), n_files=1)
    settings = {"inputs": (str(tmp_path / "raw"),), "detector": str(path), "threshold": 500.0}
    with make_cluster("local", 1) as client:
        run(RunConfig(output=tmp_path / "before.zarr", **settings), client)
        edited = copy.deepcopy(SMALL_DETECTOR)
        edited["lattice"]["faces"][0]["planes"][2]["offset_mm"] += 0.9
        path.write_text(yaml.safe_dump(edited, sort_keys=False))
        run(RunConfig(output=tmp_path / "old_workers.zarr", **settings), client)
    with make_cluster("local", 1) as client:
        run(RunConfig(output=tmp_path / "new_workers.zarr", **settings), client)
    assert larstore.diff(tmp_path / "before.zarr", tmp_path / "new_workers.zarr")
    assert larstore.diff(tmp_path / "old_workers.zarr", tmp_path / "new_workers.zarr") == []


@pytest.mark.slow
def test_many_small_files_fill_their_shards(tmp_path):
    """Few files for the file system, however small the inputs: no more than full shards, those in flight, and 150."""
    for file in range(240):
        write_read_out(tmp_path / f"a_{file}_wire-TPC1.npz", file, lit=4000)
    config = RunConfig(
        inputs=(str(tmp_path),), output=tmp_path / "run.zarr", detector="protodune-sp-2021", min_live_planes=1,
        truth=None, shard_rows=32_768, chunk_rows=1024, workers=2,
    )  # fmt: skip
    with make_cluster("local", 2) as client:
        summary = run(config, client)
    assert summary.units_done == 240
    store = larstore.open(config.output)
    arrays = sum(len(arrays) for kind, arrays in store.root.row_arrays.items() if kind == "voxel")
    full = summary.voxels / config.shard_rows
    assert full > 20  # so that a shard for each input, or for each few, would be too many
    files = sum(path.is_file() for path in config.output.rglob("*"))
    assert files <= arrays * (full + 2 * 2) + 150
