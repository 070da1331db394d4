"""Starts a cluster of any kind and gives a client of it, with the keeper of its workers; ends both."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Scheduler, SpecCluster
from distributed.security import Security

from larstore.errors import ClusterError, ConfigError
from preprocess.cluster.batch_jobs import BatchJobs, refusal
from preprocess.cluster.batch_script import as_batch, worker_script
from preprocess.cluster.clients import SETTINGS, ClusterClient, existing_client, local_client
from preprocess.cluster.config import (
    BatchConfig,
    ClusterConfig,
    ExistingConfig,
    LocalConfig,
    RemoteConfig,
    SshConfig,
    load_cluster,
)
from preprocess.cluster.job_keeper import JobKeeper
from preprocess.cluster.jobs import Launcher
from preprocess.cluster.keys import temporary_keys
from preprocess.cluster.ssh import SshJobs, inherited
from preprocess.config import parse_workers

Range = tuple[int, int]


@contextmanager
def make_cluster(
    profile: str | Path | ClusterConfig = "local",
    workers: int | str | Range | None = None,
    threads: int = 1,
    **options: Any,
) -> Iterator[ClusterClient]:
    """A client of a new cluster, closed at the end.

    Args:
        profile: what `load_cluster` takes or gives: "local", the path of a profile, or a scheduler's address.
        workers: worker processes, or MIN and MAX (or "MIN:MAX") between which as many are kept as are of use; None =
            the profile's. On this machine, by default one for each core, or for each ``threads`` cores.
        threads: threads that a worker will use for an event; Dask itself gives a local worker one task at a time.
        options: further arguments of ``distributed.LocalCluster``, for "local" alone; a ``dashboard_address`` such as
            ":8787" is one on this host alone, without it there is none.

    In a script, call it below ``if __name__ == "__main__":``: local workers are new processes that import the script.

    Raises:
        ConfigError: a profile that is unknown or wrong, fewer than one worker, or a script without that line.
        ClusterError: a batch system that is not there or refuses the job; a scheduler that does not answer.
    """
    config = profile if isinstance(profile, ClusterConfig) else load_cluster(profile)
    bounds = worker_bounds(config, workers, threads)
    if options and not isinstance(config, LocalConfig):
        raise ConfigError(f"options {', '.join(options)}: are of local clusters. Fix: keys of the cluster's profile")
    with dask.config.set(SETTINGS):
        match config:
            case LocalConfig():
                with local_client(config, *bounds, options) as client:
                    yield client
            case ExistingConfig():
                with existing_client(config) as client:
                    yield client
            case RemoteConfig():
                with _remote_client(config, bounds, threads) as client:
                    yield client


def worker_bounds(config: ClusterConfig, workers: int | str | Range | None, threads: int) -> Range:
    """The least and the most workers that `make_cluster` would keep for these arguments."""
    if threads < 1:
        raise ConfigError(f"--threads {threads}: Fix: at least 1")
    if workers is None:
        default = len(config.hosts) if isinstance(config, SshConfig) else 1
        if isinstance(config, LocalConfig):
            default = max(1, CPU_COUNT // threads)
        workers = config.workers or (default, default)
    least, most = _pair(workers)
    if most < 1 or not 0 <= least <= most:
        raise ConfigError(f"--workers {workers}: Fix: at least 1, or MIN:MAX with MAX from 1 and not below MIN")
    if isinstance(config, SshConfig) and most > len(config.hosts):
        raise ConfigError(f"--workers {workers}: hosts are {len(config.hosts)}. Fix: name hosts more than once")
    return least, most


def _pair(workers: int | str | Range) -> Range:
    try:
        bounds: int | Range = parse_workers(workers) if isinstance(workers, str) else workers
    except ValueError as error:
        raise ConfigError(f"workers {workers!r}: Fix: a number, or MIN:MAX ({error})") from error
    return (bounds, bounds) if isinstance(bounds, int) else bounds


def slots_of(config: RemoteConfig, threads: int) -> int:
    """Tasks that a worker does at once."""
    if config.tasks is not None:
        return config.tasks
    return max(1, config.cores // threads) if isinstance(config, BatchConfig) else 1


def tasks_at_once(config: ClusterConfig, threads: int) -> int | None:
    """Tasks that each worker of `make_cluster` would do at once; None where that is for a scheduler's owner to say."""
    if isinstance(config, RemoteConfig):
        return slots_of(config, threads)
    return 1 if isinstance(config, LocalConfig) else None


@contextmanager
def _remote_client(config: RemoteConfig, bounds: Range, threads: int) -> Iterator[ClusterClient]:
    """Of a scheduler in this process, and workers elsewhere."""
    slots = slots_of(config, threads)
    if isinstance(config, BatchConfig) and (reason := refusal(config, slots)):
        raise ClusterError(reason)
    with ExitStack() as stack:
        security = stack.enter_context(temporary_keys(config.keys_directory)) if config.tls else None
        if isinstance(config, SshConfig):
            stack.enter_context(dask.config.set(inherited(security)))
        cluster = stack.enter_context(_scheduler(config, security))
        address = str(cluster.scheduler.address)
        launcher: Launcher
        if isinstance(config, BatchConfig):
            launcher = BatchJobs(config, slots, address, security)
        elif isinstance(config, SshConfig):
            launcher = SshJobs(config, slots, address, cluster.loop.asyncio_loop)
        else:
            raise ConfigError(f"kind {config.kind}: unknown. Fix: see load_cluster")
        client = stack.enter_context(ClusterClient(cluster))
        dashboard = None
        if config.dashboard is not False:
            dashboard = f"http://127.0.0.1:{cluster.scheduler.services['dashboard'].port}/status"
        client.keeper = JobKeeper(cluster, launcher, config, *bounds, dashboard)
        stack.callback(client.keeper.close)
        yield client


def _scheduler(config: RemoteConfig, security: Security | None) -> Any:
    """A cluster of no workers: its scheduler listens to other hosts, its web server to this one."""
    port = 0 if isinstance(config.dashboard, bool) else config.dashboard
    options = {
        "protocol": "tls://" if security else "tcp://",
        "security": security,
        "interface": None if config.host else config.interface,
        "host": config.host,
        "port": config.port,
        "dashboard": config.dashboard is not False,
        "dashboard_address": f"127.0.0.1:{port}",
    }
    # What its log would say of lost workers, the keeper's notes say with their reasons.
    return SpecCluster(
        workers={}, scheduler={"cls": Scheduler, "options": options}, security=security, silence_logs="critical"
    )


def job_script(config: ClusterConfig, workers: Any = None, threads: int = 1) -> str:
    """The script of each worker's job, as a dry run shows it; nothing is made or submitted for it.

    Raises ConfigError if the profile is of no batch system. ``workers`` does not change it.
    """
    batch = as_batch(config)
    return worker_script(batch, slots_of(batch, threads))
