"""Which process of how many this one is, and who starts the others: torchrun, srun, or `train.processes.launch`."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from larstore.cores import cores
from larstore.errors import ConfigError
from train.schema import TrainConfig

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NO_STEP = 0xFFFFFFF0  # Slurm's numbers from here on are no steps of srun: batch script, interactive shell
FIRST_PORT, PORTS = 15_000, 15_000  # of the meeting point under Slurm, which all tasks must find by themselves


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    Attributes:
        rank, n: number of this process, and of all.
        local_rank, n_local: the same on this node.
        node, n_nodes: number of this node, and of all.
        address, port: where rank 0 is met; port 0 if it has to be chosen.
        started: the others run already, or there are none; else `train.processes.launch` has to start them.
        by: who started them, for messages.
    """

    rank: int = 0
    n: int = 1
    local_rank: int = 0
    n_local: int = 1
    node: int = 0
    n_nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    started: bool = True
    by: str = "larstore"


def find_ranks(settings: TrainConfig, environ: Mapping[str, str] = os.environ) -> Ranks:
    """Which processes a training has, from ``train.devices``, ``train.num_nodes`` and the environment.

    Raises ConfigError where these contradict each other.
    """
    if all(name in environ for name in TORCHRUN):
        n, n_local = int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
        rank, node = int(environ["RANK"]), int(environ.get("GROUP_RANK", int(environ["RANK"]) // n_local))
        ranks = Ranks(
            rank, n, int(environ["LOCAL_RANK"]), n_local, node, -(-n // n_local), environ["MASTER_ADDR"],
            int(environ["MASTER_PORT"]), by="torchrun",
        )  # fmt: skip
    elif _tasks(environ) > 1:
        ranks = _slurm(environ)
    else:
        return _to_start(settings, environ)
    for key, option, wanted, found, what in (
        ("devices", "--devices", settings.devices, ranks.n_local, "processes a node"),
        ("num_nodes", "--num-nodes", settings.num_nodes, ranks.n_nodes, "nodes"),
    ):
        if isinstance(wanted, int) and wanted != found:
            tasks = f" (SLURM_NTASKS = {ranks.n})" if ranks.by == "srun" else ""
            raise ConfigError(
                f"train.{key} = {wanted}, but {ranks.by} started {found} {what}{tasks}. "
                f"Fix: {option} {found}, or leave it out"
            )
    return ranks


def cores_of(ranks: Ranks, environ: Mapping[str, str] = os.environ) -> int:
    """Cores for this process, where those of the node are shared evenly by its processes."""
    usable = cores()
    if ranks.by == "srun":
        if "SLURM_CPUS_PER_TASK" in environ:
            return max(1, min(usable, int(environ["SLURM_CPUS_PER_TASK"])))
        if usable < int(environ.get("SLURM_CPUS_ON_NODE", 0)):  # bound to its share already
            return usable
    return max(1, usable // ranks.n_local)


def _tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the step of srun that this process belongs to, 0 if to none."""
    step = environ.get("SLURM_STEP_ID", "")
    if not step.isdigit() or int(step) >= NO_STEP or "SLURM_PROCID" not in environ:
        return 0
    return int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1)))


def _slurm(environ: Mapping[str, str]) -> Ranks:
    n, n_nodes = _tasks(environ), int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", 1)))
    layout = environ.get("SLURM_STEP_TASKS_PER_NODE", str(n // n_nodes))
    even = re.fullmatch(r"(\d+)(\(x\d+\))?", layout)
    if not even:
        raise ConfigError(
            f"Slurm started {layout} tasks on {n_nodes} nodes, and each node needs as many. "
            f"Fix: srun --ntasks-per-node={n // n_nodes}"
        )
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "127.0.0.1"))
    first = re.split(r",(?![^\[]*\])", nodes)[0]  # node[01-03,07],other
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
    unique = int(environ.get("SLURM_JOB_ID", 0)) + 97 * int(environ["SLURM_STEP_ID"])
    return Ranks(
        rank=int(environ["SLURM_PROCID"]),
        n=n,
        local_rank=int(environ["SLURM_LOCALID"]),
        n_local=int(even[1]),
        node=int(environ["SLURM_NODEID"]),
        n_nodes=n_nodes,
        address=environ.get("MASTER_ADDR", first if n_nodes > 1 else "127.0.0.1"),
        port=int(environ.get("MASTER_PORT", FIRST_PORT + unique % PORTS)),
        by="srun",
    )


def _to_start(settings: TrainConfig, environ: Mapping[str, str]) -> Ranks:
    """The processes that are asked for, of which this is none yet if there are several."""
    reserved, job_nodes = int(environ.get("SLURM_NTASKS", 1)), int(environ.get("SLURM_JOB_NUM_NODES", 1))
    in_batch = environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if in_batch and settings.devices is None and reserved > 1:
        raise ConfigError(
            f"Slurm holds {reserved} tasks for this job, and larstore was started once. "
            "Fix: srun larstore train …, or --devices 1 to train with one process"
        )
    if in_batch and job_nodes > 1 and settings.num_nodes is None and settings.devices not in (None, 1):
        raise ConfigError(
            f"Slurm holds {job_nodes} nodes for this job, and larstore was started on one of them alone. "
            "Fix: srun larstore train …, or --num-nodes 1"
        )
    n_local, n_nodes = _devices(settings), settings.num_nodes or 1
    if n_nodes == 1:
        return Ranks(n=n_local, n_local=n_local, started=n_local == 1)
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environ]
    if missing:
        raise ConfigError(
            f"train.num_nodes = {n_nodes}: {', '.join(missing)} not set. Fix: start it with srun or torchrun, or set "
            "NODE_RANK (0, 1, …), MASTER_ADDR and MASTER_PORT (of node 0) and start it on each node"
        )
    return Ranks(
        n=n_local * n_nodes,
        n_local=n_local,
        node=int(environ["NODE_RANK"]),
        n_nodes=n_nodes,
        address=environ["MASTER_ADDR"],
        port=int(environ["MASTER_PORT"]),
        started=False,
    )


def _devices(settings: TrainConfig) -> int:
    if settings.devices != "auto":
        return settings.devices or 1
    if settings.accelerator == "cpu":
        return 1
    import torch  # late: to start processes needs no torch

    return max(1, torch.cuda.device_count())
