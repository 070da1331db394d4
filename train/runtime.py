"""Around a run: where its log goes, how many threads it uses, which versions it was made with."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import llvmlite.binding
import numba
import torch

from larstore.cores import cores
from larstore.errors import ConfigError
from train.schema import Config
from train.sparse import kernels

LOG = logging.getLogger("larstore.train")
VERSIONS = ("larstore", "torch", "lightning", "numpy", "numba", "torchmetrics")

# Remarks of Lightning about what is meant, each with the reason.
REMARKS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # its own use of a deprecated torch name
    r".*IterableDataset.*has.*__len__.*",  # our loader's length is right, also with workers
    r".*does not have many workers.*",  # 0 is our default: the store decodes in threads
    r"You defined a `validation_step` but have no `val_dataloader`.*",  # no inference_i: no validation
    r".*GPU available but not used.*",  # train.accelerator: cpu
    r"Found \d+ module\(s\) in eval mode at the start of training.*",  # frozen normalisations
    r"The `srun` command is available.*",  # one process is what was asked for
)


@contextmanager
def log_to(handler: logging.Handler) -> Iterator[None]:
    """Send our log to ``handler`` for a while."""
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        handler.close()


@contextmanager
def log_to_stderr(verbose: bool, rank: int = 0) -> Iterator[None]:
    """Show our log on stderr for a while; of several processes, that of the first one."""
    level = LOG.level
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        with log_to(logging.NullHandler() if rank else logging.StreamHandler(sys.stderr)):
            yield
    finally:
        LOG.setLevel(level)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Silence what Lightning would add to our log, for a while."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in REMARKS:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def device_of(config: Config) -> torch.device:
    """Where a configuration lets the network work. Raises ConfigError for a GPU that is not there."""
    cuda = config.train.accelerator != "cpu" and torch.cuda.is_available()
    if config.train.accelerator == "gpu" and not cuda:
        raise ConfigError("train.accelerator = gpu: torch finds no GPU here. Fix: auto, or cpu")
    return torch.device("cuda" if cuda else "cpu")


@contextmanager
def compute_threads(wanted: int | None, backend: str = "native") -> Iterator[int]:
    """Set the threads of the backend's kernels for a while: as wanted, or the cores this process may use.

    Beside the native backend torch has one thread: what it does there is small, two pools of threads would take the
    cores from each other, and the order of its sums would depend on their number.
    """
    threads = wanted or cores()
    before = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    kernels.start_threads()  # which sets torch's number where both share a library; never again
    torch.set_num_threads(threads if backend == "sparseconvnet" else 1)
    try:
        yield threads
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in VERSIONS}}


def other_versions(then: dict[str, str]) -> list[str]:
    """What changed since a checkpoint was written, a line each."""
    now = versions()
    return [
        f"{name} is {now.get(name)}, the checkpoint was made with {before}: results may differ"
        for name, before in then.items()
        if before != now.get(name)
    ]


def machine(config: Config, threads: int, ranks: int = 1) -> dict[str, Any]:
    """What else the last bits of a result depend on, as plain values."""
    device = device_of(config)
    return {
        "threads": threads,
        "ranks": ranks,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "CPU": f"{llvmlite.binding.get_host_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def other_machine(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """As `other_versions`, of two `machine`."""
    return [
        f"{name}: {now[name]} now, {before} when the checkpoint was made: results may differ in their last bits"
        for name, before in then.items()
        if name in now and now[name] != before
    ]
