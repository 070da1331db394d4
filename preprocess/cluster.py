"""The Dask cluster that a run uses: worker processes on this machine, one thread each."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from larstore.errors import ConfigError

# A dying worker takes its task's first and only execution with it: `run` decides what happens then, in a new block.
SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.logging.distributed": "error",
}


def _ignore_interrupt() -> None:
    """On a worker: Ctrl-C in a terminal reaches it too, but only the coordinator acts on it, and ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def make_cluster(
    profile: str = "local", workers: int | None = None, threads: int = 1, **options: Any
) -> Iterator[Client]:
    """A client of a new cluster, closed at the end.

    Args:
        profile: "local"; other kinds of clusters are not there yet.
        workers: worker processes; None = one for each core, or for each ``threads`` cores.
        threads: threads that a worker will use for an event; Dask itself gives it one task at a time.
        options: further arguments of ``distributed.LocalCluster``; a ``dashboard_address`` such as ":8787" is one on
            this host alone, without it there is none.

    Raises:
        ConfigError: an unknown profile, or fewer than one worker.
    """
    if profile != "local":
        raise ConfigError(f"--cluster {profile}: unknown. Fix: 'local' is the only kind of this version")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: Fix: at least 1")
    if threads < 1:
        raise ConfigError(f"--threads {threads}: Fix: at least 1")
    workers = workers or max(1, CPU_COUNT // threads)
    arguments = {"n_workers": workers, "threads_per_worker": 1, "processes": True} | options
    address = arguments.get("dashboard_address")
    if address is None:
        # The scheduler's web server listens even without a dashboard: on a free port, as a taken one gives a warning.
        arguments |= {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    elif str(address).startswith(":"):
        arguments["dashboard_address"] = f"127.0.0.1{address}"
    with (
        dask.config.set(SETTINGS),
        LocalCluster(host="127.0.0.1", **arguments) as cluster,
        Client(cluster) as client,
    ):
        if arguments["processes"]:
            client.register_worker_callbacks(_ignore_interrupt)
        yield client
