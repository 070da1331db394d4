"""Several processes that train one network: what they add up, agree on, and how Lightning is told about them.

Everything here also works alone, where a sum over all processes is this one's own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn

from larstore.errors import ConfigError
from train.objective.losses import VoxelLoss
from train.processes.launch import LostProcessError
from train.processes.ranks import Ranks
from train.runtime import device_of
from train.schema import Config
from train.sparse.layers import BatchNormReLU, InputLayer

_KNOWN = signature(nn.parallel.DistributedDataParallel).parameters
_FORWARD_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"  # before torch 2.13
TIMEOUT = timedelta(hours=2)  # rank 0 may write predictions for long while the others wait


def size() -> int:
    """How many processes train together now."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_sums(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same bits on each."""
    if size() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def gather(values: Sequence[float]) -> list[list[float]]:
    """The numbers (float64, as many everywhere) of each process, in the order of the ranks, for all of them."""
    if size() == 1:
        return [list(values)]
    mine = torch.tensor(values, dtype=torch.float64, device=_device())
    table = [torch.empty_like(mine) for _ in range(size())]
    distributed.all_gather(table, mine)
    rows: list[list[float]] = torch.stack(table).tolist()
    return rows


def gather_objects(value: Any) -> list[Any]:
    """Any value of each process, in the order of the ranks, for all of them; slow."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    distributed.all_gather_object(found, value)
    return found


def to_first(value: Any) -> list[Any] | None:
    """Any value of each process, in the order of the ranks, for rank 0; None for the others."""
    if size() == 1:
        return [value]
    found = [None] * size() if distributed.get_rank() == 0 else None
    distributed.gather_object(value, found)
    return found


def from_first(value: Any) -> Any:
    """The value of rank 0, for all."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def any_of(flag: bool) -> bool:
    """Whether it holds on any process."""
    return any(row[0] for row in gather([float(flag)]))


def _device() -> torch.device:
    """Where small messages must lie: nccl knows the memory of GPUs only."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


def share_losses(loss: nn.Module) -> None:
    """In training, let each process divide by all weights over the number of processes (see `VoxelLoss.share`).

    The mean of the processes' gradients, which is what they step along, is then that of the joint batch. In validation
    a batch is one process's own.
    """
    for module in loss.modules():
        if isinstance(module, VoxelLoss):
            module.share = _shared(module)


def _shared(loss: VoxelLoss) -> Callable[[Tensor], Tensor]:
    def share(total: Tensor) -> Tensor:
        return all_sums(total) / size() if loss.training else total

    return share


def set_batch_norm(model: nn.Module, mode: str) -> None:
    """How batch normalisation finds its mean and variance in training.

    Args:
        model: its `BatchNormReLU` layers are set.
        mode: "local" from the process's own batch, "sync" from the batches of all processes, "frozen" the running
            ones, which then stay as they are; weights and biases are trained all the same.
    """
    for module in model.modules():
        if isinstance(module, BatchNormReLU):
            module.frozen = mode == "frozen"
            module.all_sums = all_sums if mode == "sync" else None


class Environment(ClusterEnvironment):
    """The processes as Lightning wants to be told; all of them are running."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning has none to start."""
        return True

    @property
    def main_address(self) -> str:
        """Where rank 0 is met."""
        return self.ranks.address

    @property
    def main_port(self) -> int:
        """Its port."""
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        """It is always given."""
        return False

    def world_size(self) -> int:
        """All processes."""
        return self.ranks.n

    def set_world_size(self, size: int) -> None:
        """It is known already."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known already."""

    def local_rank(self) -> int:
        """Number of this process on its node."""
        return self.ranks.local_rank

    def node_rank(self) -> int:
        """Number of this node."""
        return self.ranks.node


def check_devices(config: Config, ranks: Ranks) -> None:
    """Raise ConfigError for what cannot be done: more processes than GPUs, nccl or 16-mixed on a CPU, LBFGS shared."""
    train, kind = config.train, device_of(config).type
    if train.precision == "16-mixed" and kind == "cpu":
        raise ConfigError("train.precision = 16-mixed needs a GPU. Fix: bf16-mixed or 32")
    if train.distributed_backend == "nccl" and kind == "cpu":
        raise ConfigError("train.distributed_backend = nccl needs GPUs. Fix: auto, or gloo")
    if ranks.n > 1 and config.optimizer is not None and config.optimizer.name == "LBFGS":
        # It ends a step by the loss, which each process knows of its own batch alone.
        raise ConfigError("optimizer: LBFGS trains in one process. Fix: --devices 1, or another optimizer")
    if kind == "cuda" and ranks.n_local > torch.cuda.device_count():
        raise ConfigError(
            f"{ranks.n_local} processes on this node, which shows {torch.cuda.device_count()} GPUs. Fix: as many "
            "--devices as GPUs (Slurm: --gpus-per-node, which each task sees all of), or train.accelerator: cpu"
        )


def check_precision(config: Config, model: nn.Module) -> None:
    """Raise ConfigError for a backend that does not compute in ``train.precision``."""
    backends = {module.convolve.__module__ for module in model.modules() if isinstance(module, InputLayer)}
    precision = config.train.precision
    if "train.sparse.sparseconvnet" in backends and precision != "32":
        raise ConfigError(f"train.precision = {precision}: sparseconvnet computes in float32. Fix: 32")
    if "train.sparse.spconv" in backends and precision == "bf16-mixed":
        raise ConfigError(
            "train.precision = bf16-mixed: spconv computes in float16. Fix: 16-mixed, or train.backend: native"
        )


def trainer_arguments(config: Config, ranks: Ranks) -> dict[str, Any]:
    """Arguments of `lightning.Trainer` about devices; its ``plugins`` are to be extended, not replaced."""
    train = config.train
    arguments: dict[str, Any] = {
        "accelerator": train.accelerator,
        "devices": ranks.n_local,
        "num_nodes": ranks.n_nodes,
        "precision": {"32": "32-true"}.get(train.precision, train.precision),
        "plugins": [Environment(ranks)],
    }
    if ranks.n > 1:
        chosen = train.distributed_backend
        backend = ("nccl" if device_of(config).type == "cuda" else "gloo") if chosen == "auto" else chosen
        # Running averages of batches of their own differ between processes: those of rank 0 hold, as in its checkpoint.
        buffers: dict[str, Any] = {} if train.batch_norm == "local" else {_FORWARD_SYNC: False}
        arguments["strategy"] = DDPStrategy(process_group_backend=backend, timeout=TIMEOUT, **buffers)
    return arguments


@contextmanager
def keeping_threads(threads: int) -> Iterator[None]:
    """Keep Lightning from setting torch's threads anew, which would change those of the kernels too."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


@contextmanager
def telling_losses_of_processes(ranks: Ranks) -> Iterator[None]:
    """Raise LostProcessError where a sum failed because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if size() == 1 or not (
            isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text or "connection" in text
        ):
            raise
        raise LostProcessError(
            f"rank {ranks.rank} lost another process of {ranks.n}. Fix: see its own error (out_RANK.log, or the job's "
            "output), then go on with --resume"
        ) from error
