"""Two processes that train together, on gloo: their step is that of one process with the joint batch."""

import socket

import pytest
import torch

from larstore.errors import ConfigError
from tests.train import joint_gradients
from train.config import make_config
from train.processes.ranks import Ranks, cores_of, find_ranks
from train.schema import TrainConfig


def test_two_processes_are_as_one():
    """Gradients, sums, summaries and decisions; see `joint_gradients.everything`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(joint_gradients.start, (port,), nprocs=2)


SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[003,005-007],big1",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_NUM_NODES": "2",
}  # fmt: skip
TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "MASTER_ADDR": "host", "MASTER_PORT": "1234",
}  # fmt: skip
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NAME": "job"}


def test_who_starts_the_processes():
    assert find_ranks(TrainConfig(), {}) == Ranks()
    assert find_ranks(TrainConfig(devices=2), {}) == Ranks(n=2, n_local=2, started=False)
    assert find_ranks(TrainConfig(devices="auto", accelerator="cpu"), {}) == Ranks()
    ranks = find_ranks(TrainConfig(), SLURM)
    assert ranks == Ranks(5, 8, 1, 4, 1, 2, "gpu003", ranks.port, by="srun")
    assert 15_000 <= ranks.port < 30_000
    assert find_ranks(TrainConfig(), SLURM | {"SLURM_STEP_ID": "1"}).port != ranks.port
    assert find_ranks(TrainConfig(devices="auto", num_nodes=2), SLURM) == ranks
    assert find_ranks(TrainConfig(devices=2), SLURM | TORCHRUN) == Ranks(3, 4, 1, 2, 1, 2, "host", 1234, by="torchrun")
    by_hand = {"NODE_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1234"}
    two_nodes = find_ranks(TrainConfig(devices=2, num_nodes=2), by_hand)
    assert two_nodes == Ranks(n=4, n_local=2, node=1, n_nodes=2, address="host", port=1234, started=False)
    # A batch script or a shell in a job is no step of srun, whatever its variables say.
    assert find_ranks(TrainConfig(devices=2), BATCH) == Ranks(n=2, n_local=2, started=False)
    assert find_ranks(TrainConfig(), BATCH | {"SLURM_JOB_NAME": "interactive"}) == Ranks()
    one_task = SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    assert find_ranks(TrainConfig(devices=3), one_task) == Ranks(n=3, n_local=3, started=False)


@pytest.mark.parametrize(
    ("settings", "environ", "message"),
    [
        (
            {"devices": 2},
            SLURM,
            r"devices = 2, but srun started 4 processes a node \(SLURM_NTASKS = 8\)\. Fix: --d",
        ),
        ({"num_nodes": 4}, SLURM, r"num_nodes = 4, but srun started 2 nodes .* Fix: --num-nodes 2"),
        ({"devices": 4}, TORCHRUN, r"devices = 4, but torchrun started 2 processes a node\. Fix: --devices 2"),
        ({}, SLURM | {"SLURM_STEP_TASKS_PER_NODE": "5,3"}, r"5,3 tasks on 2 nodes.* Fix: srun --ntasks-per-node=4"),
        ({}, BATCH, r"holds 4 tasks for this job, and larstore was started once\. Fix: srun larstore train"),
        ({"devices": 4}, BATCH | {"SLURM_JOB_NUM_NODES": "2"}, r"holds 2 nodes.* on one of them alone\. Fix: srun"),
        ({"num_nodes": 2}, {}, r"num_nodes = 2: NODE_RANK, MASTER_ADDR, MASTER_PORT not set\. Fix: start it with srun"),
    ],
)
def test_what_contradicts_is_one_line(settings, environ, message):
    with pytest.raises(ConfigError, match=message) as caught:
        find_ranks(TrainConfig(**settings), environ)
    assert "\n" not in str(caught.value)


def test_processes_of_a_node_share_its_cores(monkeypatch):
    monkeypatch.setattr("train.processes.ranks.cores", lambda: 16)
    assert cores_of(Ranks(n=4, n_local=4)) == 4
    assert cores_of(Ranks(n=40, n_local=40)) == 1
    by_srun = Ranks(n=4, n_local=4, by="srun")
    assert cores_of(by_srun, {"SLURM_CPUS_PER_TASK": "3"}) == 3
    assert cores_of(by_srun, {"SLURM_CPUS_ON_NODE": "64"}) == 16, "srun bound it to its share"
    assert cores_of(by_srun, {"SLURM_CPUS_ON_NODE": "16"}) == 4


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"devices": "all"}, {"precision": 64}, {"batch_norm": "global"}])
def test_settings_are_checked(wrong):
    values = {"output_dir": "x", "data": {"data_path": "x"}, "model": {"name": "cellnet_binary"}, "train": wrong}
    with pytest.raises(ConfigError, match=rf"train\.{next(iter(wrong))}"):
        make_config(values)
